"""A model comes out as it went in: mode, parameters, buffers, attributes, random state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sensitivity.errors import NotRestoredError
from sensitivity.perturb.state.attributes import Attributes
from sensitivity.perturb.state.interrupts import deferred_interrupts
from sensitivity.perturb.state.sole_use import generators_kept, sole_use
from sensitivity.perturb.state.state import ModelState, check_has_numbers


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[ModelState]:
    """Run a model inside without leaving a trace on it; gives the state that is put back.

    Inside, the model is in eval mode. Afterwards, also after an exception or an interrupt, every module has its old
    training flag; every parameter, buffer and attribute is the same object with the same content, however it was
    written (see ``Attributes`` for what is looked at); and the random states of Python, numpy and torch and torch's
    global switches are as before.

    Raises:
        ModelError: If the model has no numbers, being on the meta device.
        ModelInUseError: If another thread measures the model.
        NotRestoredError: If a forward pass changed what cannot be put back: parameters of which no copy is kept (models
            of more than 32 MB), or an iterator that a module holds.
    """
    check_has_numbers(model)
    with deferred_interrupts(), sole_use(model):
        yield from _restored(model)


def _restored(model: nn.Module) -> Iterator[ModelState]:
    before = ModelState(model)
    lost: list[str] = []
    with generators_kept(before.cuda):
        try:
            before.set_training(False)
            yield before
        finally:
            lost = before.restore()
    if lost:
        raise NotRestoredError(
            f"{type(model).__name__} changed what cannot be put back while it ran: {', '.join(lost[:3])}. Make or load "
            "it again, and make forward() leave that alone."
        )


@contextlib.contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """A module and all inside it are in evaluation mode for the time of a ``with`` block."""
    training = [inner for inner in module.modules() if inner.training]
    try:
        for inner in training:
            inner.training = False
        yield
    finally:
        for inner in training:
            inner.training = True


@contextlib.contextmanager
def shared_state_kept(model: nn.Module) -> Iterator[None]:
    """Let a copy of a model run inside, which shares classes, functions and their variables with the model."""
    shared = Attributes(dict(model.named_modules()))
    tensors = [tensor for _, tensor in shared.tensors if not isinstance(tensor, nn.Parameter) and not tensor.is_meta]
    copies = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        shared.put_back()
        for tensor, copy in zip(tensors, copies, strict=True):
            if tensor.shape == copy.shape and not torch.equal(tensor, copy):
                with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                    tensor.copy_(copy)


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
