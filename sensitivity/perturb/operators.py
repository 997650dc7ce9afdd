"""A layer met where it multiplies: the operands of its operator are observed or exchanged while a module runs.

The arguments of a module's call do not tell what a layer multiplies where the module also takes masks or hidden states,
computes its weight, or belongs to another layer. The operator does: below autograd, every product is seen with its two
operands, and the one that is made of the layer's parameter is the weight. It is told by the parameter object itself,
for which another one with the same memory stands in meanwhile, so that a tied parameter elsewhere is left alone.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakIdKeyDictionary

from sensitivity.layers.dataflow.dynamic_kernels import is_kernel
from sensitivity.layers.dataflow.products import (
    CONVOLUTIONS,
    may_be_weight,
    operand_positions,
    output_axis_of_operand,
)
from sensitivity.layers.trace.composite import base_name, run_in_products
from sensitivity.layers.trace.recorder import FACTORIES, storage_key, written_by

FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
"""Modules of torch that compute all their products in one operator where nothing keeps them from it."""

_CONSTANTS = FACTORIES | {"lift_fresh", "lift_fresh_copy"}


class AtOperator:
    """What happens at the operator of one layer.

    Attributes:
        parameter: The module that holds the layer's parameter, and its name there.
        adds_later: Whether ``product`` is given the bare product, and the bias that the operator adds is added behind
            it. That rounds otherwise in the last bit.
        dynamic_kernel: Whether it is a convolution whose kernel each input makes of the parameter: what makes it is
            left alone.
    """

    parameter: tuple[nn.Module, str]
    adds_later: bool = False
    dynamic_kernel: bool = False

    def operand(self, tensor: Tensor) -> Tensor:
        """What is multiplied instead of an activation; called once for each product."""
        raise NotImplementedError

    def weight(self, tensor: Tensor, axis: int) -> Tensor:
        """What it is multiplied by.

        Args:
            tensor: The weight.
            axis: Its axis of output channels.
        """
        raise NotImplementedError

    def product(self, tensor: Tensor) -> Tensor:
        """What stands for the result."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Multiplied:
    """An operator that multiplies a layer's weight: its name, and the places of the weight and the other operand."""

    hooks: Sequence[AtOperator]
    name: str
    weight: int
    source: int


class _Running(threading.local):
    """Whether this thread runs the product of an inner call, which an outer call sees as well."""

    product = False


_running = _Running()


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator of one call of a module.

    Args:
        module: The module.
        layers: What acts on the layers that are met inside; several may act on one layer, one after the other.
    """

    def __init__(self, module: nn.Module, layers: Sequence[AtOperator]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layers: dict[int, list[AtOperator]] = {}
        for layer in layers:
            owner, name = layer.parameter
            self._layers.setdefault(id(owner._parameters[name]), []).append(layer)
        self._parameters = {id(parameter) for parameter in module.parameters()}
        self._static = self._parameters | {id(buffer) for buffer in module.buffers()}
        self._static |= self._layers.keys()
        self._made_of = WeakIdKeyDictionary()  # what is made of parameters and constants, to the layers among them
        self._dynamic = frozenset(own for own, hooks in self._layers.items() if hooks[0].dynamic_kernel)
        self._kernels = WeakIdKeyDictionary()  # kernels that inputs make of parameters, to the layers among them

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run an operator, with other operands where it is a layer's."""
        kwargs = kwargs or {}
        parts = run_in_products(func, args, kwargs, self)
        if parts is not NotImplemented:
            return parts
        name = base_name(func)
        match = self._match(name, args)
        if match is not None:
            return self._multiply(func, args, kwargs, match)
        result = func(*args, **kwargs)
        written = written_by(func, args, kwargs)
        if self._dynamic:
            self._note_kernels(name.removesuffix("_") if written else name, (args, kwargs), result)
        self._note(name, (args, kwargs), result, written)
        return result

    def _layers_of(self, tensor: Any) -> frozenset[int] | None:
        """The layers that a tensor is made of; None where it is made of anything but parameters and constants."""
        own = id(tensor)
        if own in self._layers:
            return frozenset({own})
        if own in self._static:
            return frozenset()
        return self._made_of.get(tensor)  # type: ignore[no-any-return, no-untyped-call]

    def _match(self, name: str, args: tuple[Any, ...]) -> _Multiplied | None:
        """The layer whose weight is an operand."""
        positions = operand_positions(name)
        if positions is None or _running.product:
            return None
        for side in (1, 0):
            weight, source = args[positions[side]], args[positions[1 - side]]
            if not may_be_weight(name, side) or self._layers_of(source) is not None:
                continue
            layers = (self._layers_of(weight) or frozenset()) - self._dynamic
            if name in CONVOLUTIONS and not layers:
                layers = self._kernels.get(weight, frozenset()) & self._dynamic  # type: ignore[no-untyped-call]
            if layers:
                return _Multiplied(self._layers[min(layers)], name, positions[side], positions[1 - side])
        return None

    def _note_kernels(self, name: str, arguments: Any, result: Any) -> None:
        """Remember what is a kernel, by the rule that found the layers."""
        tensors = [leaf for leaf in tree_flatten(arguments)[0] if isinstance(leaf, Tensor)]
        kernels = [self._kernel_of(tensor) for tensor in tensors]
        if is_kernel(name, [kernel is not None for kernel in kernels]):
            layers = frozenset().union(*(kernel for kernel in kernels if kernel))
            for leaf in tree_flatten(result)[0]:
                if isinstance(leaf, Tensor):
                    self._kernels[leaf] = layers

    def _kernel_of(self, tensor: Tensor) -> frozenset[int] | None:
        """The layers whose parameters a kernel is made of; None for what is no kernel."""
        own = id(tensor)
        if own in self._layers:
            return frozenset({own})
        known: frozenset[int] | None = self._kernels.get(tensor)  # type: ignore[no-untyped-call]
        return frozenset() if known is None and own in self._parameters else known

    def _multiply(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], match: _Multiplied) -> Any:
        """The product of what stands for the two operands."""
        hooks, name, weight, source = match.hooks, match.name, match.weight, match.source
        transposed = name in CONVOLUTIONS and bool(args[6])
        axis = output_axis_of_operand(name, int(weight > source), args[weight].dim(), transposed=transposed)
        changed = list(args)
        for hook in hooks:
            changed[source], changed[weight] = hook.operand(changed[source]), hook.weight(changed[weight], axis)
        _running.product = True
        try:
            if any(hook.adds_later for hook in hooks):
                return _added(name, changed, kwargs, _product(hooks, _bare_product(func, name, changed, kwargs)))
            result = func(*changed, **kwargs)
        finally:
            _running.product = False
        return _product(hooks, result)

    def _note(self, name: str, arguments: Any, result: Any, written: Sequence[Tensor]) -> None:
        """Remember what is made of parameters and constants alone."""
        tensors = [leaf for leaf in tree_flatten(arguments)[0] if isinstance(leaf, Tensor)]
        origins = [] if name in _CONSTANTS else [self._layers_of(tensor) for tensor in tensors]
        results = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
        for leaf in results:
            self._remember(leaf, origins)
        for tensor in self._on_memory_of(written):  # a tensor of which a slice was written
            self._remember(tensor, [*origins, self._layers_of(tensor)])

    def _remember(self, tensor: Tensor, origins: Sequence[frozenset[int] | None]) -> None:
        """What a tensor is made of, where that is parameters and constants alone."""
        if None in origins:
            self._made_of.pop(tensor, None)  # type: ignore[no-untyped-call]
        elif id(tensor) not in self._static:
            self._made_of[tensor] = frozenset().union(*(origin for origin in origins if origin))

    def _on_memory_of(self, written: Sequence[Tensor]) -> list[Tensor]:
        """What is remembered and shares memory with tensors that were written."""
        keys = {storage_key(tensor) for tensor in written} - {None}
        return [tensor for tensor in list(self._made_of) if storage_key(tensor) in keys] if keys else []


_WITHOUT_ADDEND: dict[str, Callable[..., Tensor]] = {"addmm": torch.mm, "baddbmm": torch.bmm, "addmv": torch.mv}
_BIAS_POSITION = 2  # of a convolution


def _product(hooks: Sequence[AtOperator], tensor: Tensor) -> Tensor:
    """What stands for the result of an operator."""
    for hook in hooks:
        tensor = hook.product(tensor)
    return tensor


def _bare_product(func: Any, name: str, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """The product of two operands without the bias that their operator adds."""
    if name in _WITHOUT_ADDEND:
        return _WITHOUT_ADDEND[name](*args[1:3])
    if name in CONVOLUTIONS:
        args = [*args[:_BIAS_POSITION], None, *args[_BIAS_POSITION + 1 :]]
    result: Tensor = func(*args, **kwargs)
    return result


def _added(name: str, args: list[Any], kwargs: dict[str, Any], product: Tensor) -> Tensor:
    """A product with the bias of its operator added."""
    if name in _WITHOUT_ADDEND:
        return torch.add(product * kwargs.get("alpha", 1), args[0], alpha=kwargs.get("beta", 1))
    bias: Tensor | None = args[_BIAS_POSITION] if name in CONVOLUTIONS else None
    return product if bias is None else torch.add(product, bias.reshape(-1, *[1] * (product.dim() - 2)))


class _Unfused(TorchFunctionMode):
    """Does nothing; while it is on, torch's attention modules do not take their fused paths."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function."""
        return func(*args, **(kwargs or {}))


class Inside:
    """Enters modes when a module is called and leaves them when the call ends, however it ends.

    Args:
        module: The module.
        layers: The layers that are met inside; none where it only must not take a fused path.
    """

    def __init__(self, module: nn.Module, layers: Sequence[AtOperator]) -> None:
        self._layers = layers
        self._fused = any(isinstance(inner, FUSED) for inner in module.modules())
        self._open: list[contextlib.ExitStack] = []

    def enter(self, module: nn.Module, _: Any) -> None:
        """The module was called."""
        stack = contextlib.ExitStack()
        self._open.append(stack)
        if self._fused:
            stack.enter_context(_Unfused())
        if self._layers:
            stack.enter_context(_Operators(module, self._layers))

    def leave(self, *_: Any) -> None:
        """The call ended."""
        if self._open:
            self._open.pop().close()

    def close(self) -> None:
        """Leave what an interrupt left open."""
        while self._open:
            self._open.pop().close()


@contextlib.contextmanager
def stand_ins(layers: Sequence[AtOperator]) -> Iterator[None]:
    """Parameters with the same memory in the place of the layers' own, for the time of a ``with`` block.

    The operators know a weight by the object. Replay does as well: what is computed from the stand-in is not known to
    it, and runs.
    """
    originals = [(owner, name, owner._parameters[name]) for owner, name in {layer.parameter: None for layer in layers}]
    try:
        for owner, name, original in originals:
            assert original is not None
            owner._parameters[name] = nn.Parameter(original.detach(), requires_grad=False)
        yield
    finally:
        for owner, name, original in originals:
            owner._parameters[name] = original


class Unnested:
    """Keeps an encoder from nested tensors, which no hook can look into, and gives what it gives with them.

    Where an encoder may, it leaves padded positions out, and fills them with zeros behind its last layer.

    Args:
        encoder: The encoder.
    """

    def __init__(self, encoder: nn.TransformerEncoder) -> None:
        self.encoder = encoder
        self._padding: Tensor | None = None
        self._unfused = contextlib.ExitStack()

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The encoder was called."""
        arguments = dict(zip(("src", "mask", "src_key_padding_mask"), args, strict=False)) | kwargs
        self._padding = arguments.get("src_key_padding_mask") if self._nests(arguments) else None
        if self._padding is not None:
            self._unfused.enter_context(_Unfused())

    def _nests(self, arguments: dict[str, Any]) -> bool:
        source, padding = arguments["src"], arguments.get("src_key_padding_mask")
        encoder = self.encoder
        may = encoder.use_nested_tensor and torch.backends.mha.get_fastpath_enabled()
        if not may or padding is None or source.dim() != 3 or arguments.get("mask") is not None:
            return False
        if torch.is_autocast_enabled() or (
            torch.is_grad_enabled() and any(p.requires_grad for p in encoder.parameters())
        ):
            return False
        left = torch._nested_tensor_from_mask_left_aligned
        return not getattr(encoder, "mask_check", True) or bool(left(source, padding.logical_not()))

    def fill(self, _: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        """Zeros at the padded positions of what the last layer gives."""
        return None if self._padding is None else output.masked_fill(self._padding.bool().unsqueeze(-1), 0.0)

    def leave(self, *_: Any) -> None:
        """The call ended."""
        self._padding = None
        self._unfused.close()
