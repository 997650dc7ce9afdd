"""What calibration costs: EfficientViT-SAM-L0's image encoder at 512, random weights, against plain inference.

    python benchmarks/calibration.py --images 100

Time: every image runs through the model that is being calibrated and through a plain copy, one right after the other;
the figures are medians of the 100 pairs' ratios, in time of the process and on the clock, and the ratio of the sums
with all that comes before and after the pass. Memory: each arm in a process of its own, how much further the resident
set rises than in plain inference. One thread. Prints JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import sensitivity as sv
import sensitivity.perturb.calibration.calibrate as calibration
from sensitivity.contracts import Observer
from sensitivity.perturb.restore import untouched
from sensitivity.quantize.observers import make_observer
from sensitivity.zoo import efficientvit_sam

SPECS = {
    "minmax": sv.QuantSpec("int8"),
    "sampled histogram": sv.QuantSpec("int8", observer="percentile", sample_every=8),
    "full histogram": sv.QuantSpec("int8", observer="percentile"),
    "full signed histogram": sv.QuantSpec("int8", observer="mse"),
}
BARS = {"minmax": 1.1, "sampled histogram": 1.1, "full histogram": 1.45, "full signed histogram": 1.45}
MEMORY_BAR_MB, STATE_BAR_MB = 64.0, 1.0


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return efficientvit_sam.build("l0").image_encoder.eval()


def images(count: int) -> Iterator[Tensor]:
    for seed in range(count):
        yield torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(seed))


def now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def measure_time(arm: str, count: int) -> dict[str, Any]:
    """Pairs of passes on the same image: one inside the calibration, one of a plain model with the same weights."""
    model, plain = encoder(), encoder()
    wrapped = sv.wrap(model, next(images(1)))
    made: list[Observer] = []

    def observed(spec: sv.QuantSpec) -> Observer:
        made.append(make_observer(spec))
        return made[-1]

    patch.object(calibration, "make_observer", observed).start()
    inside: list[tuple[float, float]] = []
    outside: list[tuple[float, float]] = []

    def timed(run: Callable[[], Any], into: list[tuple[float, float]]) -> None:
        start = now()
        run()
        into.append((now()[0] - start[0], now()[1] - start[1]))

    def runs() -> Iterator[tuple[Callable[[], Any], int]]:
        for number, x in enumerate(images(count)):
            if number % 2:  # each goes first half of the time
                timed(lambda x=x: plain(x), outside)  # type: ignore[misc]
            yield lambda x=x: timed(lambda: model(x), inside), 1  # type: ignore[misc]
            if not number % 2:
                timed(lambda x=x: plain(x), outside)  # type: ignore[misc]

    recipe = sv.Recipe(arm, activations=SPECS[arm])
    with torch.no_grad(), untouched(plain):
        plain(next(images(1)))
        start = now()
        calibration.calibrate(model, wrapped.layers, [recipe], runs())
        whole = now()[0] - start[0]
    ratios = [[a[i] / b[i] for a, b in zip(inside, outside, strict=True)] for i in (0, 1)]
    plain_cpu = sum(cpu for cpu, _ in outside)
    return {
        "cpu_ratio": round(statistics.median(ratios[0]), 3),
        "wall_ratio": round(statistics.median(ratios[1]), 3),
        "cpu_ratio_of_sums_with_start_and_end": round((whole - plain_cpu) / plain_cpu, 3),
        "plain_ms_an_image": round(1e3 * plain_cpu / count, 1),
        "state_mb": round(sum(len(pickle.dumps(calibrator)) for calibrator in made) / 1e6, 3),
        "observers": len(made),
    }


def measure_memory(arm: str, count: int) -> float:
    """How far the resident set of this process rises in MB while the images run, after one pass to warm up."""
    model = encoder()
    wrapped = sv.wrap(model, torch.zeros(1, 3, 512, 512))
    with torch.no_grad(), untouched(model):
        model(next(images(1)))
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = forget_peak()
        if arm == "plain":
            for x in images(count):
                model(x)
        else:
            wrapped.calibrate(images(count), sv.Recipe(arm, activations=SPECS[arm]), progress=False)
    return peak_mb() - before


def forget_peak() -> float:
    """Let the kernel's record of the highest resident set (Linux) start anew; what it is now, in MB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_mb()


def peak_mb() -> float:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


def in_process(*arguments: str) -> Any:
    """Run this file with other arguments.

    Large blocks always come from the system and return to it: where glibc may choose, the resident set of the same run
    differs by up to 200 MB from process to process, in plain inference as well.
    """
    command, environment = [sys.executable, __file__, *arguments], os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--arms", nargs="+", choices=SPECS, default=list(SPECS))
    parser.add_argument("--only-memory-of", choices=["plain", *SPECS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only_memory_of:
        print(json.dumps(measure_memory(options.only_memory_of, options.images)))
        return
    memory = {a: in_process("--only-memory-of", a, "--images", str(options.images)) for a in ("plain", *options.arms)}
    print(json.dumps({"images": options.images, "plain_pass_takes_mb": round(memory["plain"], 1)}))
    for arm in options.arms:
        measured = measure_time(arm, options.images)
        measured["peak_above_plain_mb"] = round(memory[arm] - memory["plain"], 1)
        measured["within_bars"] = (
            measured["cpu_ratio"] <= BARS[arm]
            and measured["peak_above_plain_mb"] <= MEMORY_BAR_MB
            and measured["state_mb"] < STATE_BAR_MB
        )
        print(json.dumps({"arm": arm} | measured), flush=True)


if __name__ == "__main__":
    main()
