"""Fake tensors that are made directly equal those that torch makes."""

from __future__ import annotations

import contextlib
import gc

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import sensitivity as sv
from sensitivity.layers.trace.fakes import Fakes, garbage_waits
from sensitivity.layers.trace.recorder import storage_key

BASE = torch.zeros(4, 6)
TENSORS = {
    "parameter": nn.Parameter(torch.zeros(3, 2)),
    "frozen parameter": nn.Parameter(torch.zeros(3), requires_grad=False),
    "buffer": torch.zeros(2, 3, dtype=torch.float16),
    "count": torch.tensor(0),
    "channels last": torch.zeros(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "transposed": torch.zeros(2, 5).T,
    "empty": torch.zeros(0, 3),
    "flags": torch.zeros(3, dtype=torch.bool),
    "part": BASE[1:3],
    "expanded": torch.zeros(1).expand(4),
    "complex": torch.zeros(2, dtype=torch.complex64).conj(),
}


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS.keys())
def test_a_fake_tensor_is_that_of_torch(tensor: Tensor) -> None:
    mode = FakeTensorMode()
    fake, expected = Fakes(mode, [tensor])(tensor), FakeTensorMode().from_tensor(tensor)
    for fact in ("shape", "dtype", "device", "layout", "requires_grad", "is_leaf"):
        assert getattr(fake, fact) == getattr(expected, fact), fact
    assert fake.stride() == expected.stride()
    assert fake.storage_offset() == expected.storage_offset()
    assert fake.untyped_storage().nbytes() == expected.untyped_storage().nbytes()
    assert type(fake) is type(expected)
    assert isinstance(fake, nn.Parameter) == isinstance(expected, nn.Parameter)
    assert fake.is_conj() == expected.is_conj()
    assert mode.from_tensor(tensor) is fake


def test_tensors_on_one_memory_stay_on_one_memory() -> None:
    whole = torch.zeros(4)
    other = whole.view(2, 2)
    fakes = Fakes(FakeTensorMode(), [whole, other])
    assert storage_key(fakes(whole)) == storage_key(fakes(other))


def test_wrapping_asks_torch_for_no_fake_tensor_of_a_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[Tensor] = []
    general = FakeTensorMode.from_tensor

    def counted(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
        converted.append(tensor)
        return general(mode, tensor)

    monkeypatch.setattr(FakeTensorMode, "from_tensor", counted)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    assert len(sv.wrap(model, torch.zeros(1, 3, 5, 5)).layers) == 1
    assert converted == []


def test_the_search_for_garbage_is_on_again_after_an_error() -> None:
    stack = contextlib.ExitStack()
    stack.enter_context(garbage_waits())
    assert not gc.isenabled()
    with pytest.raises(RuntimeError, match="inside"), stack:
        raise RuntimeError("inside")
    assert gc.isenabled()


def test_the_search_for_garbage_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with garbage_waits():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
