"""What a forward pass may change, remembered and put back: tensors, attributes, flags, modes, random generators."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.errors import ModelError
from sensitivity.layers.trace.generators import RandomState
from sensitivity.layers.trace.modes import TorchModes
from sensitivity.perturb.state.attributes import Attributes, recomputed
from sensitivity.perturb.state.functions import MOST_FUNCTIONS
from sensitivity.perturb.state.holders import OF_ANY_MODULE
from sensitivity.perturb.state.memory_copy import MemoryCopy
from sensitivity.turns import process_state
from sensitivity.weights import content_of

COPIED_WEIGHT_BYTES = 32 << 20
"""Up to this size parameters are copied and can be put back; of larger ones a hash tells whether they changed."""

UNCOUNTED = -1  # in the place of a version counter


@dataclass(slots=True)
class _Remembered:
    """A tensor of the model: where it is bound, its content or a hash of it, and how often it had been written.

    Attributes:
        owner: Dict that binds it: parameters, buffers or plain attributes of a module.
        name: Its key there.
        path: Its path in the model.
        tensor: The object.
        version: Its version counter when it last had the remembered content; -1 where it has none.
        content: A copy: a tensor, or bytes in memory; None where only the hash is kept.
        hash: SHA-256 of the bytes, where there is no copy.
    """

    owner: dict[str, Any]
    name: str
    path: str
    tensor: Tensor
    version: int
    content: Tensor | MemoryCopy | None
    hash: bytes | None

    def written(self) -> bool:
        """Whether torch has counted a write since."""
        return write_count(self.tensor) != self.version

    def changed(self) -> bool:
        """Whether the content is another, also where nothing has counted the write (``.data``, ``.numpy()``)."""
        content = self.content
        if isinstance(content, MemoryCopy):
            if content.is_in(self.tensor):
                return False
            content = content.tensor()
        if self.tensor.is_meta:
            return False
        if content is not None:
            return not _same_bytes(self.tensor, content)
        return self.hash is not None and _hash(self.tensor) != self.hash

    def rebound(self) -> bool:
        """Whether a buffer or an attribute is another object now; what exchanges weights rebinds parameters."""
        bound = self.owner.get(self.name)
        return bound is not self.tensor and not isinstance(bound, nn.Parameter)

    def put_back(self) -> bool:
        """Write the remembered content; False where there is no copy of it."""
        if self.content is None:
            return False
        content = self.content.tensor() if isinstance(self.content, MemoryCopy) else self.content
        try:
            with torch.inference_mode(self.tensor.is_inference()), torch.no_grad():
                # a detached sparse tensor has indices and values of its own
                target = self.tensor.detach() if self.tensor.layout is torch.strided else self.tensor
                target.copy_(content)
        except RuntimeError:
            if self.tensor.layout is torch.strided:
                raise
            return False  # torch cannot write another number of elements into a compressed sparse tensor
        self.version = write_count(self.tensor)
        return True


class ModelState:
    """The state of a model at one moment: every pass can start from it, and in the end it is there again.

    Args:
        model: The model, as it should be again.

    Attributes:
        cuda: The CUDA devices that it lies on.
    """

    def __init__(self, model: nn.Module) -> None:
        named = dict(model.named_modules())
        self._modules = [*named.values()]
        weights = {id(p): p for module in self._modules for p in module._parameters.values() if p is not None}
        size = sum(p.numel() * p.element_size() for p in weights.values() if not p.is_meta)
        self._attributes = Attributes(named)
        self._tensors = [*_remembered(named, self._attributes, copied=size <= COPIED_WEIGHT_BYTES)]
        self._counted = [known.tensor for known in self._tensors if known.version != UNCOUNTED]
        self._versions = [known.version for known in self._tensors if known.version != UNCOUNTED]
        self.cuda = _cuda_devices(self._modules)
        self._look()

    def _look(self) -> None:
        """Remember what passes start with beside the content of the model."""
        self._flags = [module.training for module in self._modules]
        with process_state:  # or the switches that a pass in another thread has moved would be remembered
            self._modes = TorchModes()
            self._random = RandomState.now(self.cuda)
        self._modes_of_passes: TorchModes | None = None  # those of the first one: this may be made with gradients on
        self._volatile: list[_Remembered] = []

    @property
    def remark(self) -> str | None:
        """What a reader should know of what is not put back; None where nothing is known to be left out."""
        if not self._attributes.functions_left_out:
            return None
        return (
            f"a pass of this model may call more than {MOST_FUNCTIONS} functions: what the others keep in closures and "
            "global variables is not put back between passes"
        )

    def for_passes(self) -> ModelState:
        """The same content, with the flags, modes and generators of now; all of it is not read and copied again."""
        state = copy.copy(self)
        state._look()
        return state

    def set_training(self, training: bool) -> None:
        """Let every module be in one mode."""
        moved = [module for module in self._modules if module.training is not training]
        for module in moved:
            module.training = training
        if moved:
            self._attributes.flags_moved()

    def reset(self) -> None:
        """Let a pass start as the first one did: all that passes change, training flags, modes."""
        with process_state:
            if self._modes_of_passes is None:
                self._modes_of_passes = TorchModes()
            self._modes_of_passes.set()
        self._put_flags_back()
        for known in self._volatile:
            if known.rebound():
                known.owner[known.name] = known.tensor
            known.put_back()
        versions = [tensor._version for tensor in self._counted]
        if versions != self._versions:
            for known in self._tensors:
                if known.written():
                    known.put_back()
            self._versions = [tensor._version for tensor in self._counted]
        self._attributes.put_back()

    def _put_flags_back(self) -> None:
        for module, training in zip(self._modules, self._flags, strict=True):
            if module.training is not training:
                module.training = training

    @contextlib.contextmanager
    def same_numbers(self) -> Iterator[None]:
        """A pass inside draws the random numbers that the first one drew; what is outside, a loader say, draws on."""
        with process_state:
            outside = RandomState.now(self._random.cuda)
            self._random.set()
            try:
                yield
            finally:
                outside.set()

    @contextlib.contextmanager
    def same_start(self) -> Iterator[None]:
        """A batch inside starts as the first one did, whatever the one before it has changed or drawn."""
        with self.same_numbers():
            self.learn(weights_too=False)
            yield

    def drew(self) -> bool:
        """Whether a pass inside ``same_numbers`` has drawn random numbers by now."""
        return self._random.moved() or self._attributes.drew()

    def changed_modules(self) -> set[int]:
        """``id`` of the modules that have changed what they hold beside tensors of their own."""
        return self._attributes.changed_modules()

    def learn(self, *, weights_too: bool = True) -> list[str]:
        """Find what a pass has changed, put it back, and let ``reset`` put it back from now on.

        Args:
            weights_too: Also compare the hashes of weights that are too large to be copied.

        Returns:
            Paths of what has changed and cannot be put back.
        """
        lost = self._attributes.put_back()
        known = {id(volatile) for volatile in self._volatile}
        for remembered in self._tensors:
            if remembered.content is None and not weights_too:
                continue
            if not (remembered.rebound() or remembered.changed()):
                continue
            if remembered.content is None:
                lost.append(remembered.path)
            elif id(remembered) not in known:
                self._volatile.append(remembered)
        self.reset()
        return lost

    def restore(self) -> list[str]:
        """Put everything back: objects, contents, flags and modes.

        Returns:
            Paths of what has changed and cannot be put back.
        """
        lost = self._attributes.put_back()
        with process_state:
            self._modes.set()
        self._put_flags_back()
        for remembered in self._tensors:
            remembered.owner[remembered.name] = remembered.tensor
            if remembered.changed() and not remembered.put_back():
                lost.append(remembered.path)
        return lost


def check_has_numbers(model: nn.Module) -> None:
    """Refuse a model on the meta device, where tensors have shapes and no numbers.

    Raises:
        ModelError: If a parameter or buffer is there.
    """
    if any(tensor.is_meta for tensor in _own_tensors(model.modules())):
        tensors = [*model.named_parameters(), *model.named_buffers()]
        empty = next(name for name, tensor in tensors if tensor.is_meta)
        raise ModelError(
            f"{type(model).__name__} cannot run: {empty} is on the meta device, which holds shapes and no numbers. "
            "Move the model with model.to_empty(device='cpu') and load its weights."
        )


def write_count(tensor: Tensor) -> int:
    """How often torch has counted a write to a tensor; those made in inference mode count none."""
    return UNCOUNTED if tensor.is_inference() else tensor._version


def _remembered(modules: Mapping[str, nn.Module], attributes: Attributes, *, copied: bool) -> Iterator[_Remembered]:
    """Every parameter, buffer and other tensor of some modules; parameters with a copy or with a hash."""
    known = set()
    for prefix, module in modules.items():
        dot, made_by_hooks = f"{prefix}." if prefix else "", recomputed(module)
        for owner, with_copy in ((module._parameters, copied), (module._buffers, True), (vars(module), True)):
            for name, tensor in list(owner.items()):
                if name not in OF_ANY_MODULE and isinstance(tensor, Tensor) and name not in made_by_hooks:
                    known.add(id(tensor))
                    held = owner if isinstance(owner, dict) else {name: tensor}  # nothing rebinds those of torch.jit
                    yield _remember(held, name, dot + name, tensor, with_copy=with_copy)
    for path, tensor in attributes.tensors:
        if id(tensor) not in known:
            with_copy = copied or not isinstance(tensor, nn.Parameter)
            yield _remember({path: tensor}, path, path, tensor, with_copy=with_copy)


def _remember(owner: dict[str, Any], name: str, path: str, tensor: Tensor, *, with_copy: bool) -> _Remembered:
    with_copy = with_copy and not tensor.is_meta
    content = (MemoryCopy.of(tensor) or tensor.detach().clone()) if with_copy else None
    hashed = None if with_copy or tensor.is_meta else _hash(tensor)
    return _Remembered(owner, name, path, tensor, write_count(tensor), content, hashed)


def _own_tensors(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """The parameters and buffers of modules; one that several of them share comes several times."""
    for module in modules:
        for owner in (module._parameters, module._buffers):
            if owner:
                yield from (tensor for tensor in owner.values() if tensor is not None)


def _cuda_devices(modules: Iterable[nn.Module]) -> list[int]:
    """The CUDA devices that modules lie on."""
    devices = {tensor.device for tensor in _own_tensors(modules) if tensor.is_cuda}
    return sorted(device.index for device in devices)


def _same_bytes(left: Tensor, right: Tensor) -> bool:
    if left.layout != right.layout or left.shape != right.shape or left.dtype != right.dtype:
        return False
    left, right = _dense(left), _dense(right)
    if torch.equal(left.detach(), right):  # the fast way; NaN differs from itself here
        return True
    return _hash(left) == _hash(right)


def _hash(tensor: Tensor) -> bytes:
    return hashlib.sha256(content_of(tensor)).digest()


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout is torch.strided else tensor.detach().to_dense()
