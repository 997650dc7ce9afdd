"""One pass over calibration images: the range of every tensor that a recipe quantizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.perturb.activations import Hooks, activation_hooks, observer
from sensitivity.perturb.digest import weights_digest
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.restore import untouched
from sensitivity.quantize.calibration import Calibration, Point, Range
from sensitivity.quantize.observers import Observer, make_observer
from sensitivity.records import Layer, Recipe


def calibrate(
    model: nn.Module, layers: Sequence[Layer], recipe: Recipe, runs: Iterable[tuple[Callable[[], Any], int]]
) -> Calibration:
    """Observe every tensor that a recipe quantizes, all layers in one streaming pass.

    Args:
        model: The model; left as it was.
        layers: Layers to observe.
        recipe: Says which tensors are observed, and how.
        runs: One item a batch: a function that runs the model on it, and the number of its images.

    Returns:
        The ranges. Memory does not depend on the number of images.

    Raises:
        CalibrationError: If there are no images, or a tensor holds NaN or infinity.
        RecipeError: If the recipe quantizes no activations.
    """
    spec = recipe.activations
    if spec is None:
        raise RecipeError(f"recipe {recipe.name!r} quantizes no activations: there is nothing to calibrate.")
    observers: dict[Point, Observer] = {}
    elements: dict[Point, int] = {}
    hooks = Hooks()
    for layer in layers:

        def observe(place: str, call: int, tensor: Tensor, name: str = layer.name) -> None:
            point = Point(name, place, call)
            if point not in observers:
                observers[point] = make_observer(spec)
                elements[point] = tensor.numel() // max(1, tensor.shape[0] if tensor.dim() else 1)
            try:
                observers[point].observe(tensor)
            except CalibrationError as error:
                raise CalibrationError(f"{point}: {error}") from error

        own = activation_hooks(model, layer, recipe, observer(observe))
        hooks.before += own.before
        hooks.after += own.after
    images = 0
    with untouched(model), torch.no_grad(), hooked(before=hooks.before, after=hooks.after):
        for run, count in runs:
            run()
            images += count
    if not observers:
        raise CalibrationError("no image was given to calibrate with. Pass at least one batch; some hundred are usual.")
    ranges = {point: _range(point, one, elements[point]) for point, one in observers.items()}
    return Calibration(ranges, spec, recipe.placement, images, weights_digest(model))


def _range(point: Point, one: Observer, elements: int) -> Range:
    try:
        low, high = one.range()
    except CalibrationError as error:
        raise CalibrationError(f"{point}: {error}") from error
    return Range(tuple(low.double().flatten().tolist()), tuple(high.double().flatten().tolist()), elements)
