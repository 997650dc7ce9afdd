"""Signals of each layer without labels: how far its weight, its output and the model's outputs are from unperturbed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sensitivity.errors import CalibrationError, ModelError, SensitivityError
from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.perturb.activations import Hooks
from sensitivity.perturb.hooks import After, Before, hooked
from sensitivity.perturb.operators import Unnested
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.perturb.state.state import ModelState
from sensitivity.perturb.weights import perturbed_weight
from sensitivity.records import Layer, Recipe
from sensitivity.records.results.signals import (
    LAYER_COSINE,
    LAYER_SQNR,
    OUTPUT_COSINE,
    OUTPUT_SQNR,
    WEIGHT_SQNR,
    Signals,
)
from sensitivity.sweep.passes.forward import Forward
from sensitivity.sweep.plan import Variant
from sensitivity.sweep.signals.channels import ChannelSignals
from sensitivity.sweep.signals.fidelity import Fidelity
from sensitivity.sweep.signals.local import Local, Turn, local_of

Passes = Iterable[tuple[Callable[[], Any], int]]
"""One item a batch: a function that runs the model on it and returns its outputs, and the number of its images."""


def measure_signals(
    perturber: Perturber, layers: Sequence[Layer], recipe: Recipe, passes: Passes, *, name: str
) -> Signals:
    """Perturb each layer by itself and compare, without any labels.

    - ``weight_sqnr_db``: of the layer's weight; that of a folded weight with the fold divided out again.
    - ``layer_sqnr_db``, ``layer_cosine``: of the layer's own output (before its norm), from unperturbed inputs; of
      its products where the layer is a step inside a module.
    - ``output_sqnr_db``, ``output_cosine``: of all floating-point tensors that the model returns, as one long vector.
    - ``dead_share``: share of output channels that are constant over all images and places, behind the layer's norm and
      activation where those are modules.
    - ``clipped_share``: share of the quantized activations that lie beyond the calibrated range by more than half a
      step.
    - ``channel_ratio``: largest magnitude of any input channel over that of the median channel.

    An SQNR without noise is 150 dB. Sums run over all images.

    Args:
        perturber: Applies the recipe to its model, which is left as it was.
        layers: Layers to perturb, one at a time.
        recipe: What is done to each.
        passes: The images.
        name: Name of the model.

    Returns:
        The signals. A layer that the recipe does not fit is in ``failed`` with the reason.

    Raises:
        CalibrationError: If the recipe quantizes activations and no ranges fit it, or there are no images.
        ModelError: If the model returns no floating-point tensor.
    """
    model = perturber.model
    calibration = perturber.calibration_for(recipe) if recipe.needs_calibration else None
    failed: dict[str, str] = {}
    able = able_to_be_perturbed(layers, recipe, perturber, failed)
    turn = Turn()
    local = {layer.name: local_of(layer, recipe, perturber, turn) for layer in able}
    channels = {layer.name: ChannelSignals(layer, recipe, calibration) for layer in able}
    outputs: dict[str, Fidelity] = {layer.name: Fidelity() for layer in able}
    images = 0
    with untouched(model) as before, torch.no_grad():
        forward, state = Forward(model, perturber, replay=True, state=before), before.for_passes()
        for run, count in passes:
            images += count
            _look_locally(model, state, run, list(local.values()), list(channels.values()))
            failed |= {
                name: comparison.failure
                for name, comparison in local.items()
                if comparison.failure and comparison.is_alone and name not in failed
            }
            running = [layer for layer in able if layer.name not in failed]
            compare_outputs(forward, run, dict.fromkeys(running, recipe), outputs, failed)
    if not images:
        raise CalibrationError("no image was given. Pass at least one batch; a few are usual.")
    signals = {
        layer.name: _weight_signal(model, layer, recipe)
        | _local_signals(local[layer.name])
        | _named(outputs[layer.name], OUTPUT_SQNR, OUTPUT_COSINE)
        | dict(channels[layer.name].signals())
        for layer in able
        if layer.name not in failed
    }
    missing = [
        f"{name} has no {LAYER_SQNR}: {comparison.failure}"
        for name, comparison in local.items()
        if comparison.failure and name in signals
    ]
    return Signals(name, recipe, signals, images, failed, (*forward.notes, *missing))


def able_to_be_perturbed(
    layers: Sequence[Layer], recipe: Recipe, perturber: Perturber, failed: dict[str, str]
) -> list[Layer]:
    """The layers that a recipe fits; the others are noted in ``failed``."""
    able = []
    for layer in layers:
        try:
            perturber.touched({layer: recipe})
        except SensitivityError as error:
            failed[layer.name] = f"{type(error).__name__}: {error}"
        else:
            able.append(layer)
    return able


def compare_outputs(
    forward: Forward,
    run: Callable[[], Any],
    recipes: Mapping[Layer, Recipe],
    fidelity: Mapping[str, Fidelity],
    failed: dict[str, str],
) -> None:
    """Run a batch unperturbed and with each layer perturbed, and add up how far the model's outputs are apart.

    Raises:
        ModelError: If the model returns no floating-point tensor.
    """
    outputs = functools.partial(_outputs, run)
    variants = [Variant.alone(layer, recipe) for layer, recipe in recipes.items()]
    expected = [torch.from_numpy(output) for output in forward.baseline(outputs, variants)]
    if not expected:
        raise ModelError("the model returns no floating-point tensor, so there are no outputs to compare.")
    for variant in variants:
        layer = variant.layer
        try:
            perturbed = [torch.from_numpy(output) for output in forward.variant(outputs, variant)]
        except Exception as error:  # noqa: BLE001 - as in a sweep: the layer is reported, the rest goes on
            failed[layer.name] = f"{type(error).__name__}: {error}"
            continue
        if [output.shape for output in perturbed] != [output.shape for output in expected]:
            failed[layer.name] = "the perturbed model returns tensors of other shapes: there is nothing to compare"
            continue
        for reference, other in zip(expected, perturbed, strict=True):
            fidelity[layer.name].add(reference, other)
        if not fidelity[layer.name].finite:
            failed[layer.name] = "NaN or infinite values in the model's outputs"


def _outputs(run: Callable[[], Any]) -> list[Any]:
    """The floating-point tensors of a pass as numpy arrays of their own."""
    return [tensor.detach().double().cpu().numpy().copy() for tensor in tensors_in(run()) if tensor.is_floating_point()]


def _look_locally(
    model: nn.Module,
    state: ModelState,
    run: Callable[[], Any],
    local: Sequence[Local],
    channels: Sequence[ChannelSignals],
) -> None:
    """One pass of the unperturbed model, looking at every layer's tensors on their way."""
    hooks = Hooks()
    for layer_channels in channels:
        own = layer_channels.hooks(model)
        hooks.before += own.before
        hooks.after += own.after
    with state.same_start(), hooked(before=hooks.before, after=hooks.after):
        run()
    # in a pass of its own: a layer's second call must not be seen by those who count its calls
    before: list[tuple[nn.Module, Before]] = [(comparison.module, comparison) for comparison in local]
    before += [(module, hook) for module, hook in hooks.before if isinstance(hook, Unnested)]
    after: list[tuple[nn.Module, After]] = [
        (comparison.module, comparison.after) for comparison in local if comparison.after is not None
    ]
    with state.same_start(), hooked(before=before, after=after):
        run()
    state.learn(weights_too=False)


def _weight_signal(model: nn.Module, layer: Layer, recipe: Recipe) -> dict[str, float]:
    perturbed = perturbed_weight(model, layer, recipe)
    if perturbed is None:
        return {}
    fidelity = Fidelity()
    fidelity.add(getattr(model.get_submodule(layer.module), layer.weight), perturbed)
    return {WEIGHT_SQNR: fidelity.sqnr_db}


def _local_signals(comparison: Local) -> dict[str, float]:
    return {} if comparison.failure else _named(comparison.fidelity, LAYER_SQNR, LAYER_COSINE)


def _named(fidelity: Fidelity, sqnr: str, cosine: str) -> dict[str, float]:
    """The numbers of a comparison that was made and is finite."""
    if not fidelity.finite:
        return {}
    angle = fidelity.cosine
    return {sqnr: fidelity.sqnr_db} | ({} if angle is None else {cosine: angle})
