"""One pass over a few images that counts what layers read, and the same count of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.errors import CalibrationError
from sensitivity.perturb.activations import Hooks, activation_hooks, observer, quantizer_of
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.parameters import parameter_place
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.perturb.state.state import ModelState
from sensitivity.perturb.weights import is_computed, output_axis
from sensitivity.quantize.distribution import ValueCounts
from sensitivity.records import Layer, QuantSpec, Recipe
from sensitivity.records.results.distribution import Distribution

Ends = tuple[float, float]

_INPUTS = Recipe("inputs", activations=QuantSpec())


@dataclass(frozen=True)
class CountedRecipes:
    """What is done to a layer whose values are counted.

    Attributes:
        recipe: The recipe that the values are quantized with.
        cure: The layer's cure, whose range is told as well; None where there is none.
    """

    recipe: Recipe
    cure: Recipe | None = None


@dataclass
class _InputCounts:
    """The values that one layer reads, and the ranges that its recipes cover."""

    counts: ValueCounts
    ranges: dict[tuple[int, bool], Ends] = field(default_factory=dict)
    refused: bool = False

    def covered(self, *, cured: bool) -> Ends | None:
        """The ends over all calls of the layer."""
        ends = [pair for (_, of_cure), pair in self.ranges.items() if of_cure is cured]
        return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None

    def distribution(self) -> Distribution | None:
        """What was counted; None where nothing was, or a value was not finite."""
        if self.refused or not self.counts.before.total:
            return None
        return self.counts.distribution(self.covered(cured=False), self.covered(cured=True))


def input_distributions(
    perturber: Perturber, layers: Mapping[Layer, CountedRecipes], runs: Iterable[Callable[[], Any]]
) -> dict[str, Distribution | None]:
    """The values that layers read from the unperturbed model, and what their recipes make of them.

    Args:
        perturber: Knows the model, which is left as it was, and the ranges of its layers.
        layers: What is done to each layer.
        runs: Each runs the model on one batch.

    Returns:
        By the layer's name; None where no values came by, or one was not finite. Memory does not depend on the images.
    """
    model, hooks = perturber.model, Hooks()
    inputs: dict[str, _InputCounts] = {}
    for layer, recipes in layers.items():
        inputs[layer.name] = _InputCounts(ValueCounts(_input_axis(layer)))
        own = activation_hooks(
            model, layer, _INPUTS, observer(_counting(inputs[layer.name], perturber, layer, recipes))
        )
        hooks.before += own.before
        hooks.after += own.after
    with untouched(model), torch.no_grad(), hooked(before=hooks.before, after=hooks.after):
        state = ModelState(model)
        for run in runs:
            with state.same_start():
                run()
    return {name: counted.distribution() for name, counted in inputs.items()}


def _counting(
    counted: _InputCounts, perturber: Perturber, layer: Layer, recipes: CountedRecipes
) -> Callable[[str, int, Tensor], None]:
    quantizers = perturber.quantizers(layer, recipes.recipe)
    of_cure = {} if recipes.cure is None else perturber.quantizers(layer, recipes.cure)

    def observe(place: str, call: int, tensor: Tensor) -> None:
        if counted.refused or not tensor.numel():
            return
        quantize = quantizer_of(quantizers, layer.name, place, call, tensor)
        try:
            counted.counts.add(tensor, None if quantize is None else quantize(tensor))
        except CalibrationError:
            counted.refused = True
            return
        for is_cure, function in ((False, quantize), (True, of_cure.get((place, call)))):
            if function is not None and (call, is_cure) not in counted.ranges:
                counted.ranges[call, is_cure] = _ends(function, tensor)

    return observe


def _ends(quantize: Callable[[Tensor], Tensor], like: Tensor) -> Ends:
    """The lowest and the highest value that codes stand for: what infinities become."""
    infinite = torch.full_like(like, torch.inf)  # of the whole shape: channels may have ranges of their own
    return float(quantize(-infinite).min()), float(quantize(infinite).max())


def weight_distribution(perturber: Perturber, layer: Layer, recipes: CountedRecipes) -> Distribution | None:
    """The values of a layer's weight, as its recipe leaves them, and the ends of what it and the cure leave.

    Args:
        perturber: Knows the model, which is left as it was.
        layer: One of its layers.
        recipes: What is done to it.

    Returns:
        None where the weight is computed in each pass, or a value is not finite.
    """
    weight = _parameter(perturber.model, layer)
    if weight is None:
        return None
    changed = perturber.changed_weight(layer, recipes.recipe)
    cured = None if recipes.cure is None else perturber.changed_weight(layer, recipes.cure)
    counts = ValueCounts(output_axis(layer))
    try:
        counts.add(weight, changed)
    except CalibrationError:
        return None
    return counts.distribution(*(None if each is None else _reached(each) for each in (changed, cured)))


def _reached(weight: Tensor) -> Ends:
    return float(weight.min()), float(weight.max())


def _parameter(model: nn.Module, layer: Layer) -> Tensor | None:
    if is_computed(layer):
        return None
    owner, name = parameter_place(model, layer)
    parameter = owner._parameters.get(name)
    return None if parameter is None or not parameter.numel() else parameter.detach()


def _input_axis(layer: Layer) -> int:
    """The axis of the channels that a layer reads, from the back: an input may have no axis of images."""
    return -1 - len(layer.kernel_size)
