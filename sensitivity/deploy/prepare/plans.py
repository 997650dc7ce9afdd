"""All plans of one model: it is folded once, and exported once, for as long as its weights stay the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from sensitivity.deploy.prepare.basis import Basis, make_basis
from sensitivity.deploy.prepare.placement import ANY_ENGINE, Target, check_deployable
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.errors import CalibrationError, ModelError
from sensitivity.layers.select import resolve
from sensitivity.layers.table import LayerTable
from sensitivity.perturb.half.kept import around
from sensitivity.perturb.parameters import parameter_of
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.state.sole_use import sole_use
from sensitivity.perturb.weights import folded_scale
from sensitivity.quantize.calibration import Calibration, largest_peaks, why_unreached
from sensitivity.records import Recipe, Scheme
from sensitivity.weights import modules_digest, weights_digest

_MIXED = (
    "its kernel is dynamic: each input mixes, scales or chooses it from a parameter, and an int8 convolution of an "
    "engine holds one constant kernel"
)


class Plans:
    """Makes plans of a model that share one folded copy of it.

    Args:
        model: Any module; not changed.
        layers: Its layers.
        example_inputs: What it accepts: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        modules: Digest of its modules when its layers were found.
    """

    def __init__(self, model: nn.Module, layers: LayerTable, example_inputs: Any, modules: str) -> None:
        self._model = model
        self._layers = layers
        self._example_inputs = example_inputs
        self._modules = modules
        self._basis: Basis | None = None

    def plan(
        self, scheme: Scheme, calibrations: Sequence[Calibration], *, target: Target = ANY_ENGINE, example: Any = None
    ) -> Plan:
        """What deploying a scheme means.

        Args:
            scheme: Which layer gets which recipe.
            calibrations: Activation ranges; the last one that fits a recipe is used.
            target: What the plan is for.
            example: Inputs that fix the sizes of the exported graph; its folded copy is not kept. None takes the
                example inputs.

        Raises:
            ExportError: If a recipe cannot be expressed as Q/DQ, or the model cannot be copied.
            LayerNotFoundError: If a rule of the scheme selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known, or a weight is not finite.
            ModelInUseError: If the model is perturbed now, or another thread measures it.
            ModelError: If it has other modules than when it was wrapped.
        """
        with sole_use(self._model):
            if self._modules != modules_digest(self._model):
                raise ModelError(
                    f"{self._layers.model} has other modules than when it was wrapped, which the table of layers knows "
                    "nothing of. Wrap it again: sv.wrap(model, example_inputs)."
                )
            _check_weights(self._model, self._layers, resolve(scheme, self._layers, model=self._layers.model))
            basis = self._usual_basis() if example is None else make_basis(self._model, self._layers, example)
            return make_plan(self._model, basis, scheme, calibrations, target=target)

    def _usual_basis(self) -> Basis:
        now = weights_digest(self._model), modules_digest(self._model, settings=True)
        if self._basis is None or (self._basis.digest, self._basis.settings) != now:
            self._basis = make_basis(self._model, self._layers, self._example_inputs)
        return self._basis


def make_plan(
    model: nn.Module,
    basis: Basis,
    scheme: Scheme,
    calibrations: Sequence[Calibration] = (),
    *,
    target: Target = ANY_ENGINE,
) -> Plan:
    """Decide once what simulation, export and engine will compute.

    Args:
        model: The model that the basis was made of.
        basis: Its folded copy.
        scheme: Which layer gets which recipe.
        calibrations: Activation ranges; the last one that fits a recipe is used.
        target: What the plan is for; layers that it does not run well in int8 are left out, each with its reason.

    Raises:
        ExportError: If a recipe cannot be expressed as Q/DQ.
        LayerNotFoundError: If a rule of the scheme selects no layer.
        CalibrationError: If activations are to be quantized and no ranges are known, or a weight is not finite.
    """
    recipes = resolve(scheme, basis.layers, model=basis.layers.model)
    check_deployable(recipes, basis.layers, target)
    _check_weights(basis.model, basis.layers, recipes)
    perturber = Perturber(model, calibrations)  # knows which ranges belong to which weights
    needy = [recipe for recipe in recipes.values() if recipe.needs_calibration]
    ranges = {recipe.digest: perturber.calibration_for(recipe) for recipe in needy}
    seen = list(ranges.values()) or [other for other in calibrations if other.model == basis.digest][-1:]
    fused, peaks = not target.capabilities.rounds_every_node, largest_peaks(seen)
    plan = Plan(basis, scheme, recipes, {}, ranges, target, fused=fused, peaks=peaks)
    refuses = target.refuses_layer
    if refuses is not None:
        in_int8 = [layer for layer in plan.quantized if plan.expected_precision(layer) == "int8"]
        plan = plan.without({layer.name: reason for layer in in_int8 if (reason := refuses(layer))})
    plan = plan.without({layer.name: _MIXED for layer in plan.quantized if layer.has_dynamic_kernel})
    plan = plan.without(_unreached(plan))
    kept_modules = plan.kept  # found now, while nothing is hooked
    if scheme.rest == "fp16":
        outside = {layer.name for layer in plan.quantized if not kept_modules.holds(around(layer.module))}
        plan = replace(plan, half_scales=frozenset(outside))
    return plan


def _check_weights(model: nn.Module, layers: LayerTable, recipes: Mapping[str, Recipe]) -> None:
    """Nothing, if every layer that is to be quantized has a weight of numbers, and every norm that is folded as well.

    Raises:
        CalibrationError: If one holds NaN or infinity.
    """
    for layer in layers:
        if layer.name in recipes and not bool(parameter_of(model, layer).isfinite().all()):
            raise CalibrationError(
                f"{layer.name}: its weight, or the norm behind it, holds NaN or infinite values, which cannot be "
                "quantized. Check the weights that were loaded, or leave the layer in float:",
                python=f"scheme.protect({layer.name!r}).",
                shell="a scheme that does not name it.",
            )
        scale = folded_scale(model, layer)
        if scale is not None and not bool(scale.isfinite().all()):
            raise CalibrationError(
                f"{layer.name}: the norm behind it, {layer.norm_module}, scales channels by NaN or infinite values, "
                "and cannot be folded. Check the weights and statistics that were loaded."
            )


def _unreached(plan: Plan) -> dict[str, str]:
    """Layers that have no range at one of their calls, with the reason: no calibration image reached them there."""
    needy = [layer for layer in plan.quantized if plan.recipes[layer.name].activations is not None]
    reasons = {layer.name: why_unreached(plan.ranges[plan.recipes[layer.name].digest], layer) for layer in needy}
    return {name: reason for name, reason in reasons.items() if reason}
