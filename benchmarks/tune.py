"""What ``wrapped.tune`` and ``wrapped.diagnose`` make of the trained networks of the project's shared data.

Prints the diagnosis and every step of the search, and writes both pictures for each network:

    OMP_NUM_THREADS=1 python -m benchmarks.tune --data DATA --nets yolo_fastest_1_1_xl --out OUT
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch

import sensitivity as sv
from benchmarks.real_nets import real_nets

DIAGNOSED_BATCHES = 1


def main() -> None:
    """Diagnose and tune each network that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of weights/ and tiny_coco/")
    parser.add_argument("--nets", nargs="+", default=["yolo_fastest_1_1_xl"], help="names (default: %(default)s)")
    parser.add_argument("--max-drop", type=float, default=0.5, help="in points (default: %(default)s)")
    parser.add_argument("--engine", default="openvino", help="engine to tune for (default: %(default)s)")
    parser.add_argument("--skip-diagnosis", action="store_true", help="tune alone")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in given.nets:
        net = real_nets()[name]
        wrapped = net.wrapped(given.data)
        val, train = net.split(given.data, "val"), net.split(given.data, "train")
        if not given.skip_diagnosis:
            diagnose(wrapped, train, given.out / f"{name}-diagnosis.png")
        tuned = wrapped.tune(val, max_drop=given.max_drop, engine=given.engine, calibration=train, progress=False)
        print(f"{tuned}\n", flush=True)
        tuned.plot(given.out / f"{name}-path.png")
        tuned.save(given.out / f"{name}.json")


def diagnose(wrapped: sv.Wrapped, train: Any, picture: Path) -> None:
    """Ranges from all calibration images, outputs compared on the first batch."""
    batches = list(train.batches())
    images = [batch.inputs[0] for batch in itertools.islice(batches, DIAGNOSED_BATCHES)]
    diagnosis = wrapped.diagnose(images, sv.INT8_MINMAX, calibration=[batch.inputs[0] for batch in batches])
    print(f"{diagnosis}\n", flush=True)
    diagnosis.plot(picture)


if __name__ == "__main__":
    main()
