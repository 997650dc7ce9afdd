"""The weights of layers that are met at their operator, as they are multiplied: parts of a parameter, or computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.errors import TracingError
from sensitivity.layers.trace.inputs import copied
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.operators import AtOperator
from sensitivity.perturb.parameters import parameter_place
from sensitivity.perturb.rounding_mode import nothing_rounded
from sensitivity.perturb.weights import exchanged
from sensitivity.records import Layer


@dataclass(frozen=True, eq=False)
class Multiplied:
    """The weight of one call of a layer, as its operator is given it.

    Attributes:
        weight: A copy; once where the operator multiplies every sample by the same.
        axis: Its axis of output channels.
    """

    weight: Tensor
    axis: int

    @classmethod
    def of(cls, weight: Tensor, axis: int) -> Multiplied:
        """The weight that an operator is given: a batch of matrices that repeats one of them is that one."""
        if weight.dim() == _BATCHED and axis and (weight.shape[0] == 1 or weight.stride(0) == 0):
            weight, axis = weight[0], axis - 1
        return cls(weight.detach().clone(), axis)


_BATCHED = 3


class _Taken(AtOperator):
    """Keeps the weights that one layer multiplies by."""

    def __init__(self, model: nn.Module, layer: Layer) -> None:
        self.parameter = parameter_place(model, layer)
        self.dynamic_kernel = layer.has_dynamic_kernel
        self.weights: list[Multiplied] = []

    def operand(self, tensor: Tensor) -> Tensor:
        """Leave it."""
        return tensor

    def weight(self, tensor: Tensor, axis: int) -> Tensor:
        """Keep a copy of the weight."""
        with nothing_rounded():
            self.weights.append(Multiplied.of(tensor, axis))
        return tensor

    def product(self, tensor: Tensor) -> Tensor:
        """Leave it."""
        return tensor


@torch.no_grad()
def find_multiplied(
    model: nn.Module,
    layers: Iterable[Layer],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    instead: Mapping[str, Tensor] | None = None,
) -> dict[str, tuple[Multiplied, ...]]:
    """Run the model once and keep every weight that is met at its operator, for each call of its layer.

    Args:
        model: In eval mode.
        layers: Its layers; those that are not met at their operator are passed over.
        args: Positional arguments of the pass.
        kwargs: Keyword arguments likewise.
        instead: For names of layers, what stands in the place of their parameters meanwhile.

    Returns:
        By name of the layer; a layer that multiplies several times in one call has the first weight alone.

    Raises:
        TracingError: If the model fails with these inputs.
    """
    taken = {layer: _Taken(model, layer) for layer in layers if layer.runs_in is not None}
    if not taken:
        return {}
    hooks = [(model.get_submodule(layer.runs_in or ""), taker) for layer, taker in taken.items()]
    with contextlib.ExitStack() as stack:
        for layer, taker in taken.items():
            if layer.name in (instead or {}):
                stack.enter_context(exchanged(*taker.parameter, (instead or {})[layer.name]))
        stack.enter_context(hooked(before=hooks))
        try:
            model(*copied(args), **copied(kwargs))
        except Exception as error:
            raise TracingError(f"{type(model).__name__} fails with the example inputs: {error}.") from error
    return {layer.name: tuple(taker.weights[: layer.calls]) for layer, taker in taken.items()}
