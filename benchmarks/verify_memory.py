"""Peak memory of deploying and verifying a chain of convolutions, in multiples of its weights.

    python benchmarks/verify_memory.py
    python benchmarks/verify_memory.py --layers 32 --channels 512 --samples 4

The network is deployed on OpenVINO in int8 and verified on tensors of the example's size. For each step the script
prints the peak of the memory that the process holds (Linux's VmHWM, reset before the step), less what Python and the
packages had taken before the model was made, and the CPU time of the step. Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnxscript  # noqa: F401 - imported first, so that it does not count as the model's
import openvino  # noqa: F401
import torch
from torch import nn

import sensitivity as sv

SIDE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--samples", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(measure(options.layers, options.channels, options.samples), indent=1))


def measure(layers: int, channels: int, samples: int) -> dict[str, object]:
    torch.manual_seed(0)
    deployed_and_verified(chain(3, 8), 1)  # what the packages load when they are first used
    before = peak_bytes()
    model = chain(layers, channels)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    steps = deployed_and_verified(model, samples)
    times = {name: (peak - before) / weights for name, (peak, _) in steps.items()}
    return {
        "weights_megabytes": round(weights / 1e6),
        "peak_in_multiples_of_the_weights": {name: round(multiple, 1) for name, multiple in times.items()},
        "cpu_s": {name: round(seconds, 1) for name, (_, seconds) in steps.items()},
    }


def chain(layers: int, channels: int) -> nn.Sequential:
    blocks: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
    for _ in range(layers - 1):
        blocks += [nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)]
    return nn.Sequential(*blocks).eval()


def deployed_and_verified(model: nn.Module, samples: int) -> dict[str, tuple[int, float]]:
    """Peak of each step in bytes, and its CPU time in seconds."""
    images = [torch.rand(1, 3, SIDE, SIDE) for _ in range(samples)]
    steps: dict[str, tuple[int, float]] = {}

    @contextlib.contextmanager
    def step(name: str) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")
        started = time.process_time()
        yield
        steps[name] = peak_bytes(), time.process_time() - started

    recipe = sv.recipe_for("openvino")
    with step("calibrate"):
        wrapped = sv.wrap(model, images[0])
        calibration = wrapped.calibrate(images, recipe, progress=False)
    with step("deploy"):
        deployed = wrapped.deploy(sv.Scheme.all(recipe), "openvino", calibration=calibration, threads=1)
    with step("verify"):
        verification = wrapped.verify(
            deployed, sv.FeatureFidelity([image[0] for image in images]), samples=samples, progress=False
        )
    disagree = [check.layer for check in verification.layers if check.status != "verified"]
    if disagree:
        print(f"not verified: {', '.join(disagree)}", file=sys.stderr)
    return steps


def peak_bytes() -> int:
    """The largest memory that the process held, in bytes."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
