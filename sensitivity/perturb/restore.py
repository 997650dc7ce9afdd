"""A model comes out as it went in: mode, parameters, buffers, random state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sensitivity.errors import NotRestoredError


@dataclass(frozen=True, slots=True)
class _Kept:
    """A parameter or buffer as it was: the object, its version, and for a buffer its content."""

    owner: dict[str, Tensor | None]
    name: str
    path: str
    tensor: Tensor
    version: int
    content: Tensor | None


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Run a model inside without leaving a trace on it.

    Inside, the model is in eval mode. Afterwards, also after an exception or an interrupt, every module has its old
    training flag, every parameter and buffer is the same object with the same content (buffers that a forward pass
    counts up are put back), and the random state is as before. Attributes that are no tensors are not looked at.

    Raises:
        NotRestoredError: If a parameter was changed in place: that cannot be undone without a copy of all weights.
    """
    kept = _keep(model)
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({k.tensor.device.index for k in kept if k.tensor.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, training in modes:
                module.training = training
            changed = _put_back(kept)
    if changed:
        raise NotRestoredError(
            f"{type(model).__name__} changed its own parameters in place while it ran: {', '.join(changed[:3])}. "
            "Load its weights again, and make forward() leave parameters alone."
        )


@contextlib.contextmanager
def spare_buffers(model: nn.Module) -> Iterator[None]:
    """Copies in the place of all buffers for the time of a ``with`` block.

    A buffer that a forward pass writes to while gradients are on becomes part of the graph, which ``untouched`` cannot
    undo; the copy is thrown away.
    """
    originals: list[tuple[dict[str, Tensor | None], str, Tensor]] = [
        (module._buffers, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    copies = {id(buffer): buffer.detach().clone() for _, _, buffer in originals}
    try:
        for owner, name, buffer in originals:
            owner[name] = copies[id(buffer)]
        yield
    finally:
        for owner, name, buffer in originals:
            owner[name] = buffer


def _keep(model: nn.Module) -> list[_Kept]:
    kept: list[_Kept] = []
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owner: dict[str, Tensor | None] = module._parameters
                kept.append(_Kept(owner, name, dot + name, parameter, _version(parameter), None))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                copy = buffer.detach().clone()
                kept.append(_Kept(module._buffers, name, dot + name, buffer, _version(buffer), copy))
    return kept


def _version(tensor: Tensor) -> int:
    """How often a tensor was written; tensors made in inference mode do not count."""
    return -1 if tensor.is_inference() else tensor._version


def _put_back(kept: list[_Kept]) -> list[str]:
    """Put the kept objects and contents back; returns the parameters that were written in place."""
    changed = []
    for one in kept:
        one.owner[one.name] = one.tensor
        if _version(one.tensor) == one.version and one.version >= 0:
            continue
        if one.content is None:
            changed += [one.path] if one.version >= 0 else []
        else:
            with torch.no_grad():
                one.tensor.copy_(one.content)
    return changed
