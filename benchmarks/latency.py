"""int8 against float on the engines of this CPU: medians with spreads, and changes of format. Prints a table.

    python -m benchmarks.latency [--threads N] [--rounds N] [NAME ...]

Needs torchvision. Networks have random weights, which changes no time; an image has 224 pixels a side. Every graph is
timed by turns with its counterpart in float, on as many CPUs as threads.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import sensitivity as sv
from sensitivity.records.results.latency import Latency

ENGINES = ("openvino", "onnxruntime-int8")
HEAD = (
    "| network | engine | int8 ms (spread) | float ms (spread) | int8 against float | changes of format (ms) | "
    "changes in float (ms) | dear to protect |\n|---|---|---|---|---|---|---|---|"
)


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        torch.manual_seed(0)
        model: nn.Module = getattr(models, name)(weights=None)
        return model.eval()

    return build


NETS = {
    name: _torchvision(name)
    for name in ("resnet18", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "squeezenet1_1", "vit_b_16")
}


def _words(latency: Latency) -> str:
    if not latency.is_told_apart:
        return "not told apart"
    if latency.speedup >= 1.0:
        return f"{latency.speedup:.2f} times as fast"
    return f"**slower**: {1.0 / latency.speedup:.2f} times as long"


def row(name: str, latency: Latency) -> str:
    """One line of the table."""
    known = latency.circumstances
    assert known is not None
    times = zip((latency.quantized_s, latency.float_s), known.spread_s, strict=True)
    cells = [f"{1e3 * seconds:.2f} ({1e3 * spread:.2f})" for seconds, spread in times]
    changes = [f"{count} ({1e3 * seconds:.2f})" for count, seconds in known.graph_changes]
    dear = f"{len(latency.dear)} of {len(latency.layers)} layers"
    return f"| {name} | {latency.engine} | {' | '.join([*cells, _words(latency), *changes, dear])} |"


def _cpu() -> str:
    """The processor, and whether it multiplies int8 in 32 bits."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    flags = "with VNNI" if "vnni" in text else "without VNNI"
    model = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    return f"{model}, {flags}"


def main() -> None:
    """Print a line for each network and engine, then how they were measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETS), metavar="NAME", help=", ".join(NETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{_cpu()}; threads: {options.threads}, rounds: {options.rounds}\n\n{HEAD}", flush=True)
    counts = {}
    for name in options.names:
        image = torch.randn(1, 3, 224, 224)
        wrapped = sv.wrap(NETS[name](), image, name=name)
        recipe = sv.recipe_for("openvino")
        wrapped.calibrate([image], recipe)
        for engine in ENGINES:
            latency = wrapped.latency(recipe, engine, threads=options.threads, rounds=options.rounds)
            print(row(name, latency), flush=True)
            counts[f"{name} on {engine}"] = list(latency.dear)
    print(f"\nDear to protect, by name: {json.dumps(counts)}")


if __name__ == "__main__":
    main()
