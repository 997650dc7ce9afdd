"""The weight of one layer, exchanged for a disturbed one and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from sensitivity.errors import RecipeError
from sensitivity.quantize.fold import fold_scale_shift, quantize_folded_weight
from sensitivity.quantize.prune import prune_weight
from sensitivity.quantize.weights import quantize_weight
from sensitivity.records import Layer, Recipe


def output_axis(layer: Layer) -> int:
    """The axis of a layer's weight that counts output channels."""
    return 1 if layer.conv_type.startswith("ConvTranspose") else 0


def disturbed_weight(model: nn.Module, layer: Layer, recipe: Recipe) -> Tensor | None:
    """What a recipe makes of a layer's weight: pruned first, then quantized.

    With the placement ``deploy``, a batch norm that follows is folded into the weight, the folded weight is quantized,
    and the fold is divided out again, so that the untouched norm behind it gives what the folded layer would.

    Returns:
        A new tensor like the weight, or None where the recipe leaves weights alone.

    Raises:
        RecipeError: If the module computes its weight from other parameters, so that there is nothing to exchange.
    """
    if recipe.weights is None and recipe.pruning is None:
        return None
    module = model.get_submodule(layer.module)
    parameter = module._parameters.get(layer.weight)
    if parameter is None or "computed-weight" in layer.flags:
        raise RecipeError(
            f"{layer.name} ({layer.module}) computes its weight from other parameters in each forward pass. "
            "Remove the parametrization (torch.nn.utils.parametrize.remove_parametrizations) before wrapping."
        )
    weight = parameter.detach()
    axis = output_axis(layer)
    if recipe.pruning is not None:
        weight = prune_weight(weight, recipe.pruning, output_axis=axis, groups=layer.groups)
    if recipe.weights is None:
        return weight
    fold = _fold(model, layer) if recipe.placement == "deploy" else None
    if fold is None:
        return quantize_weight(weight, recipe.weights, output_axis=axis)
    return quantize_folded_weight(weight, recipe.weights, fold, output_axis=axis, groups=layer.groups)


def _fold(model: nn.Module, layer: Layer) -> Tensor | None:
    """The scale (C,) that the norm behind a layer multiplies its channels with, if it is fixed."""
    if layer.norm_module is None:
        return None
    folded = fold_scale_shift(model.get_submodule(layer.norm_module))
    return None if folded is None else folded[0]


@contextlib.contextmanager
def exchanged(module: nn.Module, name: str, tensor: Tensor, *, requires_grad: bool = False) -> Iterator[nn.Parameter]:
    """Another tensor in the place of a parameter for the time of a ``with`` block.

    The parameter itself is not written to: the same object returns to its place.

    Yields:
        The parameter that stands in.
    """
    original = module._parameters[name]
    try:
        replacement = nn.Parameter(tensor, requires_grad=requires_grad)
        module._parameters[name] = replacement
        yield replacement
    finally:
        module._parameters[name] = original
