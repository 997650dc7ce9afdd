"""One plan for simulation, export and engine: which layer is quantized how, and what is left out with its reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.deploy.prepare.folded import folded_copy
from sensitivity.deploy.prepare.multiplied import Multiplied, find_multiplied
from sensitivity.deploy.prepare.omission import Omission, OmissionKind
from sensitivity.deploy.prepare.placement import ANY_ENGINE, Target, check_deployable
from sensitivity.deploy.prepare.signature import signature_of
from sensitivity.errors import CalibrationError, TracingError
from sensitivity.layers.inputs import arguments_of, on_device_of, tensors_in
from sensitivity.layers.select import resolve
from sensitivity.layers.table import LayerTable
from sensitivity.perturb.activations import Change, ChangeWeight, Hooks, activation_hooks, quantizer
from sensitivity.perturb.cures import compensation_of, corrected_bias
from sensitivity.perturb.half_precision import Watch as HalfWatch
from sensitivity.perturb.half_precision import in_half_precision
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.kept import KeptModules, around, find_kept
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.perturb.weights import exchanged, is_computed, output_axis
from sensitivity.quantize.calibration import Calibration, Point
from sensitivity.quantize.cures.statistics import InputStatistics
from sensitivity.quantize.fake import Rounding, dequantize, fake_quantize, quantize
from sensitivity.quantize.prune import prune_weight
from sensitivity.quantize.scales import QuantParams, params_from_range
from sensitivity.quantize.weights import weight_params
from sensitivity.records import Layer, QuantSpec, Recipe, Scheme
from sensitivity.weights import weights_digest


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
        multiplied: For layers that are met at their operator, the weight of each call as it is multiplied.
        exports: KeptModules by ``deploy.export.export``.
        kept: KeptModules by ``Plan.kept``.
    """

    model: nn.Module
    layers: LayerTable
    unfolded: Mapping[str, str]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    digest: str
    multiplied: Mapping[str, tuple[Multiplied, ...]] = field(default_factory=dict, repr=False)
    exports: dict[Any, Any] = field(default_factory=dict, repr=False)
    kept: dict[Any, KeptModules] = field(default_factory=dict, repr=False)


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
        fused: Whether elementwise operations and quantizers round nothing in half precision; see
            ``perturb.half_precision.in_half_precision``.
        half_scales: Names of the layers whose scales are float16 numbers: the quantized ones of a scheme in fp16.
    """

    basis: Basis
    scheme: Scheme
    recipes: Mapping[str, Recipe]
    omissions: Mapping[str, Omission]
    ranges: Mapping[str, Calibration]
    target: Target = ANY_ENGINE
    parts: tuple[str, ...] | None = None
    fused: bool = True
    half_scales: frozenset[str] = frozenset()
    _weights: dict[str, tuple[Codes, ...]] = field(default_factory=dict, repr=False)

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

        ``int8`` where weight and activations are quantized; else what other layers are computed in, or ``fp32`` where
        the layer is inside a module that is kept so.
        """
        recipe = self.recipes.get(layer.name)
        if recipe is not None and recipe.weights is not None and recipe.activations is not None:
            return "int8"
        return "fp32" if self.kept.holds(around(layer.module)) else self.scheme.rest

    @property
    def kept(self) -> KeptModules:
        """What stays in fp32 where other layers do not.

        Raises:
            LayerNotFoundError: If something to keep is not in the model.
        """
        return self._find_kept()

    def _find_kept(self) -> KeptModules:
        """What ``kept`` gives; found once for each scheme's rest."""
        basis, key = self.basis, (self.scheme.rest == "fp32", self.scheme.keep_fp32)
        if key not in basis.kept:
            inputs = dict(basis.kwargs) or basis.args
            basis.kept[key] = find_kept(basis.model, basis.layers, self.scheme, inputs)
        return basis.kept[key]

    def in_fp32(self) -> Plan:
        """The same plan with non-quantized layers in fp32."""
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
        """The folded weight before quantization, pruned where the recipe says so.

        That of the first call where each pass computes it.
        """
        if is_computed(layer):
            return self._float_multiplied(layer)[0].weight
        weight = _parameter_of(self.model, layer).detach()
        recipe = self.recipes.get(layer.name)
        if recipe is None or recipe.pruning is None:
            return weight
        return prune_weight(weight, recipe.pruning, output_axis=output_axis(layer), groups=layer.groups)

    def _float_multiplied(self, layer: Layer) -> tuple[Multiplied, ...]:
        """The weight of every call of a layer that is met at its operator, pruned where the recipe says so."""
        calls = self.basis.multiplied[layer.name]
        recipe = self.recipes.get(layer.name)
        pruning = None if recipe is None else recipe.pruning
        if pruning is None:
            return calls
        if not is_computed(layer):
            instead, basis = {layer.name: self.float_weight(layer)}, self.basis
            return find_multiplied(self.model, [layer], basis.args, basis.kwargs, instead)[layer.name]
        pruned = [prune_weight(c.weight, pruning, output_axis=c.axis, groups=layer.groups) for c in calls]
        return tuple(replace(call, weight=weight) for call, weight in zip(calls, pruned, strict=True))

    def multiplied_weight(self, layer: Layer, call: int) -> Tensor:
        """The weight before quantization, in the arrangement in which one call multiplies by it."""
        return self.float_weight(layer) if layer.runs_in is None else self._float_multiplied(layer)[call].weight

    def weight_codes(self, layer: Layer) -> Codes | None:
        """The quantized weight of a layer, or None where it stays in float; see ``float_weight``."""
        recipe = self.recipes.get(layer.name)
        if recipe is None or recipe.weights is None:
            return None
        if is_computed(layer):
            return self.multiplied_codes(layer, 0)
        if layer.name not in self._weights:
            weight = self.float_weight(layer).float()
            params = self._as_written(layer, weight_params(weight, recipe.weights, output_axis=output_axis(layer)))
            self._weights[layer.name] = (Codes(self._rounded(layer, recipe, weight, params), params),)
        return self._weights[layer.name][0]

    def multiplied_codes(self, layer: Layer, call: int) -> Codes | None:
        """The quantized weight in the arrangement in which one call multiplies by it; None where it stays in float."""
        recipe = self.recipes.get(layer.name)
        if recipe is None or recipe.weights is None:
            return None
        if layer.runs_in is None:
            return self.weight_codes(layer)
        key = f"{layer.name} as multiplied"
        if key not in self._weights:
            whole = None if is_computed(layer) else self.weight_codes(layer)
            self._weights[key] = tuple(
                self._codes_of(layer, multiplied, recipe.weights, whole) for multiplied in self._float_multiplied(layer)
            )
        return self._weights[key][call]

    def _codes_of(self, layer: Layer, multiplied: Multiplied, spec: QuantSpec, whole: Codes | None) -> Codes:
        """The weight of one call quantized; a part of one with a single scale has the scale of the whole."""
        weight, params = multiplied.weight.float(), None if whole is None else whole.params
        if params is None or params.axis is not None:
            params = self._as_written(layer, weight_params(weight, spec, output_axis=multiplied.axis))
        return Codes(quantize(weight, params), params)

    def _as_written(self, layer: Layer, params: QuantParams) -> QuantParams:
        """Scales as the graph holds them: float16 where the layers around are in fp16."""
        return params.in_half() if layer.name in self.half_scales else params

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
        bounds = self.ranges[recipe.digest].range_of(Point(layer.name, "input", call))
        shape = (-1,) if recipe.activations.granularity == "per-channel" else ()
        low, high = (torch.tensor(end, dtype=torch.float64).reshape(shape) for end in (bounds.low, bounds.high))
        return self._as_written(layer, params_from_range(low, high, recipe.activations))

    @contextlib.contextmanager
    def simulated(
        self, *, rounding: Rounding = "onnx", watch: Watch | None = None, halves: HalfWatch | None = None
    ) -> Iterator[nn.Module]:
        """The folded copy with layers fake-quantized, as the exported graph says, and the others as the scheme says.

        Args:
            rounding: How activations are divided by their scale: ``onnx`` as engines define it.
            watch: Told of what every quantized layer reads, before it is quantized, and of what it writes; without its
                bias where it is met at its operator.
            halves: Told of all that non-quantized layers would round to half precision; nothing is rounded then.

        Yields:
            ``model``, which computes the plan inside the ``with`` block.
        """
        hooks = Hooks()
        with torch.no_grad(), contextlib.ExitStack() as stack:
            for layer in self.quantized:
                bias = self._corrected_bias(layer)  # first: it is computed from the weight as it was
                if not is_computed(layer):
                    stack.enter_context(self._weight_exchanged(layer))
                if bias is not None:
                    stack.enter_context(exchanged(self.model.get_submodule(layer.module), "bias", bias))
                own = self._activation_hooks(layer, rounding, watch)
                hooks.before += own.before
                hooks.after += own.after
            stack.enter_context(hooked(before=hooks.before, after=hooks.after))
            stack.enter_context(self._in_half_precision(halves))
            yield self.model

    def _weight_exchanged(self, layer: Layer) -> contextlib.AbstractContextManager[nn.Parameter]:
        owner, _, name = layer.parameter.rpartition(".")
        return exchanged(self.model.get_submodule(owner), name, self.simulated_weight(layer))

    def _in_half_precision(self, watch: HalfWatch | None) -> contextlib.AbstractContextManager[None]:
        settings: dict[str, Any] = {"within": self.parts, "fused": self.fused, "watch": watch}
        return in_half_precision(self.model, self.layers, self.recipes, self.scheme.rest, self.kept, **settings)

    def simulated_weight(self, layer: Layer) -> Tensor:
        """The weight that the simulation computes with."""
        codes = self.weight_codes(layer)
        weight = self.float_weight(layer)
        return weight if codes is None else codes.values.to(weight.dtype)

    def _activation_hooks(self, layer: Layer, rounding: Rounding, watch: Watch | None) -> Hooks:
        recipe, quantizers = self.recipes[layer.name], {}
        change_weight = self._in_passing(layer) if is_computed(layer) else None
        if recipe.activations is None and watch is None and change_weight is None:
            return Hooks()
        device = _parameter_of(self.model, layer).device
        for call in range(layer.calls):
            params = self.input_params(layer, call)
            if params is not None:
                quantizers["input", call] = _fake(params.to(device), rounding)
        change = quantizer(quantizers, layer.name)
        if watch is not None:
            change = _watched(change, layer, watch)
        watches = watch is not None
        return activation_hooks(
            self.model, layer, recipe, change, change_weight=change_weight, outputs=watches, adds_later=watches
        )

    def _in_passing(self, layer: Layer) -> ChangeWeight:
        """What the simulation makes of a weight that is computed in each pass."""
        known = list(enumerate(self.basis.multiplied[layer.name]))

        def change(weight: Tensor, axis: int) -> Tensor:
            same_weight = Multiplied.of(weight, axis).weight
            same = (
                call
                for call, multiplied in known
                if multiplied.weight.shape == same_weight.shape and torch.equal(multiplied.weight, same_weight)
            )
            call = next(same, None)
            if call is None:
                raise TracingError(
                    f"{layer.name} multiplies by another weight than with the example inputs: it is computed from what "
                    "the model is given, and no graph can hold it. Protect this layer."
                )
            codes = self.multiplied_codes(layer, call)
            changed = self.multiplied_weight(layer, call) if codes is None else codes.values.to(weight.dtype)
            return changed.expand_as(weight)

        return change


Watch = Callable[[Layer, int, str, Tensor], None]
"""Told of a layer, its call, ``input`` or ``output``, and the tensor there."""


def _watched(change: Change, layer: Layer, watch: Watch) -> Change:
    """The same change, of whose tensors somebody is told first."""

    def tell_first(place: str, call: int, tensor: Tensor) -> Tensor | None:
        watch(layer, call, place, tensor)
        return change(place, call, tensor)

    return tell_first


def _parameter_of(model: nn.Module, layer: Layer) -> Tensor:
    """The parameter that a layer's weight is made of."""
    owner, _, name = layer.parameter.rpartition(".")
    parameter = model.get_submodule(owner)._parameters[name]
    assert parameter is not None
    return parameter


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
    arguments = on_device_of(model, arguments_of(example_inputs))
    args, kwargs = one_sample(arguments)
    if not _runs_singly(model, args, kwargs):
        args, kwargs = arguments
    folded = folded_copy(model, layers, args, kwargs)
    multiplied = find_multiplied(folded.model, folded.layers, args, kwargs)
    return Basis(folded.model, folded.layers, folded.kept, args, kwargs, weights_digest(model), multiplied)


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
    check_deployable(recipes, basis.layers, target)
    perturber = Perturber(model, calibrations)  # knows which ranges belong to which weights
    needy = [recipe for recipe in recipes.values() if recipe.needs_calibration]
    ranges = {recipe.digest: perturber.calibration_for(recipe) for recipe in needy}
    plan = Plan(basis, scheme, recipes, {}, ranges, target, fused=not target.capabilities.rounds_every_node)
    refuses = target.refuses_layer
    if refuses is not None:
        plan = plan.without({layer.name: reason for layer in plan.quantized if (reason := refuses(layer))})
    plan = plan.without(_unreached(plan))
    kept_modules = plan._find_kept()  # now, while nothing is hooked
    if scheme.rest == "fp16":
        outside = {layer.name for layer in plan.quantized if not kept_modules.holds(around(layer.module))}
        plan = replace(plan, half_scales=frozenset(outside))
    return plan


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
