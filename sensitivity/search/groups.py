"""Layers that move together: those that read the same tensor, which an engine quantizes once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.contracts.task import arguments_of
from sensitivity.layers.trace.inputs import copied, on_device_of
from sensitivity.perturb.activations import Hooks, activation_hooks, observer
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.restore import untouched
from sensitivity.records import Layer, QuantSpec, Recipe

_LOOK_AT_INPUTS = Recipe("inputs", activations=QuantSpec("int8"))

Group = tuple[Layer, ...]
"""Layers in execution order."""


def groups_of(model: nn.Module, layers: Sequence[Layer], example_inputs: Any) -> list[Group]:
    """The layers in groups that read the same tensor, seen in one pass of the example inputs.

    Quantizing such a layer otherwise than its neighbours would quantize their tensor twice: engines that fuse them
    (the projections of an attention, the branches of a head) would run them one by one.

    Args:
        model: The model; left as it was.
        layers: Its layers.
        example_inputs: What it accepts.
    """
    readers_of: dict[tuple[int, int, int, int], list[Layer]] = {}
    held: list[Tensor] = []  # so that no tensor of the pass takes another one's memory

    def look(layer: Layer) -> Any:
        def observe(_: str, __: int, tensor: Tensor) -> None:
            held.append(tensor)
            key = (tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()), tensor.numel(), tensor._version)
            readers_of.setdefault(key, []).append(layer)

        return observe

    hooks = Hooks()
    for layer in layers:
        own = activation_hooks(model, layer, _LOOK_AT_INPUTS, observer(look(layer)))
        hooks.before += own.before
        hooks.after += own.after
    args, kwargs = copied(on_device_of(model, arguments_of(example_inputs)))
    with untouched(model), torch.no_grad(), hooked(before=hooks.before, after=hooks.after):
        model(*args, **kwargs)
    return _joined(layers, [readers for readers in readers_of.values() if len(readers) > 1])


def _joined(layers: Sequence[Layer], together: Sequence[Sequence[Layer]]) -> list[Group]:
    """Groups in execution order: layers that are together somewhere are in one."""
    group_of = {layer: {layer} for layer in layers}
    for readers in together:
        union = set().union(*(group_of[layer] for layer in readers))
        for layer in union:
            group_of[layer] = union
    places = {layer: place for place, layer in enumerate(layers)}
    groups = {id(group): tuple(sorted(group, key=places.__getitem__)) for group in group_of.values()}
    return sorted(groups.values(), key=lambda group: places[group[0]])
