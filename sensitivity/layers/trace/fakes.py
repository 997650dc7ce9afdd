"""Fake tensors of a model's own tensors: those of plain ones are made directly, which takes a third of torch's time."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from sensitivity.layers.trace.recorder import storage_key

_PLAIN = (Tensor, nn.Parameter)


class Fakes:
    """Makes a fake tensor of a real one.

    torch's own way looks for views, subclasses, gradients and symbolic shapes. A tensor that has none of them and its
    memory for itself is told by shape, strides, type and device.

    Args:
        mode: The mode that the fake tensors are of.
        tensors: All that will be made, so that it is known which of them share memory.
    """

    def __init__(self, mode: FakeTensorMode, tensors: Iterable[Tensor]) -> None:
        self._mode: Any = mode
        users = Counter(storage_key(tensor) for tensor in {id(tensor): tensor for tensor in tensors}.values())
        self._shared = {key for key, count in users.items() if count > 1}

    def __call__(self, tensor: Tensor) -> Tensor:
        """The fake tensor of one; the same one each time."""
        if not self._is_plain(tensor):
            made: Tensor = self._mode.from_tensor(tensor)
            return made
        elements = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        fake: Any = FakeTensor(self._mode, elements, tensor.device)
        if isinstance(tensor, nn.Parameter):
            fake._is_param = True
            fake.requires_grad = tensor.requires_grad
        self._mode.fake_tensor_converter.set_tensor_memo(tensor, fake)
        return fake  # type: ignore[no-any-return]

    def _is_plain(self, tensor: Tensor) -> bool:
        if type(tensor) not in _PLAIN or tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
            return False
        if not tensor.is_leaf or tensor.grad is not None or (tensor.requires_grad and type(tensor) is Tensor):
            return False
        if tensor.is_conj() or tensor.is_neg() or tensor.is_inference() or torch.is_inference_mode_enabled():
            return False
        fills = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return fills and storage_key(tensor) not in self._shared


@contextlib.contextmanager
def garbage_waits() -> Iterator[None]:
    """Python's search for garbage in cycles waits until a ``with`` block is over, which fills no memory with numbers.

    A trace makes many objects that stay, among which the search would look for garbage again and again.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
