"""Weights rounded to 4 bits: by this library's compensation and by AIMET's AdaRound, on the same images.

    python -m benchmarks.peers.rounding DATA --work FOLDER [--nets fastestdet ...] [--views 20] [--steps 200]

Weights alone are quantized, so that every row is a float network whose weights 4 bits can hold, and any CPU computes
the same. Folder, images and scores are those of ``benchmarks.peers``. Prints the table in Markdown; ``CPU seconds``
include the ranges, ``layers in int8`` and ``time of fp32`` say nothing here.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

import sensitivity as sv
from benchmarks.peers.bench import Bench
from benchmarks.peers.environments import PEERS
from benchmarks.peers.rows import our_row, peer_row, table
from benchmarks.real_nets import real_nets

NEAREST = sv.Recipe("int4 weights, mse", weights=sv.QuantSpec("int4", "per-channel", observer="mse"))
OURS = {
    "sensitivity 4-bit weights, nearest": NEAREST,
    "sensitivity 4-bit weights, compensated": NEAREST.cured(rounding="compensated"),
    "sensitivity 4-bit weights, compensated and bias corrected": NEAREST.cured(
        rounding="compensated", bias_correction=True
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for environments and results")
    parser.add_argument("--nets", nargs="+", choices=real_nets(), default=["fastestdet"])
    parser.add_argument("--views", type=int, default=20, help="of each image (default: %(default)s, 1,000 in all)")
    parser.add_argument("--steps", type=int, choices=(50, 200), default=200, help="of AdaRound, for each layer")
    parser.add_argument("--limit-s", type=int, default=3600, help="CPU seconds for AIMET (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.nets:
        bench = Bench(name, arguments.data, arguments.work, arguments.views, max_drop=0.0)
        bench.prepare()
        rows.append(bench.row("fp32", bench.float_file, {"seconds": 0.0, "lines": 0}))
        for label, recipe in OURS.items():
            rows.append(our_row(bench, label, partial(_everywhere, bench, recipe)))
        for variant in ("4-bit weights, nearest", f"4-bit weights, AdaRound, {arguments.steps} steps"):
            rows.append(peer_row(bench, PEERS["AIMET"], variant, arguments.limit_s))
    print(table(rows))


def _everywhere(bench: Bench, recipe: sv.Recipe) -> tuple[sv.Wrapped, sv.Scheme]:
    return bench.wrapped, sv.Scheme.all(recipe)


if __name__ == "__main__":
    main()
