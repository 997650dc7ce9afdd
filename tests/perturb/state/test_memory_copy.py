"""A copy as bytes tells every change of a tensor, and does not bind the tensor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sensitivity.perturb.state.memory_copy import MOST_BYTES, MemoryCopy


def copied(tensor: Tensor) -> MemoryCopy:
    copy = MemoryCopy.of(tensor)
    assert copy is not None
    return copy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool, torch.uint8])
def test_a_copy_has_the_same_content_and_memory_of_its_own(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    copy = copied(tensor)
    expected = tensor.clone()
    tensor.zero_()
    assert torch.equal(copy.tensor(), expected)
    assert copy.tensor().dtype is dtype


def test_a_write_past_torch_is_seen() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    copy = copied(parameter)
    assert copy.is_in(parameter)
    parameter.detach().numpy()[3] = 1
    assert not copy.is_in(parameter)


def test_not_a_number_equals_itself_and_zeros_of_two_signs_differ() -> None:
    tensor = torch.tensor([torch.nan, 0.0])
    copy = copied(tensor)
    assert copy.is_in(tensor)
    tensor.data[1] = -0.0
    assert not copy.is_in(tensor)


def test_other_memory_another_shape_and_other_strides_are_seen() -> None:
    tensor = torch.zeros(2, 2)
    copy = copied(tensor)
    tensor.t_()
    assert not copy.is_in(tensor)
    tensor.t_()
    tensor.resize_(4)
    assert not copy.is_in(tensor)
    parameter = nn.Parameter(torch.zeros(2))
    copy = copied(parameter)
    parameter.data = torch.zeros(2)
    assert not copy.is_in(parameter)


def test_a_copied_tensor_can_still_be_resized() -> None:
    tensor = torch.zeros(2)
    copied(tensor)
    assert tensor.resize_(1000).shape == (1000,)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(MOST_BYTES // 4 + 1),
        torch.zeros(0),
        torch.zeros(2, device="meta"),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, 3).t(),
        torch.eye(2).to_sparse(),
    ],
)
def test_what_is_not_plain_is_left_to_torch(tensor: Tensor) -> None:
    assert MemoryCopy.of(tensor) is None
