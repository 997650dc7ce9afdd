"""One plan for simulation, export and engine: which layer is quantized how, and what is left out with its reason."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sensitivity.deploy.prepare.basis import Basis
from sensitivity.deploy.prepare.multiplied import Multiplied, find_multiplied
from sensitivity.deploy.prepare.omission import Omission, OmissionKind
from sensitivity.deploy.prepare.placement import ANY_ENGINE, Target
from sensitivity.deploy.prepare.simulation import Watch, simulated_plan
from sensitivity.layers.table import LayerTable
from sensitivity.perturb.cures import compensation_of, corrected_bias
from sensitivity.perturb.half.kept import KeptModules, around, find_kept
from sensitivity.perturb.parameters import parameter_of
from sensitivity.perturb.rounding_mode import Watch as HalfWatch
from sensitivity.perturb.weights import is_computed, output_axis
from sensitivity.quantize.calibration import Calibration, Point
from sensitivity.quantize.cures.statistics import InputStatistics
from sensitivity.quantize.fake import Rounding, dequantize, quantize
from sensitivity.quantize.prune import prune_weight
from sensitivity.quantize.scales import QuantParams, params_from_range
from sensitivity.quantize.weights import weight_params
from sensitivity.records import Layer, QuantSpec, Recipe, Scheme


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
            ``perturb.half.half_precision.in_half_precision``.
        half_scales: Names of the layers whose scales are float16 numbers: the quantized ones of a scheme in fp16.
        peaks: Largest absolute values on calibration images, with these weights; empty where none are known.
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
    peaks: Mapping[Point, float] = field(default_factory=dict)
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
        """What stays in fp32 where other layers do not; found once for each precision of the others.

        Raises:
            LayerNotFoundError: If something to keep is not in the model.
        """
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
        weight = parameter_of(self.model, layer).detach()
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
        corrected = self.corrected_bias(layer)
        return corrected if corrected is not None else None if own is None else own.detach()

    def corrected_bias(self, layer: Layer) -> Tensor | None:
        """The bias that corrects what quantization shifts; None where the recipe asks for none."""
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

    def simulated_weight(self, layer: Layer) -> Tensor:
        """The weight that the simulation computes with."""
        codes = self.weight_codes(layer)
        weight = self.float_weight(layer)
        return weight if codes is None else codes.values.to(weight.dtype)

    def simulated(
        self, *, rounding: Rounding = "onnx", watch: Watch | None = None, halves: HalfWatch | None = None
    ) -> contextlib.AbstractContextManager[nn.Module]:
        """``model`` made to compute the plan inside a ``with`` block; see ``deploy.prepare.simulation``."""
        return simulated_plan(self, rounding=rounding, watch=watch, halves=halves)
