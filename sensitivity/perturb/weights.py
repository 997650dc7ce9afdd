"""The weight of one layer, exchanged for a perturbed one and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from sensitivity.perturb.cures import rounded_by
from sensitivity.perturb.restore import in_eval_mode
from sensitivity.quantize.cures.statistics import InputStatistics
from sensitivity.quantize.fold import fold_scale_shift, quantize_folded_weight
from sensitivity.quantize.prune import prune_weight
from sensitivity.quantize.weights import quantize_weight
from sensitivity.records import Layer, Recipe

_MOST_PARTS = 8
"""Computed weights of one layer that are kept: the parts of a joint projection, the calls of a shared head."""


def output_axis(layer: Layer) -> int:
    """The axis of a layer's weight that counts output channels."""
    return 1 if layer.conv_type.startswith("ConvTranspose") else layer.output_axis or 0


def is_computed(layer: Layer) -> bool:
    """Whether a layer's weight is computed in each pass, so that it is quantized where it is multiplied."""
    return layer.output_axis is None


def perturbed_weight(
    model: nn.Module, layer: Layer, recipe: Recipe, inputs: InputStatistics | None = None
) -> Tensor | None:
    """What a recipe makes of a layer's weight: pruned first, then quantized.

    With the placement ``deploy``, a batch norm that follows is folded into the weight, the folded weight is quantized,
    and the fold is divided out again, so that the untouched norm behind it gives what the folded layer would.

    Args:
        model: The model; not changed.
        layer: One of its layers.
        recipe: What is done to it.
        inputs: Statistics of the layer's inputs, for a recipe whose rounding is compensated; without them weights are
            rounded to nearest.

    Returns:
        A new tensor like the weight, or None where the recipe leaves weights alone, or the weight is computed in each
        pass (see ``changed_in_passing``).
    """
    if (recipe.weights is None and recipe.pruning is None) or is_computed(layer):
        return None
    parameter = model.get_submodule(layer.module)._parameters[layer.weight]
    assert parameter is not None
    return _perturbed(model, layer, recipe, parameter.detach(), axis=output_axis(layer), inputs=inputs)


def changed_in_passing(model: nn.Module, layer: Layer, recipe: Recipe) -> Callable[[Tensor, int], Tensor] | None:
    """What a recipe makes of a weight that is computed in each pass, given the weight and its axis of output channels.

    What was made of a weight is kept for as long as that weight is computed again. None where the recipe leaves weights
    alone, or the weight is a parameter.
    """
    if (recipe.weights is None and recipe.pruning is None) or not is_computed(layer):
        return None
    changed_weights: list[tuple[Tensor, Tensor]] = []

    def change(weight: Tensor, axis: int) -> Tensor:
        for before, after in changed_weights:
            if before.shape == weight.shape and torch.equal(before, weight):
                return after
        changed = _perturbed(model, layer, recipe, weight.detach(), axis=axis)
        changed_weights.append((weight.detach().clone(), changed))
        del changed_weights[:-_MOST_PARTS]
        return changed

    return change


def _perturbed(
    model: nn.Module,
    layer: Layer,
    recipe: Recipe,
    weight: Tensor,
    *,
    axis: int,
    inputs: InputStatistics | None = None,
) -> Tensor:
    if recipe.pruning is not None:
        weight = prune_weight(weight, recipe.pruning, output_axis=axis, groups=layer.groups)
    if recipe.weights is None:
        return weight
    rounding = rounded_by(model.get_submodule(layer.module), recipe, inputs, output_axis=axis)
    scale = folded_scale(model, layer) if recipe.placement == "deploy" else None
    if scale is not None:
        groups = layer.groups
        return quantize_folded_weight(weight, recipe.weights, scale, output_axis=axis, groups=groups, rounding=rounding)
    if rounding is not None:
        return rounding(weight, recipe.weights)
    return quantize_weight(weight, recipe.weights, output_axis=axis)


def folded_scale(model: nn.Module, layer: Layer) -> Tensor | None:
    """The scale (C,) of the norm behind a layer that engines fold into its weight; None where none is folded.

    It is that of evaluation mode, in which the model is measured, whatever mode it is in now.
    """
    if layer.norm_module is None or not layer.norm_folds:
        return None
    norm = model.get_submodule(layer.norm_module)
    with in_eval_mode(norm):
        folded = fold_scale_shift(norm)
    return None if folded is None else folded[0]


def exchanged(
    module: nn.Module, name: str, tensor: Tensor, *, requires_grad: bool = False
) -> contextlib.AbstractContextManager[nn.Parameter]:
    """Another tensor in the place of a parameter for the time of a ``with`` block; see ``stood_in_for``.

    Yields:
        The parameter that stands in.
    """
    return stood_in_for(module, name, nn.Parameter(tensor, requires_grad=requires_grad))


@contextlib.contextmanager
def stood_in_for(module: nn.Module, name: str, stand_in: nn.Parameter) -> Iterator[nn.Parameter]:
    """Another parameter in the place of a module's for the time of a ``with`` block.

    The module's own is not written to: the same object returns to its place.

    Yields:
        The parameter that stands in.
    """
    original = module._parameters[name]
    try:
        module._parameters[name] = stand_in
        yield stand_in
    finally:
        module._parameters[name] = original
