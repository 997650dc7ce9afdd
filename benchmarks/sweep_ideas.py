"""What else could make a sweep cheaper, and whether it would change bits: measured on the plain pass.

    python benchmarks/sweep_ideas.py fastestdet --batch 8

Replay leaves out a part of each pass; what makes a whole pass cheaper makes the rest of it cheaper as well. For each
idea a plain pass as it is and one changed are timed in turn, in CPU time of one thread, and the median of the ratios is
given with the largest difference of the outputs relative to their range. ``stacked`` runs the images of two variants as
one batch, as batching variants behind a common cut would: its ratio is per image. ``operators_watched`` is what looking
every torch function up costs. ``malloc`` runs the same pass in a process that keeps freed memory. Prints JSON.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.replay import MODELS, seconds
from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.sweep.replay.watching import Watching

KEEPS_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_MMAP_THRESHOLD_": str(2**34)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--time-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, size = MODELS[options.model]
    model = make().eval()
    x = torch.randn(options.batch, 3, size, size)
    with torch.no_grad():
        if options.time_only:
            model(x)
            print(statistics.median(seconds(lambda: model(x)) for _ in range(options.repeats)))
            return
        compared_ideas = {name: compared(model, x, change, options.repeats) for name, change in IDEAS.items()}
    compared_ideas["malloc"] = malloc(options)
    print(json.dumps({"model": options.model, "batch": options.batch, "ideas": compared_ideas}))


def channels_last(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    other, images = copy.deepcopy(model), x.to(memory_format=torch.channels_last)
    other.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs do not know it
    return lambda: other(images)


def folded(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    other = with_folded_norms(model)
    return lambda: other(x)


def folded_channels_last(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    return channels_last(with_folded_norms(model), x)


def stacked(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    images = torch.cat([x, x])
    return lambda: model(images)


def watched(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    class Through(Watching):
        def call(self, original: Any, module: nn.Module, args: Any, kwargs: Any) -> Any:
            return self.run(original, module, args, kwargs)

        def operate(self, function: Any, args: Any, kwargs: Any) -> Any:
            return function(*args, **kwargs)

    def run() -> Any:
        modules = {id(module) for module in model.modules()}
        with Through(modules, modules).watching():
            return model(x)

    return run


IDEAS = {
    "channels_last": channels_last,
    "folded_norms": folded,
    "folded_norms_channels_last": folded_channels_last,
    "stacked": stacked,
    "operators_watched": watched,
}


def with_folded_norms(model: nn.Module) -> nn.Module:
    """A copy in which each batch norm that directly follows a convolution in a container is folded into it."""
    other = copy.deepcopy(model)
    for container in other.modules():
        children = list(container.named_children())
        for (name, conv), (after, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(container, name, fuse_conv_bn_eval(conv, norm))
                setattr(container, after, nn.Identity())
    return other


def compared(model: nn.Module, x: Tensor, change: Callable[..., Callable[[], Any]], repeats: int) -> dict[str, Any]:
    run = change(model, x)
    expected, computed = list(tensors_in(model(x))), list(tensors_in(run()))
    times = len(computed[0]) / len(expected[0])
    parts = [(e.double(), f[: len(e)].double()) for e, f in zip(expected, computed, strict=True)]
    ratios = [times * seconds(lambda: model(x)) / seconds(run) for _ in range(repeats)]
    return {
        "speedup": round(statistics.median(ratios), 3),
        "same_bits": all(torch.equal(e, f) for e, f in parts),
        "largest_difference": float(max((e - f).abs().max() / (e.max() - e.min()) for e, f in parts)),
    }


def malloc(options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, options.model, "--batch", str(options.batch), "--time-only"]

    def once(settings: dict[str, str]) -> float:
        done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
        return float(done.stdout)

    ratios = [once({}) / once(KEEPS_MEMORY) for _ in range(3)]
    return {"speedup": round(statistics.median(ratios), 3), "same_bits": True, "largest_difference": 0.0}


if __name__ == "__main__":
    main()
