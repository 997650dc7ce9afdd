"""Cures applied to a layer: its weight rounded with compensation, its bias corrected; and the pass that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from sensitivity.perturb.activations import Hooks, activation_hooks, observer
from sensitivity.quantize.calibration import Point, Range
from sensitivity.quantize.cures.bias import bias_correction
from sensitivity.quantize.cures.patches import geometry_of
from sensitivity.quantize.cures.rounding import compensated_codes
from sensitivity.quantize.cures.statistics import InputStatistics, StatisticKind, Statistics, statistics_for
from sensitivity.quantize.cures.sums import InputSums
from sensitivity.quantize.fake import activation_quantizer, dequantize
from sensitivity.quantize.fold import Rounded
from sensitivity.quantize.scales import QuantParams
from sensitivity.quantize.weights import weight_params
from sensitivity.records import Layer, QuantSpec, Recipe

_INPUTS = Recipe("inputs", activations=QuantSpec())


def incurable(model: nn.Module, layer: Layer) -> str | None:
    """Why cures that look at a layer's inputs cannot be applied to it; None if they can."""
    module = model.get_submodule(layer.module)
    if layer.runs_in is not None or layer.output_axis is None or layer.weight != "weight":
        return "what it multiplies is not simply what a convolution or linear module of torch is called with"
    if "computed-weight" in layer.flags or module._parameters.get("weight") is None:
        return "its weight is computed in each pass"
    if geometry_of(module) is None:
        return f"{type(module).__name__} computes in a way of its own: its forward is not that of a module of torch"
    return None


def compensation_of(
    module: nn.Module, recipe: Recipe, inputs: InputStatistics | None
) -> Callable[[Tensor, QuantParams], Tensor] | None:
    """What makes codes of the weight of a layer and its scales where its rounding is compensated; None for nearest."""
    geometry = geometry_of(module)
    if recipe.rounding == "nearest" or inputs is None or not inputs.moments or geometry is None:
        return None
    centred, keep_zeros = recipe.bias_correction, recipe.pruning is not None
    return partial(compensated_codes, inputs=inputs, geometry=geometry, centred=centred, keep_zeros=keep_zeros)


def rounded_by(
    module: nn.Module, recipe: Recipe, inputs: InputStatistics | None, *, output_axis: int = 0
) -> Rounded | None:
    """What quantizes the weight of a layer, there and back, where its rounding is compensated; None for nearest."""
    codes_of = compensation_of(module, recipe, inputs)
    if codes_of is None:
        return None

    def rounded(weight: Tensor, spec: QuantSpec) -> Tensor:
        params = weight_params(weight, spec, output_axis=output_axis)
        return dequantize(codes_of(weight, params), params).to(weight.dtype)

    return rounded


def corrected_bias(
    module: nn.Module, layer: Layer, recipe: Recipe, weight: Tensor | None, inputs: InputStatistics | None
) -> Tensor | None:
    """The bias of a layer with the mean error of its quantization taken out.

    Args:
        module: The layer's module, unperturbed.
        layer: The layer.
        recipe: What is done to it.
        weight: The weight that stands in for its own; None where that stays.
        inputs: Statistics of its inputs.

    Returns:
        A new tensor (out channels,), also where the module has no bias; None where the recipe does not correct it, or
        nothing is known of the inputs.
    """
    geometry = geometry_of(module)
    if not recipe.bias_correction or inputs is None or geometry is None:
        return None
    if recipe.activations is None:
        inputs = replace(inputs, shift=None)
    own, bias = module._parameters[layer.weight], module._parameters.get("bias")
    assert own is not None
    correction = bias_correction(own.detach(), own.detach() if weight is None else weight, inputs, geometry)
    return (correction if bias is None else bias.detach().double() + correction).to(own.dtype)


class InputWatch:
    """Sums up what cures need to know of the inputs of all layers, in the same pass as the ranges.

    Args:
        model: The model.
        layers: Its layers.
        kinds: What is wanted; nothing is watched where that is nothing.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer], kinds: frozenset[StatisticKind]) -> None:
        self.hooks = Hooks()
        self._kinds = kinds
        self._sums: dict[str, InputSums] = {}
        self._uncured: dict[str, str] = {}
        for layer in layers if kinds else ():
            reason = incurable(model, layer)
            if reason is None:
                self._watch(model, layer)
            else:
                self._uncured[layer.name] = reason

    @classmethod
    def of(cls, model: nn.Module, layers: Sequence[Layer], recipes: Sequence[Recipe]) -> InputWatch:
        """What the cures of some recipes need together."""
        return cls(model, layers, frozenset(kind for recipe in recipes for kind in statistics_for(recipe)))

    def _watch(self, model: nn.Module, layer: Layer) -> None:
        geometry = geometry_of(model.get_submodule(layer.module))
        assert geometry is not None
        sums = self._sums[layer.name] = InputSums(geometry, self._kinds)

        def observe(_: str, call: int, tensor: Tensor) -> None:
            if tensor.numel():
                sums.observe(call, tensor)

        own = activation_hooks(model, layer, _INPUTS, observer(observe))
        self.hooks.before += own.before
        self.hooks.after += own.after

    def statistics(
        self, recipes: Sequence[Recipe], spec: QuantSpec, ranges: Mapping[Point, Range]
    ) -> Statistics | None:
        """What was seen, for recipes that share the ranges of their activations; None where none of them has cures.

        Args:
            recipes: The recipes.
            spec: How they quantize activations.
            ranges: Their ranges.
        """
        kinds = frozenset(kind for recipe in recipes for kind in statistics_for(recipe))
        if not kinds:
            return None
        layers, uncured = {}, dict(self._uncured)
        for name, sums in self._sums.items():
            statistics = sums.statistics(partial(_value_quantizer, spec, ranges, name), kinds)
            if statistics is None:
                uncured[name] = "no calibration image gave it any values"
            else:
                layers[name] = statistics
        return Statistics(kinds, layers, uncured)


def _value_quantizer(
    spec: QuantSpec, ranges: Mapping[Point, Range], layer: str, call: int
) -> Callable[[Tensor], Tensor] | None:
    """What quantizes the values (positions, C) at a call of a layer; None where nothing does."""
    measured = ranges.get(Point(layer, "input", call))
    if measured is None:
        return None
    return activation_quantizer(measured.low, measured.high, replace(spec, axis=None), rounding="onnx")
