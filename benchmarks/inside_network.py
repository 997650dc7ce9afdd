"""What replay saves where schemes differ from a quantized network in one layer, as those do that ``tune`` compares.

    python -m benchmarks.inside_network DATA [--nets yolo_fastest_1_1_xl fastestdet] [--rounds 2]

DATA holds ``weights/`` and ``tiny_coco/``, as the project's shared data do. All layers are in int8; in each scheme one
of every second layer is back in float. Outputs are compared on one batch, in full and replayed by turns. Prints CPU
seconds of one thread, and fails where the sums of the two differ in one bit.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

import torch

import sensitivity as sv
from benchmarks.real_nets import real_nets
from sensitivity.perturb.perturber import Perturber
from sensitivity.search.assignment import Assignment
from sensitivity.search.noise import OutputNoise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--nets", nargs="+", default=["yolo_fastest_1_1_xl", "fastestdet"])
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | schemes | in full, CPU s | replayed, CPU s | ratio |\n|---|---|---|---|---|")
    for name in options.nets:
        net = real_nets()[name]
        wrapped, batch = net.wrapped(options.data), next(iter(net.split(options.data, "val").batches()))
        calibration = wrapped.calibrate(net.split(options.data, "train"), sv.INT8, progress=False)
        run = functools.partial(wrapped.model, *batch.inputs)
        noise = OutputNoise(wrapped.model, Perturber(wrapped.model, [calibration]), [(run, len(batch.images))])
        network: Assignment = dict.fromkeys(wrapped.layers, sv.INT8)
        schemes: list[Assignment] = [
            {layer: sv.INT8 for layer in network if layer is not free} for free in list(network)[::2]
        ]
        for _ in range(options.rounds):
            full_s, full = seconds(noise, schemes, None)
            replayed_s, replayed = seconds(noise, schemes, network)
            if full != replayed:
                raise SystemExit(f"{name}: replay inside the network gives other sums")
            print(
                f"| {name} | {len(schemes)} | {full_s:.1f} | {replayed_s:.1f} | {replayed_s / full_s:.2f} |", flush=True
            )


def seconds(noise: OutputNoise, schemes: list[Assignment], network: Assignment | None) -> tuple[float, list[float]]:
    """CPU seconds of a comparison, and the noise of each scheme."""
    started = time.process_time()
    fidelities = noise.of(schemes, replay=network is not None, network=network)
    return time.process_time() - started, [fidelity.noise for fidelity in fidelities if fidelity is not None]


if __name__ == "__main__":
    main()
