"""How the costs of large models grow: finding layers, planning a sweep, surveying and recording its first pass.

    python benchmarks/many_layers.py [--layers 250 500 1000 2000]

Three made networks of tiny layers, so that what is timed is the library and not the arithmetic: a plain chain
(convolution, batch norm, ReLU), residual blocks of two convolutions, and transformer blocks of four linear layers.
CPU seconds of one thread, each the least of ``--repeats`` runs. Prints one line of JSON for each network and size:
``wrap_s``; ``variants_s``, all variants of one recipe with their digests; ``survey_s``, the first recorded pass, with
the survey and the reuse plan; ``record_s``, a later one; and ``replay_s``, the mean of replayed passes of 16 layers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.sweep.plan import plan_sweep
from sensitivity.sweep.replay.replayer import Replayer

REPLAYED = 16


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(self.norm(self.first(x)).relu())
        return y


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.project = nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 4)
        self.expand, self.narrow = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.project((query @ key.transpose(1, 2)).softmax(-1) @ value)
        y: Tensor = x + self.narrow(F.gelu(self.expand(x)))
        return y


def plain(layers: int) -> tuple[nn.Module, Tensor]:
    parts = [part for _ in range(layers) for part in (nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())]
    return nn.Sequential(*parts), torch.zeros(1, 4, 4, 4)


def residual(layers: int) -> tuple[nn.Module, Tensor]:
    return nn.Sequential(*(Residual() for _ in range(layers // 2))), torch.zeros(1, 4, 4, 4)


def transformer(layers: int) -> tuple[nn.Module, Tensor]:
    return nn.Sequential(*(Transformer() for _ in range(layers // 4))), torch.zeros(1, 4, 4)


def measure(make: Callable[[int], tuple[nn.Module, Tensor]], layers: int) -> dict[str, float]:
    model, example = make(layers)
    model.eval()
    wrap_s, wrapped = timed(lambda: sv.wrap(model, example))
    variants_s, _ = timed(
        lambda: [
            variant.digest for variant in plan_sweep(list(wrapped.layers), [sv.INT4_WEIGHTS], direction="one-at-a-time")
        ]
    )
    modules = [{model.get_submodule(layer.module)} for layer in wrapped.layers]
    replayer = Replayer(model)
    step = max(1, len(modules) // REPLAYED)

    def replay() -> None:
        for perturbed in modules[::step]:
            with replayer.replaying(perturbed):
                model(example)

    with torch.no_grad():
        survey_s, _ = timed(lambda: replayer.record(lambda: model(example), modules))
        record_s, _ = timed(lambda: replayer.record(lambda: model(example), modules))
        replay_s, _ = timed(replay)
    seconds = {"wrap_s": wrap_s, "variants_s": variants_s, "survey_s": survey_s, "record_s": record_s}
    return seconds | {"replay_s": replay_s / len(modules[::step])}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[250, 500, 1000, 2000])
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure(plain, 8)  # the first time, torch imports what it traces with
    for make in (plain, residual, transformer):
        for layers in options.layers:
            runs = [measure(make, layers) for _ in range(options.repeats)]
            least = {name: round(min(run[name] for run in runs), 4) for name in runs[0]}
            print(json.dumps({"network": make.__name__, "layers": layers} | least), flush=True)


if __name__ == "__main__":
    main()
