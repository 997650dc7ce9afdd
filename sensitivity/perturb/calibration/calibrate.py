"""One pass over calibration images: the range of every tensor that recipes quantize."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.contracts import Observer
from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.perturb.activations import Hooks, activation_hooks, observer
from sensitivity.perturb.calibration.peaks import PeakWatch
from sensitivity.perturb.cures import InputWatch
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.restore import untouched
from sensitivity.quantize.calibration import Calibration, Point, Range, serves
from sensitivity.quantize.observers import make_observer
from sensitivity.records import Layer, QuantSpec, Recipe
from sensitivity.records.recipes.recipe import Placement
from sensitivity.weights import weights_digest


def calibrate(
    model: nn.Module,
    layers: Sequence[Layer],
    recipes: Sequence[Recipe],
    runs: Iterable[tuple[Callable[[], Any], int]],
) -> Calibration:
    """Observe every tensor that recipes quantize: all layers, placements and observers in one streaming pass.

    Args:
        model: The model; left as it was.
        layers: Layers to observe. Those with a tensor that no hook can see are left out: they have no ranges, and
            perturbing one says why.
        recipes: Say which tensors are observed, and how; what two have in common is observed once.
        runs: One item a batch: a function that runs the model on it, and the number of its images.

    Returns:
        The ranges for all of the recipes, the same as from a pass of its own for each; a layer that no image reached
        has none. Memory does not depend on the number of images.

    Raises:
        CalibrationError: If there are no images, a tensor holds NaN or infinity, or no layer ran.
        RecipeError: If a recipe quantizes no activations, or none of the layers can be observed.
    """
    watches: list[_Watch] = []
    for recipe in recipes:
        if not any(watch.serves(recipe) for watch in watches):
            watches.append(_Watch.of(model, layers, recipe))
    images = 0
    inputs, peaks = InputWatch.of(model, layers, recipes), PeakWatch.of(model, layers)
    every = [*(watch.hooks for watch in watches), inputs.hooks, peaks.hooks]
    before = [hook for hooks in every for hook in hooks.before]
    after = [hook for hooks in every for hook in hooks.after]
    with untouched(model) as begun, torch.no_grad(), hooked(before=before, after=after):
        state = begun.for_passes()
        for run, count in runs:
            with state.same_start():
                run()
            images += count
    if not images:
        raise CalibrationError("no image was given to calibrate with. Pass at least one batch; some hundred are usual.")
    weights = weights_digest(model)
    parts = []
    for watch in watches:
        ranges, served = watch.ranges(), [recipe for recipe in recipes if watch.serves(recipe)]
        statistics = inputs.statistics(served, watch.spec, ranges)
        parts.append(Calibration(ranges, watch.spec, watch.placement, images, weights, statistics=statistics))
    return replace(Calibration.joined(parts), peaks=peaks.peaks())


@dataclass
class _Watch:
    """Observers of all layers for one spec and placement."""

    spec: QuantSpec
    placement: Placement
    hooks: Hooks = field(default_factory=Hooks)
    observers: dict[Point, Observer] = field(default_factory=dict)
    elements: dict[Point, int] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, layers: Sequence[Layer], recipe: Recipe) -> _Watch:
        """What is to be observed for a recipe.

        Raises:
            RecipeError: If that is nothing.
        """
        if not recipe.needs_calibration:
            raise RecipeError(f"recipe {recipe.name!r} quantizes no activations: there is nothing to calibrate.")
        watch = cls(recipe.activations or QuantSpec(), recipe.placement)
        left_out: list[RecipeError] = []
        for layer in layers:
            try:
                own = activation_hooks(model, layer, recipe, observer(watch.observe_in(layer.name)))
            except RecipeError as error:
                left_out.append(error)
                continue
            watch.hooks.before += own.before
            watch.hooks.after += own.after
        if left_out and len(left_out) == len(layers):
            raise left_out[0]
        return watch

    def serves(self, recipe: Recipe) -> bool:
        """Whether what it finds is what a recipe needs."""
        return serves(self.spec, self.placement, recipe)

    def observe_in(self, layer: str) -> Callable[[str, int, Tensor], None]:
        """What looks at the tensors of a layer."""

        def observe(place: str, call: int, tensor: Tensor) -> None:
            if not tensor.numel():
                return  # nothing was found in these images: a point that never has values gets no range
            point = Point(layer, place, call)
            if point not in self.observers:
                self.observers[point] = make_observer(self.spec)
                self.elements[point] = tensor.numel() // max(1, tensor.shape[0] if tensor.dim() else 1)
            try:
                self.observers[point].observe(tensor)
            except CalibrationError as error:
                raise CalibrationError(f"{point}: {error}") from error

        return observe

    def ranges(self) -> dict[Point, Range]:
        """The range of every point that had values on some image.

        Raises:
            CalibrationError: If none had, or a value is not finite.
        """
        if not self.observers:
            raise CalibrationError("none of the model's layers ran on the images given: there is nothing to calibrate.")
        return {point: _range(point, observer, self.elements[point]) for point, observer in self.observers.items()}


def _range(point: Point, observer: Observer, elements: int) -> Range:
    try:
        low, high = observer.range()
    except CalibrationError as error:
        raise CalibrationError(f"{point}: {error}") from error
    return Range(tuple(low.double().flatten().tolist()), tuple(high.double().flatten().tolist()), elements)
