"""What ``wrapped.tune`` and ``wrapped.diagnose`` make of the trained networks of the project's shared data.

Prints the diagnosis and every step of the search, writes both pictures for each network, and ends with a table of all
networks. Seconds of the processor are printed beside those of the clock, which count what else the machine runs:

    OMP_NUM_THREADS=1 python -m benchmarks.tune --data DATA --nets yolo_fastest_1_1_xl --out OUT
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path
from typing import Any

import torch

import sensitivity as sv
from benchmarks.real_nets import real_nets

DIAGNOSED_BATCHES = 1

COLUMNS = (
    "network", "metric", "fp32", "simulated", "drop in points", "engine", "layers in int8", "recipes", "met", "passes",
    "CPU s", "clock s",
)  # fmt: skip
HEAD, RULE = f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"


def main() -> None:
    """Diagnose and tune each network that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of weights/ and tiny_coco/")
    parser.add_argument("--nets", nargs="+", default=["yolo_fastest_1_1_xl"], help="names (default: %(default)s)")
    parser.add_argument("--max-drop", type=float, default=0.5, help="in points (default: %(default)s)")
    parser.add_argument("--engine", default="openvino", help="engine to tune for (default: %(default)s)")
    parser.add_argument("--skip-diagnosis", action="store_true", help="tune alone")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows = [HEAD, RULE]
    for name in options.nets:
        net = real_nets()[name]
        wrapped = net.wrapped(options.data)
        val, train = net.split(options.data, "val"), net.split(options.data, "train")
        if not options.skip_diagnosis:
            diagnose(wrapped, train, options.out / f"{name}-diagnosis.png")
        processor, clock = processor_s(), time.perf_counter()
        tuned = wrapped.tune(val, max_drop=options.max_drop, engine=options.engine, calibration=train, progress=False)
        processor, clock = processor_s() - processor, time.perf_counter() - clock
        rows.append(row(tuned, processor, clock))
        print(f"{tuned}\n{processor:.0f} s of the processor, {clock:.0f} s by the clock\n", flush=True)
        tuned.plot(options.out / f"{name}-path.png")
        tuned.save(options.out / f"{name}.json")
    print("\n".join(rows))


def processor_s() -> float:
    """Seconds of the processor that this process and those that it started have taken."""
    return sum(os.times()[:4])


def row(tuned: sv.Tuned, processor: float, clock: float) -> str:
    """One network as a row of the table."""
    scale = tuned.scale
    interval = (
        ""
        if tuned.drop_low is None or tuned.drop_high is None
        else (f" [{scale * tuned.drop_low:.2f}, {scale * tuned.drop_high:.2f}]")
    )
    on_engine = "" if tuned.engine is None else f"{scale * tuned.engine.score:.2f}"
    recipes = ", ".join(dict.fromkeys(rule.recipe.name for rule in tuned.scheme.rules if rule.recipe is not None))
    cells = [
        tuned.model,
        tuned.metric,
        f"{scale * tuned.baseline.value:.2f}",
        f"{scale * tuned.score.value:.2f}",
        f"{scale * tuned.drop:.2f}{interval}",
        on_engine,
        f"{tuned.quantized} of {len(tuned.layers)}",
        recipes + (", equalized" if tuned.equalized else ""),
        "yes" if tuned.met else "no",
        f"{tuned.passes:.1f}",
        f"{processor:.0f}",
        f"{clock:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def diagnose(wrapped: sv.Wrapped, train: Any, picture: Path) -> None:
    """Ranges from all calibration images, outputs compared on the first batch."""
    batches = list(train.batches())
    images = [batch.inputs[0] for batch in itertools.islice(batches, DIAGNOSED_BATCHES)]
    diagnosis = wrapped.diagnose(images, sv.INT8_MINMAX, calibration=[batch.inputs[0] for batch in batches])
    print(f"{diagnosis}\n", flush=True)
    diagnosis.plot(picture)


if __name__ == "__main__":
    main()
