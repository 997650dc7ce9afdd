"""A plan computed in torch: layers fake-quantized as the exported graph says, the others as the scheme says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sensitivity.deploy.prepare.multiplied import Multiplied, find_multiplied
from sensitivity.errors import TracingError
from sensitivity.perturb.activations import Change, ChangeWeight, Hooks, activation_hooks, quantizer
from sensitivity.perturb.half.half_precision import in_half_precision
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.parameters import parameter_of, parameter_place
from sensitivity.perturb.rounding_mode import Watch as HalfWatch
from sensitivity.perturb.rounding_mode import nothing_rounded
from sensitivity.perturb.weights import exchanged, is_computed
from sensitivity.quantize.fake import Rounding, fake_quantize
from sensitivity.quantize.scales import QuantParams
from sensitivity.records import Layer

if TYPE_CHECKING:
    from sensitivity.deploy.prepare.plan import Plan

Watch = Callable[[Layer, int, str, Tensor], None]
"""Told of a layer, its call, ``input`` or ``output``, and the tensor there."""


@contextlib.contextmanager
def simulated_plan(
    plan: Plan, *, rounding: Rounding = "onnx", watch: Watch | None = None, halves: HalfWatch | None = None
) -> Iterator[nn.Module]:
    """The folded copy with layers fake-quantized, as the exported graph says, and the others as the scheme says.

    Args:
        plan: What is simulated.
        rounding: How activations are divided by their scale: ``onnx`` as engines define it.
        watch: Told of what every quantized layer reads, before it is quantized, and of what it writes; without its
            bias where it is met at its operator.
        halves: Told of all that non-quantized layers would round to half precision; nothing is rounded then.

    Yields:
        The folded copy, which computes the plan inside the ``with`` block.
    """
    hooks, computed = Hooks(), _computed_weights(plan, halves)
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for layer in plan.quantized:
            bias = plan.corrected_bias(layer)  # first: it is computed from the weight as it was
            if not is_computed(layer):
                stack.enter_context(_weight_exchanged(plan, layer))
            if bias is not None:
                stack.enter_context(exchanged(plan.model.get_submodule(layer.module), "bias", bias))
            own = _activation_hooks(plan, layer, computed, rounding, watch)
            hooks.before += own.before
            hooks.after += own.after
        stack.enter_context(hooked(before=hooks.before, after=hooks.after))
        stack.enter_context(_in_half_precision(plan, halves))
        yield plan.model


def _weight_exchanged(plan: Plan, layer: Layer) -> contextlib.AbstractContextManager[nn.Parameter]:
    owner, name = parameter_place(plan.model, layer)
    return exchanged(owner, name, plan.simulated_weight(layer))


def _in_half_precision(plan: Plan, watch: HalfWatch | None) -> contextlib.AbstractContextManager[None]:
    settings: dict[str, Any] = {"within": plan.parts, "fused": plan.fused, "watch": watch}
    return in_half_precision(plan.model, plan.layers, plan.recipes, plan.scheme.rest, plan.kept, **settings)


def _activation_hooks(
    plan: Plan,
    layer: Layer,
    computed: Mapping[str, Sequence[Multiplied]],
    rounding: Rounding,
    watch: Watch | None,
) -> Hooks:
    recipe, quantizers = plan.recipes[layer.name], {}
    change_weight = _in_passing(plan, layer, computed) if is_computed(layer) else None
    if recipe.activations is None and watch is None and change_weight is None:
        return Hooks()
    device = parameter_of(plan.model, layer).device
    for call in range(layer.calls):
        params = plan.input_params(layer, call)
        if params is not None:
            quantizers["input", call] = _fake(params.to(device), rounding)
    change = quantizer(quantizers, layer.name)
    if watch is not None:
        change = _watched(change, layer, watch)
    watches = watch is not None
    return activation_hooks(
        plan.model, layer, recipe, change, change_weight=change_weight, outputs=watches, adds_later=watches
    )


def _in_passing(plan: Plan, layer: Layer, known: Mapping[str, Sequence[Multiplied]]) -> ChangeWeight:
    """What the simulation makes of a weight that is computed in each pass.

    Args:
        plan: What is simulated.
        layer: One of its layers.
        known: The weights as they are computed with the example inputs, in the precision of the simulation.
    """

    def change(weight: Tensor, axis: int) -> Tensor:
        with nothing_rounded():
            own = Multiplied.of(weight, axis).weight
            calls = enumerate(known[layer.name])
            call = next((call for call, multiplied in calls if torch.equal(multiplied.weight, own)), None)
        if call is None:
            raise TracingError(
                f"{layer.name} multiplies by another weight than with the example inputs: it is computed from what "
                "the model is given, and no graph can hold it. Protect this layer."
            )
        codes = plan.multiplied_codes(layer, call)
        changed = plan.multiplied_weight(layer, call) if codes is None else codes.values.to(weight.dtype)
        return changed.expand_as(weight)

    return change


def _computed_weights(plan: Plan, watch: HalfWatch | None) -> Mapping[str, Sequence[Multiplied]]:
    """The weights that each pass computes, as they are before they are quantized.

    Half precision rounds the parameters that they are made of, and intermediate results, alike in every pass; nothing
    is rounded where it is only watched.
    """
    layers = [layer for layer in plan.quantized if is_computed(layer)]
    if plan.scheme.rest == "fp32" or watch is not None or not layers:
        return plan.basis.multiplied
    with _in_half_precision(plan, None):
        return find_multiplied(plan.model, layers, plan.basis.args, plan.basis.kwargs)


def _watched(change: Change, layer: Layer, watch: Watch) -> Change:
    """The same change, of whose tensors somebody is told first."""

    def tell_first(place: str, call: int, tensor: Tensor) -> Tensor | None:
        watch(layer, call, place, tensor)
        return change(place, call, tensor)

    return tell_first


def _fake(params: QuantParams, rounding: Rounding) -> Any:
    return lambda tensor: fake_quantize(tensor, params, rounding=rounding)
