"""Copies of small tensors as bytes, which are compared many times faster than tensors are."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sensitivity.weights import NUMPY_TYPES

MOST_BYTES = 1 << 16
"""Up to this size calls cost more than reading does; larger tensors are copied and compared by torch."""


@dataclass(frozen=True, slots=True)
class MemoryCopy:
    """The content of a tensor that lies in one piece in the memory of the CPU.

    It is read through the tensor's address. That is safe while the tensor is alive and has the same address, shape and
    strides, which is looked at first. Unlike ``Tensor.numpy``, it does not keep torch from resizing the tensor.

    Attributes:
        address: Where the tensor lay.
        shape: Its shape.
        strides: Its strides.
        dtype: Its type.
        content: Its bytes.
    """

    address: int
    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    content: bytes

    @classmethod
    def of(cls, tensor: Tensor) -> MemoryCopy | None:
        """A copy of a tensor; None for one that is large or not plain."""
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.dtype not in NUMPY_TYPES or not tensor.is_cpu:
            return None
        if tensor.layout is not torch.strided:
            return None
        if not 0 < tensor.nbytes <= MOST_BYTES or not tensor.is_contiguous() or tensor.is_neg():
            return None
        address = tensor.data_ptr()
        content = ctypes.string_at(address, tensor.nbytes)
        return cls(address, tensor.shape, tensor.stride(), tensor.dtype, content)

    def is_in(self, tensor: Tensor) -> bool:
        """Whether the tensor that this is a copy of lies where it lay, with the same content."""
        return (
            tensor.data_ptr() == self.address
            and tensor.shape == self.shape
            and tensor.stride() == self.strides
            and tensor.dtype is self.dtype
            and ctypes.string_at(self.address, len(self.content)) == self.content
        )

    def tensor(self) -> Tensor:
        """The content as a tensor of its own."""
        return torch.frombuffer(bytearray(self.content), dtype=self.dtype).reshape(self.shape)
