"""The work of finding layers grows as the number of layers does: counted in steps of the interpreter, not in time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensitivity.layers.find import find_layers

ROOM = "/sensitivity/layers/"
FEW = 8  # layers or blocks; and twice and four times as many


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Any:
        return x + self.second(self.norm(self.first(x)).relu())


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.project = nn.LayerNorm(2), nn.Linear(2, 6), nn.Linear(2, 2)
        self.expand, self.narrow = nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        query, key, value = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.project((query @ key.transpose(1, 2)).softmax(-1) @ value)
        return x + self.narrow(F.gelu(self.expand(x)))


class Row(nn.Module):
    """Calls its layers itself, with a function behind each, and returns something of all of them."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(count))

    def forward(self, x: Tensor) -> Any:
        means = []
        for layer in self.layers:
            x = F.silu(layer(x))
            means.append(x.mean())
        return x, torch.stack(means)


def plain(count: int) -> nn.Module:
    return nn.Sequential(*(part for _ in range(count) for part in (nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU())))


IMAGE, TOKENS = torch.zeros(1, 2, 2, 2), torch.zeros(1, 3, 2)
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], Tensor]] = {
    "plain": (plain, IMAGE),
    "residual": (lambda count: nn.Sequential(*(Residual() for _ in range(count))), IMAGE),
    "attention": (lambda count: nn.Sequential(*(Transformer() for _ in range(count))), TOKENS),
    "row": (Row, IMAGE),
}


def steps(work: Callable[[], Any]) -> int:
    """How many steps the interpreter takes in the files of the room."""
    count = 0

    def step(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "opcode"
        return step

    def enter(frame: FrameType, _: str, __: Any) -> Any:
        if ROOM not in frame.f_code.co_filename.replace("\\", "/"):
            return None
        frame.f_trace_opcodes = True
        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", NETWORKS)
def test_twice_the_layers_take_twice_the_work(name: str) -> None:
    make, example = NETWORKS[name]
    few, more, most = (steps(partial(find_layers, make(n).eval(), example)) for n in (FEW, 2 * FEW, 4 * FEW))
    assert few > 0
    assert (most - more) / (more - few) < 2.1, f"{few}, {more} and {most} steps"
