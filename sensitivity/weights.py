"""A hash of a model's content, so that results are never mixed up between weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

NUMPY_TYPES = frozenset(
    {torch.float16, torch.float32, torch.float64, torch.bool}
    | {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
)
"""Types of tensors that numpy has as well, complex ones aside."""


def weights_digest(model: nn.Module) -> str:
    """Hash of all parameters and buffers: names, shapes, types and bytes.

    The same for the same weights on any device and machine; the class of the model does not count. Sparse tensors count
    as if they were dense; of those on the meta device, which have no bytes, name, shape and type count.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_named_tensors(model), key=lambda item: item[0]):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        if not tensor.is_meta:
            digest.update(content_of(tensor))
    return digest.hexdigest()[:32]


def modules_digest(model: nn.Module, *, settings: bool = False) -> str:
    """Hash of the paths and classes of all modules; with their plain ``settings``: numbers and texts, by attribute."""
    digest = hashlib.sha256()
    for path, module in model.named_modules(remove_duplicate=False):
        plain = {name: value for name, value in vars(module).items() if isinstance(value, bool | int | float | str)}
        plain.pop("training", None)
        digest.update(f"{path}|{type(module).__module__}.{type(module).__qualname__}|".encode())
        digest.update(repr(sorted(plain.items())).encode() if settings else b"")
    return digest.hexdigest()[:32]


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer with its path; one that several modules share comes several times."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield dot + name, tensor


def content_of(tensor: Tensor) -> memoryview:
    """The content of a tensor, flat, to be hashed; shares memory with it where it can."""
    if tensor.layout is not torch.strided:
        return raw_bytes(tensor.detach().to_dense()).numpy().data
    if tensor.dtype in NUMPY_TYPES and tensor.device.type == "cpu" and not tensor.is_neg():
        return tensor.detach().numpy().ravel().data  # a tenth of the time of the general way, for small tensors
    return raw_bytes(tensor).numpy().data


def raw_bytes(tensor: Tensor) -> Tensor:
    """The content of a dense tensor as a flat uint8 tensor on the CPU; shares memory with it where it can."""
    flat = tensor.detach().cpu().contiguous().flatten()
    if flat.numel() and flat.stride(-1) != 1:  # a view of one element counts as contiguous whatever its stride
        flat = flat.clone(memory_format=torch.contiguous_format)
    if flat.dtype is torch.bool:
        flat = flat.view(torch.uint8)
    return flat.view(torch.uint8)
