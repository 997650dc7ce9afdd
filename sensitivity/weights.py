"""A hash of a model's content, so that results are never mixed up between weights."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def weights_digest(model: nn.Module) -> str:
    """Hash of all parameters and buffers: names, shapes, types and bytes.

    The same for the same weights on any device and machine; the class of the model does not count. Sparse tensors count
    as if they were dense; of those on the meta device, which have no bytes, name, shape and type count.
    """
    digest = hashlib.sha256()
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        if tensor.is_meta:
            continue
        dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
        digest.update(raw_bytes(dense).numpy().data)  # no copy
    return digest.hexdigest()[:32]


def raw_bytes(tensor: Tensor) -> Tensor:
    """The content of a dense tensor as a flat uint8 tensor on the CPU; shares memory with it where it can."""
    flat = tensor.detach().cpu().contiguous().flatten()
    if flat.numel() and flat.stride(-1) != 1:  # a view of one element counts as contiguous whatever its stride
        flat = flat.clone(memory_format=torch.contiguous_format)
    if flat.dtype is torch.bool:
        flat = flat.view(torch.uint8)
    return flat.view(torch.uint8)
