"""What a model computes after its pass cannot be seen, and is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import TracingError


class Heads(nn.Module):
    def __init__(self, result: Callable[[Any], Any]) -> None:
        super().__init__()
        self.stem, self.heads, self.result = nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 3)]), result

    def forward(self, x: Tensor) -> Any:
        features = self.stem(x).relu()
        return self.result(head(features) for head in self.heads)


@pytest.mark.parametrize(
    "result", [lambda heads: heads, lambda heads: {"heads": heads}, iter], ids=["", "nested", "iter"]
)
def test_a_generator_is_refused_with_what_to_return(result: Callable[[Any], Any]) -> None:
    """Its layers had been left out as never called."""
    with pytest.raises(
        TracingError, match=r"Heads cannot be traced: it returns a generator.* return a list or a tuple"
    ):
        sv.wrap(Heads(result).eval(), torch.randn(1, 4))


def test_a_list_of_the_same_is_traced() -> None:
    wrapped = sv.wrap(Heads(list).eval(), torch.randn(1, 4))
    assert [layer.module for layer in wrapped.layers] == ["stem", "heads.0", "heads.1"]
