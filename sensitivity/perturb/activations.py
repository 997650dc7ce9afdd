"""Activations of one layer, observed or quantized on their way through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.errors import RecipeError
from sensitivity.perturb.hooks import After, Arguments, Before
from sensitivity.records import Layer, Recipe

Change = Callable[[str, int, Tensor], Tensor | None]
"""What happens to a tensor: place, call number and tensor in; a new tensor or None (leave it) out."""

ATTENTION_OPERANDS = 3  # query, key and value of a module with one joint input projection


@dataclass
class Hooks:
    """What to register for one layer or for many."""

    before: list[tuple[nn.Module, Before]] = field(default_factory=list)
    after: list[tuple[nn.Module, After]] = field(default_factory=list)


@dataclass
class _Counter:
    """Which call of a layer is running; a layer that runs ``calls`` times a pass starts again after them."""

    calls: int
    started: int = -1

    @property
    def current(self) -> int:
        return self.started % self.calls


def activation_hooks(model: nn.Module, layer: Layer, recipe: Recipe, change: Change) -> Hooks:
    """Hooks that hand every tensor a recipe's placement quantizes to ``change``.

    ``deploy``: the layer's input. ``conv-norm-act``: also the output of the layer, of its norm and of its activation.

    Raises:
        RecipeError: If the placement needs a tensor behind a function, which no hook can see.
    """
    module = model.get_submodule(layer.module)
    counter = _Counter(layer.calls)
    hooks = Hooks()
    hooks.before.append((module, _on_input(layer, counter, change)))
    if recipe.placement == "conv-norm-act":
        hooks.after.append((module, _on_output("output", counter, change)))
        for place, path, what in (
            ("norm", layer.norm_module, layer.norm),
            ("activation", layer.activation_module, layer.activation),
        ):
            if path is not None:
                hooks.after.append((model.get_submodule(path), _on_output_behind(place, counter, change)))
            elif what is not None:
                raise RecipeError(
                    f"{layer.name}: its {place} {what} is written as a function, whose output no hook can quantize. "
                    "Use a recipe with placement 'deploy', or write it as a module."
                )
    return hooks


def _on_input(layer: Layer, counter: _Counter, change: Change) -> Before:
    operands = ATTENTION_OPERANDS if layer.weight == "in_proj_weight" else 1

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        counter.started += 1
        changed: dict[int, Tensor] = {}

        def replace(value: Any) -> Any:
            usable = isinstance(value, Tensor) and value.is_floating_point()
            if not usable or (len(changed) >= operands and id(value) not in changed):
                return value
            if id(value) not in changed:
                result = change("input", counter.current, value)
                changed[id(value)] = value if result is None else result
            return changed[id(value)]

        new_args = tuple(replace(value) for value in args)
        new_kwargs = {key: replace(value) for key, value in kwargs.items()}
        return new_args, new_kwargs

    return before


def _on_output(place: str, counter: _Counter, change: Change) -> After:
    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        return change(place, counter.current, output) if isinstance(output, Tensor) else None

    return after


def _on_output_behind(place: str, counter: _Counter, change: Change) -> After:
    """For a norm or activation module that may serve several layers: acts only right behind its own layer."""
    seen = _Counter(counter.calls)

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if counter.started <= seen.started or not isinstance(output, Tensor):
            return None  # another layer's turn: ours has not run since
        seen.started = counter.started
        return change(place, counter.current, output)

    return after


def quantizer(quantizers: Mapping[tuple[str, int], Callable[[Tensor], Tensor]]) -> Change:
    """A change that quantizes each place of each call with its own quantizer."""

    def change(place: str, call: int, tensor: Tensor) -> Tensor | None:
        function = quantizers.get((place, call))
        if function is None or tensor.numel() == 0:
            return None
        return function(tensor)

    return change


def observer(observe: Callable[[str, int, Tensor], None]) -> Change:
    """A change that changes nothing and looks at every tensor."""

    def change(place: str, call: int, tensor: Tensor) -> Tensor | None:
        with torch.no_grad():
            observe(place, call, tensor.detach())
        return None

    return change
