"""One plan for simulation, export and engine: which layer is quantized how, and what is left out with its reason."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.deploy.prepare.folded import folded_copy
from sensitivity.deploy.prepare.omission import Omission, OmissionKind
from sensitivity.deploy.prepare.placement import ANY_ENGINE, Target, check_deployable
from sensitivity.deploy.prepare.signature import signature_of
from sensitivity.errors import CalibrationError
from sensitivity.layers.inputs import arguments_of, on_device_of, tensors_in
from sensitivity.layers.select import resolve
from sensitivity.layers.table import LayerTable
from sensitivity.perturb.activations import Hooks, activation_hooks, quantizer
from sensitivity.perturb.cures import compensation_of, corrected_bias
from sensitivity.perturb.digest import weights_digest
from sensitivity.perturb.disturb import Disturber
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.kept import Kept, around, find_kept
from sensitivity.perturb.rest import half_rest
from sensitivity.perturb.restore import untouched
from sensitivity.perturb.weights import exchanged, is_computed, output_axis
from sensitivity.quantize.calibration import Calibration, Point
from sensitivity.quantize.cures.statistics import InputStatistics
from sensitivity.quantize.fake import Rounding, dequantize, fake_quantize, quantize
from sensitivity.quantize.prune import prune_weight
from sensitivity.quantize.scales import QuantParams, params_from_range
from sensitivity.quantize.weights import weight_params
from sensitivity.records import Layer, Recipe, Scheme

_COMPUTED = (
    "what it multiplies by is computed in each pass, or read by others as well: there is no parameter that the graph "
    "could hold in int8 instead"
)


@dataclass(frozen=True, eq=False)
class Codes:
    """A quantized weight.

    Attributes:
        codes: Integer codes, of the weight's shape.
        params: Their scales.
    """

    codes: Tensor
    params: QuantParams

    @property
    def values(self) -> Tensor:
        """What the codes stand for, float32."""
        return dequantize(self.codes, self.params)


@dataclass(frozen=True, eq=False)
class Basis:
    """What all plans of one model share: it is folded once, and exported once for each choice of parts.

    Attributes:
        model: A frozen copy of the model in eval mode, batch norms folded.
        layers: The layers of that copy.
        unfolded: Layers whose norm could not be folded, with the reason.
        args: Positional arguments of one example pass, cut to one sample where that is possible.
        kwargs: Keyword arguments likewise.
        digest: Of the weights that the copy was made of.
        exports: Kept by ``deploy.export.export``.
        kept: Kept by ``Plan.kept``.
    """

    model: nn.Module
    layers: LayerTable
    unfolded: Mapping[str, str]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    digest: str
    exports: dict[Any, Any] = field(default_factory=dict, repr=False)
    kept: dict[Any, Kept] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is deployed.

    Attributes:
        basis: The folded copy and what was exported of it.
        scheme: What was asked for.
        recipes: What each layer gets, by name; layers that stay in high precision are absent.
        omissions: Layers that the scheme quantizes and this plan does not, with kind and reason.
        ranges: Activation ranges for each recipe that needs some, by the recipe's digest.
        target: What it was made for.
        parts: Paths of the submodules that an engine runs; None where that is not decided yet, and all is simulated.
    """

    basis: Basis
    scheme: Scheme
    recipes: Mapping[str, Recipe]
    omissions: Mapping[str, Omission]
    ranges: Mapping[str, Calibration]
    target: Target = ANY_ENGINE
    parts: tuple[str, ...] | None = None
    _weights: dict[str, Codes] = field(default_factory=dict, repr=False)

    @property
    def model(self) -> nn.Module:
        """The folded copy of the model."""
        return self.basis.model

    @property
    def layers(self) -> LayerTable:
        """The layers of the folded copy."""
        return self.basis.layers

    @property
    def unfolded(self) -> Mapping[str, str]:
        """Layers whose norm could not be folded, with the reason."""
        return self.basis.unfolded

    @property
    def left_out(self) -> Mapping[str, str]:
        """``omissions`` as text, for people."""
        return {name: str(omission) for name, omission in self.omissions.items()}

    @property
    def quantized(self) -> tuple[Layer, ...]:
        """The layers that are quantized, in execution order."""
        return tuple(layer for layer in self.layers if layer.name in self.recipes)

    def expected_precision(self, layer: Layer) -> str:
        """What an engine should compute a layer in.

        ``int8`` where weight and activations are quantized; else what the rest is computed in, or ``fp32`` where the
        layer is inside a module that is kept so.
        """
        recipe = self.recipes.get(layer.name)
        if recipe is not None and recipe.weights is not None and recipe.activations is not None:
            return "int8"
        return "fp32" if self.kept.holds(around(layer.module)) else self.scheme.rest

    @property
    def kept(self) -> Kept:
        """What stays in fp32 where the rest does not.

        Raises:
            LayerNotFoundError: If something to keep is not in the model.
        """
        return self._find_kept()

    def _find_kept(self) -> Kept:
        """What ``kept`` gives; found once for each scheme's rest."""
        basis, key = self.basis, (self.scheme.rest == "fp32", self.scheme.keep_fp32)
        if key not in basis.kept:
            inputs = dict(basis.kwargs) or basis.args
            basis.kept[key] = find_kept(basis.model, basis.layers, self.scheme, inputs)
        return basis.kept[key]

    def in_fp32(self) -> Plan:
        """The same plan with the rest in fp32."""
        return replace(self, scheme=self.scheme.with_rest("fp32"))

    def without(self, reasons: Mapping[str, str], kind: OmissionKind = OmissionKind.LEFT_IN_FLOAT) -> Plan:
        """The same plan with some layers left in high precision.

        Args:
            reasons: Layer names to the reasons.
            kind: The kind of all of them.
        """
        recipes = {name: recipe for name, recipe in self.recipes.items() if name not in reasons}
        omissions = {name: Omission(kind, reason) for name, reason in reasons.items() if name in self.recipes}
        return replace(self, recipes=recipes, omissions={**self.omissions, **omissions})

    def only(self, names: Sequence[str]) -> Plan:
        """The same plan with these layers quantized and no other; nothing counts as left out."""
        return replace(self, recipes={name: self.recipes[name] for name in names}, omissions={})

    def float_weight(self, layer: Layer) -> Tensor:
        """The folded weight before quantization, pruned where the recipe says so."""
        weight = self.model.get_submodule(layer.module)._parameters[layer.weight]
        assert weight is not None
        recipe = self.recipes.get(layer.name)
        if recipe is None or recipe.pruning is None:
            return weight.detach()
        return prune_weight(weight.detach(), recipe.pruning, output_axis=output_axis(layer), groups=layer.groups)

    def weight_codes(self, layer: Layer) -> Codes | None:
        """The quantized weight of a layer, or None where it stays in float."""
        recipe = self.recipes.get(layer.name)
        if recipe is None or recipe.weights is None:
            return None
        if layer.name not in self._weights:
            weight = self.float_weight(layer).float()
            params = weight_params(weight, recipe.weights, output_axis=output_axis(layer))
            self._weights[layer.name] = Codes(self._rounded(layer, recipe, weight, params), params)
        return self._weights[layer.name]

    def _rounded(self, layer: Layer, recipe: Recipe, weight: Tensor, params: QuantParams) -> Tensor:
        codes_of = compensation_of(self.model.get_submodule(layer.module), recipe, self._inputs_of(layer))
        return quantize(weight, params) if codes_of is None else codes_of(weight, params)

    def _inputs_of(self, layer: Layer) -> InputStatistics | None:
        recipe = self.recipes[layer.name]
        return self.ranges[recipe.digest].inputs_of(layer.name) if recipe.has_cures else None

    def bias(self, layer: Layer) -> Tensor | None:
        """The bias that is added in float, corrected where the recipe says so; None where there is none."""
        own = self.model.get_submodule(layer.module)._parameters.get("bias")
        corrected = self._corrected_bias(layer)
        return corrected if corrected is not None else None if own is None else own.detach()

    def _corrected_bias(self, layer: Layer) -> Tensor | None:
        module, recipe = self.model.get_submodule(layer.module), self.recipes.get(layer.name)
        if recipe is None or not recipe.bias_correction:
            return None
        return corrected_bias(module, layer, recipe, self.simulated_weight(layer), self._inputs_of(layer))

    @property
    def uncured(self) -> Mapping[str, str]:
        """Layers that are quantized without the cures of their recipe, with the reason."""
        reasons: dict[str, str] = {}
        for layer in self.quantized:
            recipe = self.recipes[layer.name]
            if recipe.has_cures and self._inputs_of(layer) is None:
                statistics = self.ranges[recipe.digest].statistics
                known = {} if statistics is None else statistics.uncured
                reasons[layer.name] = known.get(layer.name, "nothing is known of its inputs")
        return reasons

    def input_params(self, layer: Layer, call: int = 0) -> QuantParams | None:
        """Scale and zero point of a layer's input at one of its calls, or None where it stays in float.

        Raises:
            CalibrationError: If the range is not known.
        """
        recipe = self.recipes.get(layer.name)
        if recipe is None or recipe.activations is None:
            return None
        found = self.ranges[recipe.digest].range_of(Point(layer.name, "input", call))
        low, high = (torch.tensor(end, dtype=torch.float64).reshape(()) for end in (found.low, found.high))
        return params_from_range(low, high, recipe.activations)

    @contextlib.contextmanager
    def simulated(self, *, rounding: Rounding = "onnx") -> Iterator[nn.Module]:
        """The folded copy with its layers fake-quantized, as the exported graph says, and the rest as the scheme says.

        Args:
            rounding: How activations are divided by their scale: ``onnx`` as engines define it.

        Yields:
            ``model``, which computes the plan inside the ``with`` block.
        """
        hooks = Hooks()
        with torch.no_grad(), contextlib.ExitStack() as stack:
            for layer in self.quantized:
                weight = self.simulated_weight(layer)
                module, bias = self.model.get_submodule(layer.module), self._corrected_bias(layer)
                stack.enter_context(exchanged(module, layer.weight, weight))
                if bias is not None:
                    stack.enter_context(exchanged(module, "bias", bias))
                own = self._activation_hooks(layer, rounding)
                hooks.before += own.before
                hooks.after += own.after
            stack.enter_context(hooked(before=hooks.before, after=hooks.after))
            stack.enter_context(self._half_rest())
            yield self.model

    def _half_rest(self) -> contextlib.AbstractContextManager[None]:
        rest, kept = self.scheme.rest, self.kept
        return half_rest(self.model, self.layers, self.recipes, rest, kept, within=self.parts)

    def simulated_weight(self, layer: Layer) -> Tensor:
        """The weight that the simulation computes with."""
        codes = self.weight_codes(layer)
        weight = self.float_weight(layer)
        return weight if codes is None else codes.values.to(weight.dtype)

    def _activation_hooks(self, layer: Layer, rounding: Rounding) -> Hooks:
        recipe = self.recipes[layer.name]
        if recipe.activations is None:
            return Hooks()
        device = self.model.get_submodule(layer.module)._parameters[layer.weight].device  # type: ignore[union-attr]
        quantizers = {}
        for call in range(layer.calls):
            params = self.input_params(layer, call)
            assert params is not None
            quantizers["input", call] = _fake(params.to(device), rounding)
        return activation_hooks(self.model, layer, recipe, quantizer(quantizers, layer.name))


def make_basis(model: nn.Module, layers: LayerTable, example_inputs: Any) -> Basis:
    """A folded copy of a model, to plan with.

    Args:
        model: Any module; not changed.
        layers: Its layers.
        example_inputs: What it accepts: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Raises:
        ExportError: If the model cannot be copied.
        TracingError: If it fails with these inputs.
    """
    given = on_device_of(model, arguments_of(example_inputs))
    args, kwargs = one_sample(given)
    if not _runs_singly(model, args, kwargs):
        args, kwargs = given
    folded = folded_copy(model, layers, args, kwargs)
    return Basis(folded.model, folded.layers, folded.kept, args, kwargs, weights_digest(model))


def _runs_singly(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the model can be run sample by sample, so that a graph for one serves any number."""
    with untouched(model):
        try:
            return signature_of(model, args, kwargs).splits
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            return False  # it does not take one sample alone


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
        CalibrationError: If activations are to be quantized and no ranges are known.
    """
    recipes = resolve(scheme, basis.layers, model=basis.layers.model)
    check_deployable(recipes, target)
    disturber = Disturber(model, calibrations)  # knows which ranges belong to which weights
    ranges = {one.digest: disturber.calibration_for(one) for one in recipes.values() if one.needs_calibration}
    plan = Plan(basis, scheme, recipes, {}, ranges, target)
    refuses = target.refuses_layer
    if refuses is not None:
        plan = plan.without({layer.name: reason for layer in plan.quantized if (reason := refuses(layer))})
    plan = plan.without({layer.name: _COMPUTED for layer in plan.quantized if _computes_weight(plan.model, layer)})
    plan = plan.without(_unreached(plan))
    plan._find_kept()  # now, while nothing is hooked
    return plan


def _computes_weight(model: nn.Module, layer: Layer) -> bool:
    return is_computed(layer) or model.get_submodule(layer.module)._parameters.get(layer.weight) is None


def one_sample(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with every tensor that counts samples cut to the first one.

    A tensor counts samples where its first axis is as long as that of the first tensor.
    """
    from torch.utils._pytree import tree_map

    first = next(tensors_in(arguments), None)
    if first is None or first.dim() == 0 or first.shape[0] <= 1:
        return arguments
    samples = first.shape[0]

    def cut(leaf: Any) -> Any:
        counts = isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == samples
        return leaf[:1] if counts else leaf

    cut_args, cut_kwargs = tree_map(cut, arguments)
    return tuple(cut_args), dict(cut_kwargs)


def _unreached(plan: Plan) -> dict[str, str]:
    """Layers that have no range at one of their calls, with the reason: no calibration image reached them there."""
    reasons: dict[str, str] = {}
    for layer in plan.quantized:
        for call in range(layer.calls):
            try:
                plan.input_params(layer, call)
            except CalibrationError as error:
                reasons.setdefault(layer.name, str(error))
    return reasons


def _fake(params: QuantParams, rounding: Rounding) -> Any:
    return lambda tensor: fake_quantize(tensor, params, rounding=rounding)
