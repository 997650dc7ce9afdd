"""What ``explain`` tells against what a sweep then costs, in CPU seconds of one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.explained DATA [--nets NAME ...] [--images 8]

DATA holds ``weights/`` and ``tiny_coco/``, as the project's shared data do. ``explain`` reads a clock of wall time;
here it reads CPU time instead, so that other work on the machine counts less. Weights are in int4. Prints a table row
for each network, and the worst ratio.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.small_jobs import CHEAP, NETS, RECIPE, SAM, cpu_seconds, net_and_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=(CHEAP, SAM, "fastestdet"))
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    importlib.import_module("sensitivity.sweep.explain").clock = time.process_time  # type: ignore[attr-defined]
    print("| network | told, s | took, s | told : took |\n|---|---|---|---|")
    ratios = []
    for name in options.nets:
        wrapped, task_of = net_and_task(name, options.data)
        with tempfile.TemporaryDirectory() as folder:
            task = task_of(options.images, Path(folder))
            estimate_s = wrapped.explain(task, RECIPE).seconds
            took = cpu_seconds(lambda: wrapped.analyze(task, RECIPE, workers=None, progress=False))  # noqa: B023
        ratios.append(estimate_s / took)
        print(f"| {name} | {estimate_s:.2f} | {took:.2f} | {estimate_s / took:.2f} |", flush=True)
    print(f"\nfarthest from 1: {max(ratios, key=lambda ratio: abs(ratio - 1)):.2f}")


if __name__ == "__main__":
    main()
