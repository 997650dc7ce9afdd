"""What a model keeps of its first pass is real after wrap()."""

from __future__ import annotations

import contextvars
import functools
from typing import cast

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import ModelError


@functools.lru_cache
def grids(length: int) -> tuple[Tensor, Tensor]:
    grid = torch.zeros(length)
    grid[1:] += torch.linspace(0, 1, length)[1:]
    doubled = grid.view(1, -1)
    doubled.mul_(2)  # writes to the grid through a view
    return grid, doubled.expand(2, -1)


class Anchors:
    cells: Tensor | None = None


TABLE: dict[str, Tensor] = {}
SEEN: list[Tensor] = []


class Caching(nn.Module):
    """Keeps tensors of its first pass in an lru_cache, a dictionary, a class and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.register_buffer("steps", torch.arange(14.0))
        self.scale = nn.Parameter(torch.linspace(1, 2, 14))

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        if "table" not in TABLE:
            TABLE["table"] = self.steps * 2 + self.scale
        if Anchors.cells is None:
            Anchors.cells = torch.tensor([1.0, 2.0]) * 3
        if not SEEN:
            SEEN.append(features.mean())
        return features * grids(features.shape[-1])[0] + TABLE["table"] + Anchors.cells.sum()


def test_tensors_cached_in_the_first_pass_have_their_real_content() -> None:
    grids.cache_clear()
    TABLE.clear()
    SEEN.clear()
    Anchors.cells = None
    torch.manual_seed(0)
    model, images = Caching().eval(), torch.randn(2, 3, 16, 16)
    wrapped = sv.wrap(model, images[:1])
    assert not TABLE
    assert not SEEN
    assert vars(Anchors)["cells"] is None
    with torch.no_grad():
        assert type(model(images)) is Tensor
        expected = 2 * torch.linspace(0, 1, 14)
        assert torch.equal(grids(14)[0], expected)
        assert torch.equal(grids(14)[1], expected.expand(2, -1))
        assert torch.equal(TABLE["table"], model.steps * 2 + model.scale)
        assert torch.equal(vars(Anchors)["cells"], torch.tensor([3.0, 6.0]))
        assert torch.equal(SEEN[0], model.conv(images).mean())
    study = wrapped.analyze(sv.FeatureFidelity(images), sv.INT8_WEIGHTS)
    assert study.measurements[0].score > 40


OUT_OF_SIGHT: contextvars.ContextVar[Tensor | None] = contextvars.ContextVar("table", default=None)


def test_a_tensor_cached_where_no_state_is_looked_at_is_given_its_real_content() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            table = OUT_OF_SIGHT.get()
            if table is None:
                table = torch.linspace(0, 1, 14) * 2
                OUT_OF_SIGHT.set(table)
            return self.conv(x) * table

    model, images = Caching().eval(), torch.randn(2, 3, 16, 16)
    sv.wrap(model, images[:1])
    table = OUT_OF_SIGHT.get()
    assert type(table) is Tensor
    assert torch.equal(table, torch.linspace(0, 1, 14) * 2)
    with torch.no_grad():
        assert torch.equal(model(images), model.conv(images) * table)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_compiled_models_are_refused_with_what_to_do() -> None:
    model, image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.zeros(1, 3, 8, 8)
    with pytest.raises(ModelError, match=r"OptimizedModule cannot be wrapped: it is compiled.*_orig_mod"):
        sv.wrap(cast(nn.Module, torch.compile(model, backend="eager")), image)
    outer = nn.Sequential(nn.Identity())
    outer[0] = cast(nn.Module, torch.compile(model, backend="eager"))
    with pytest.raises(ModelError, match=r"its module '0' is compiled"):
        sv.wrap(outer, image)
    in_place = nn.Sequential(nn.Conv2d(3, 4, 3))
    in_place.compile(backend="eager")
    with pytest.raises(ModelError, match=r"before calling its method compile"):
        sv.wrap(in_place, image)
    inner = nn.Sequential(nn.Conv2d(3, 4, 3))
    inner.__dict__["forward"] = torch.compile(inner.forward, backend="eager")
    with pytest.raises(ModelError, match=r"Leave torch.compile away from its forward"):
        sv.wrap(inner, image)
    with pytest.raises(ModelError, match=r"before it was scripted or traced"):
        sv.wrap(torch.jit.trace(model, image), image)  # type: ignore[no-untyped-call]
    assert len(sv.wrap(model, image).layers) == 1
