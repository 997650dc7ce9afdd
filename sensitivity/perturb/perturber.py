"""Recipes applied to layers for the time of a ``with`` block."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.perturb.activations import Hooks, Quantizers, activation_hooks, one_call, quantizer, unchanged
from sensitivity.perturb.cures import corrected_bias
from sensitivity.perturb.hooks import Counting, hooked
from sensitivity.perturb.operators import AtOperator, Unnested
from sensitivity.perturb.parameters import parameter_place
from sensitivity.perturb.state.sole_use import perturbed
from sensitivity.perturb.state.state import check_has_numbers
from sensitivity.perturb.weights import changed_in_passing, perturbed_weight, stood_in_for
from sensitivity.quantize.calibration import Calibration, Point, why_unreached
from sensitivity.quantize.cures.statistics import InputStatistics
from sensitivity.quantize.fake import activation_quantizer
from sensitivity.records import Layer, QuantSpec, Recipe
from sensitivity.weights import weights_digest


@dataclass(frozen=True)
class _Prepared:
    """One layer with one recipe, computed once and applied many times."""

    module: nn.Module
    weight_name: str
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    hooks: Hooks

    @property
    def modules(self) -> set[nn.Module]:
        """Every module that computes something else: with a new weight or a hook."""
        weighted = {self.module} if self.weight is not None or self.bias is not None else set()
        holders = {hook.parameter[0] for _, hook in self.hooks.before if isinstance(hook, AtOperator)}
        return weighted | holders | {module for module, _ in [*self.hooks.before, *self.hooks.after]}

    @property
    def counts(self) -> bool:
        """Whether its hooks keep count of calls, so that none of them may be left out."""
        return any(
            isinstance(hook, AtOperator | Unnested) or (isinstance(hook, Counting) and bool(hook.holders))
            for _, hook in self.hooks.before
        )


class Perturber:
    """Applies recipes to the layers of one model; weights are quantized once and kept.

    Args:
        model: The model; it is changed inside ``applied`` only, and put back. Its weights must stay the same for as
            long as this lives.
        calibrations: Activation ranges; the last one that fits a recipe and was made on the model's weights is used.

    Raises:
        ModelError: If the model has no numbers, being on the meta device.
    """

    def __init__(self, model: nn.Module, calibrations: Sequence[Calibration] = ()) -> None:
        check_has_numbers(model)
        self.model = model
        self.calibrations = tuple(calibrations)
        self._prepared: dict[tuple[str, Recipe], _Prepared] = {}
        self._weights_made: dict[tuple[Any, ...], Tensor | None] = {}

    @contextlib.contextmanager
    def applied(self, recipes: Mapping[Layer, Recipe], *, call: int | None = None) -> Iterator[None]:
        """The model with these layers perturbed; as it was afterwards, also after an interrupt.

        Args:
            recipes: What is done to each.
            call: For running layers by themselves: which of its calls in a pass of the model that is. None for passes.

        Raises:
            CalibrationError: If a recipe quantizes activations and no range is known, here or for a call that is made
                inside.
            RecipeError: If a recipe does not fit its layer.
        """
        prepared = [self._prepare(layer, recipe) for layer, recipe in recipes.items()]
        before = [hook for layer_change in prepared for hook in layer_change.hooks.before]
        after = [hook for layer_change in prepared for hook in layer_change.hooks.after]
        with contextlib.ExitStack() as stack:
            stack.enter_context(perturbed(self.model))
            for layer_change in prepared:
                one_call(layer_change.hooks, call)
                stack.callback(one_call, layer_change.hooks, None)
                if layer_change.weight is not None:
                    stack.enter_context(
                        stood_in_for(layer_change.module, layer_change.weight_name, layer_change.weight)
                    )
                if layer_change.bias is not None:
                    stack.enter_context(stood_in_for(layer_change.module, "bias", layer_change.bias))
            stack.enter_context(hooked(before=before, after=after))
            yield

    def touched(
        self, recipes: Mapping[Layer, Recipe], *, instead_of: Mapping[Layer, Recipe] | None = None
    ) -> set[nn.Module]:
        """Every module that computes something else inside ``applied``: those with a new weight or a hook.

        Args:
            recipes: What is done to each layer.
            instead_of: What is done to them otherwise. Modules that compute the same in both cases are left out, unless
                a hook counts their calls: its count would be wrong in a pass that leaves some of them out.
        """
        others = {} if instead_of is None else instead_of
        layers = [*recipes, *(layer for layer in others if layer not in recipes)]
        modules: set[nn.Module] = set()
        for layer in layers:
            changes = [
                self._prepare(layer, assignment[layer]) for assignment in (recipes, others) if layer in assignment
            ]
            if recipes.get(layer) != others.get(layer) or any(change.counts for change in changes):
                modules.update(*(change.modules for change in changes))
        return modules

    def calibration_for(self, recipe: Recipe) -> Calibration:
        """The ranges that a recipe is applied with.

        Raises:
            CalibrationError: If none fits, or those that do were made on other weights.
        """
        fitting = [calibration for calibration in reversed(self.calibrations) if calibration.fits(recipe)]
        if not fitting:
            have = "no calibration is" if not self.calibrations else "only a calibration for another recipe is"
            needs = "quantizes activations" if recipe.activations is not None else "has cures that look at inputs"
            raise CalibrationError(
                f"recipe {recipe.name!r} {needs}, and {have} at hand.",
                python="Call wrapped.calibrate(images, recipe) first, or pass calibration=.",
                shell="Give images: --calibration package.module:callable.",
            )
        calibration = next((candidate for candidate in fitting if candidate.model == self._weights), None)
        if calibration is None:
            raise CalibrationError(
                f"the calibration for recipe {recipe.name!r} was made on other weights or buffers (digest "
                f"{fitting[0].model}) than this {type(self.model).__name__} has now ({self._weights}). Load the "
                "weights it was made on, or",
                python="call wrapped.calibrate(images, recipe) again.",
                shell="let --calibration name images.",
            )
        return calibration.for_recipe(recipe)

    @functools.cached_property
    def _weights(self) -> str:
        """Digest of the unperturbed model's weights."""
        return weights_digest(self.model)

    def _prepare(self, layer: Layer, recipe: Recipe) -> _Prepared:
        key = (layer.name, recipe)
        if key not in self._prepared:
            module = self.model.get_submodule(layer.module)
            inputs = self.calibration_for(recipe).inputs_of(layer.name) if recipe.has_cures else None
            weight = self._weight(layer, recipe, inputs)
            bias = corrected_bias(module, layer, recipe, weight, inputs)
            hooks = self._hooks(layer, recipe)
            self._prepared[key] = _Prepared(module, layer.weight, _parameter(weight), _parameter(bias), hooks)
        return self._prepared[key]

    def _weight(self, layer: Layer, recipe: Recipe, inputs: InputStatistics | None) -> Tensor | None:
        """What a recipe makes of a weight; made once for recipes that differ in what they do to activations alone."""
        key = (
            layer.name,
            recipe.weights,
            recipe.pruning,
            recipe.placement,
            None if recipe.rounding == "nearest" else recipe,
        )
        if key not in self._weights_made:
            try:
                self._weights_made[key] = perturbed_weight(self.model, layer, recipe, inputs)
            except (CalibrationError, RecipeError) as error:
                raise type(error)(f"{layer.name}: its weight cannot be changed so: {error}") from error
        return self._weights_made[key]

    def why_unreached(self, layer: Layer, recipe: Recipe) -> str:
        """Why one of a layer's calls has no range: no calibration image gave it values; empty where all have one.

        A layer is quantized at all its calls or at none, as they share one weight. It is empty, too, where the recipe
        needs no ranges.

        Raises:
            CalibrationError: If no calibration at all fits the recipe, or a weight has no range either.
            RecipeError: If the recipe does not fit the layer.
        """
        if recipe.activations is None:
            return ""
        calibration = self.calibration_for(recipe)
        try:
            self._prepare(layer, recipe)
        except CalibrationError as error:
            if Point(layer.name, "input", 0) in calibration.ranges:
                raise
            return str(error)
        return why_unreached(calibration, layer)

    def changed_weight(self, layer: Layer, recipe: Recipe) -> Tensor | None:
        """What a recipe makes of a layer's weight; None where it leaves it alone, or it is computed in each pass."""
        weight = self._prepare(layer, recipe).weight
        return None if weight is None else weight.detach()

    def quantizers(self, layer: Layer, recipe: Recipe) -> Quantizers:
        """What a recipe does to each tensor of a layer that was observed, by place and call.

        Raises:
            CalibrationError: If the recipe quantizes activations and no range is known.
        """
        if recipe.activations is None:
            return {}
        calibration = self.calibration_for(recipe)
        owner, name = parameter_place(self.model, layer)
        return _quantizers(layer, recipe.activations, calibration, owner._parameters[name])

    def _hooks(self, layer: Layer, recipe: Recipe) -> Hooks:
        change_weight = changed_in_passing(self.model, layer, recipe)
        if recipe.activations is None:
            if change_weight is None:
                return Hooks()
            return activation_hooks(self.model, layer, recipe, unchanged, change_weight=change_weight)
        quantizers: dict[tuple[str, int], Callable[[Tensor], Tensor]] = {}
        change = quantizer(quantizers, layer.name)
        hooks = activation_hooks(self.model, layer, recipe, change, strict=True, change_weight=change_weight)
        quantizers |= self.quantizers(layer, recipe)  # second: what no hook can reach has no range either
        return hooks


def _parameter(tensor: Tensor | None) -> nn.Parameter | None:
    """What stands in for a parameter: the same object in every pass, by which replay knows it."""
    return None if tensor is None else nn.Parameter(tensor, requires_grad=False)


def _quantizers(layer: Layer, spec: QuantSpec, calibration: Calibration, like: Tensor | None) -> Quantizers:
    """A quantizer for every place and call of a layer that was observed."""
    calibration.range_of(Point(layer.name, "input", 0))
    device = like.device if like is not None else None
    return {
        (point.place, point.call): activation_quantizer(limits.low, limits.high, spec, device=device)
        for point, limits in calibration.ranges.items()
        if point.layer == layer.name
    }
