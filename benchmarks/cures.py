"""What cures are worth: scores of trained networks, wholly quantized, with and without each cure.

    python -m benchmarks.cures --data ../shared/data --nets yolo_fastest_1_1_xl

Calibrated on the 50 training images of tiny_coco and scored on its 50 validation images: differences below a point are
chance. ``calibration`` is the time of the calibration's pass; ``statistics`` is what the cures keep of the inputs of
all layers in it. One thread. Prints Markdown, a row as soon as it is there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import sensitivity as sv
from benchmarks.real_nets import RealNet, real_nets

BITS4 = sv.Recipe("int4 weights", weights=sv.QuantSpec("int4", "per-channel"))
BITS4_MSE = sv.Recipe("int4 weights, mse", weights=sv.QuantSpec("int4", "per-channel", observer="mse"))
BITS8 = sv.Recipe("int8", weights=sv.QuantSpec("int8", "per-channel"), activations=sv.QuantSpec("int8"))
CURES: tuple[dict[str, Any], ...] = (
    {},
    {"bias_correction": True},
    {"rounding": "compensated"},
    {"bias_correction": True, "rounding": "compensated"},
)


def recipes() -> Iterator[sv.Recipe]:
    """Each recipe bare and with every choice of cures."""
    for bare in (BITS4, BITS4_MSE, BITS8):
        for cures in CURES:
            yield bare.cured(**cures)


def row(wrapped: sv.Wrapped, net: RealNet, data: Path, recipe: sv.Recipe) -> str:
    """One line of the table."""
    calibration, seconds, megabytes = None, 0.0, 0.0
    if recipe.needs_calibration:
        started = time.perf_counter()
        calibration = wrapped.calibrate(net.split(data, "train"), recipe)
        seconds = time.perf_counter() - started
        if calibration.statistics is not None:
            megabytes = sum(array.nbytes for _, array in calibration.statistics.named_arrays()) / 1e6
    score = wrapped.evaluate(net.split(data, "val"), sv.Scheme.all(recipe), calibration=calibration)
    return f"| {net.name} | {recipe.name} | {score.value:.4f} | {seconds:.1f} s | {megabytes:.1f} MB |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with weights/ and tiny_coco/")
    parser.add_argument("--nets", nargs="+", choices=tuple(real_nets()), default=["yolo_fastest_1_1_xl"])
    parser.add_argument("--equalized", action="store_true", help="equalize the networks first")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | recipe | score | calibration | statistics |\n|---|---|---|---|---|")
    for name in options.nets:
        net = real_nets()[name]
        wrapped = net.wrapped(options.data)
        if options.equalized:
            net, wrapped = replace(net, name=f"{name}, equalized"), wrapped.equalized()
        score = wrapped.evaluate(net.split(options.data, "val")).value
        print(f"| {net.name} | fp32 | {score:.4f} | | |", flush=True)
        for recipe in recipes():
            print(row(wrapped, net, options.data, recipe), flush=True)


if __name__ == "__main__":
    main()
