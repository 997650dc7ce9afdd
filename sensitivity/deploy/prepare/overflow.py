"""What does not fit into fp16: found before anything is exported, with what has to stay in fp32 instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sensitivity.deploy.prepare.plan import Plan
from sensitivity.deploy.prepare.rest_in_words import in_file, in_python
from sensitivity.errors import CalibrationError, ExportError, LayerNotFoundError, warn_caller
from sensitivity.layers.trace.inputs import copied
from sensitivity.perturb.half.kept import ATTENTION, NORMS, around, find_kept
from sensitivity.records import Layer
from sensitivity.records.recipes.scheme import Rest

LARGEST_HALF = 65504.0
"""The largest finite number of fp16."""

_ROUNDS = 8  # what is kept in fp32 may overflow where it is read next


FAINT = 8.0
"""An example is warned of where calibration images reach this many times as far at the input of a layer."""


def largest_values(plan: Plan) -> dict[str, float]:
    """The largest absolute value that each module would hold in fp16 in the example pass, by path.

    Infinities that the model itself makes (masks) do not count, nor does what quantized layers read: a quantizer cuts
    it off. Modules are called by their paths; the model's own forward is the empty one.

    Args:
        plan: One with non-quantized layers in half precision.
    """
    largest: dict[str, float] = {}

    def note(path: str, tensor: Tensor) -> None:
        finite = tensor.detach()[torch.isfinite(tensor.detach())]
        if finite.numel():
            largest[path] = max(largest.get(path, 0.0), float(finite.abs().max()))

    with plan.simulated(halves=note) as model:
        model(*copied(plan.basis.args), **copied(plan.basis.kwargs))
    return largest


def check_overflow(plan: Plan) -> None:
    """Nothing, if all that a plan's non-quantized layers would hold in fp16 fits.

    Looked at are every operation of the example pass, and on all calibration images what layers read and write. A
    warning tells of an example whose values are far below those of the images: what overflows between layers may not do
    so on it.

    Args:
        plan: One with non-quantized layers in fp16.

    Raises:
        ExportError: If something does not fit; it names the modules, and what keeps them in fp32.
    """
    for where, values in (("example inputs", largest_values(plan)), ("calibration images", calibrated_values(plan))):
        overflows = _beyond(values)
        if overflows:
            cure, rest, otherwise = _cure(plan)
            raise ExportError(
                f"the largest number of fp16 is {LARGEST_HALF:.0f}, and on the {where} more is held by "
                f"{_described(plan, overflows)}. It would be infinite. {cure}",
                python=f"{in_python(*rest)}{otherwise}.",
                shell=f"{in_file(*rest)} in the file of the scheme{otherwise}.",
            )
    _warn_of_a_faint_example(plan)


def calibrated_values(plan: Plan) -> dict[str, float]:
    """The largest absolute value that each module would hold in fp16 on the calibration images, by path.

    Known is what layers read and write. Of what a quantized layer reads, the range counts: a quantizer cuts off what is
    beyond it, and its scale is an fp16 number.

    Args:
        plan: One with non-quantized layers in half precision.
    """
    largest: dict[str, float] = {}

    def note(path: str, value: float) -> None:
        outside = plan.parts is not None and not set(plan.parts) & set(around(path))
        if not outside and not plan.kept.holds(around(path)):
            largest[path] = max(largest.get(path, 0.0), value)

    layers = {layer.name: layer for layer in plan.layers}
    for point, value in plan.peaks.items():
        path = _held_by(plan, layers[point.layer], point.place) if point.layer in layers else None
        if path is not None:
            note(path, value)
    for layer in plan.quantized:
        for call in range(layer.calls):
            reach = calibrated_reach(plan, layer, call)
            if reach is not None:
                note(layer.module, reach / (1 + 2 / 127))  # codes go on beyond the range: one that ends at 65504 fits
    return largest


def _held_by(plan: Plan, layer: Layer, place: str) -> str | None:
    """Path of the module that holds what was seen at a place; None where a quantizer cuts it off."""
    recipe = plan.recipes.get(layer.name)
    if place == "input" and recipe is not None and recipe.activations is not None:
        return None
    return layer.norm_module or layer.module if place == "norm" else layer.module


def _beyond(values: Mapping[str, float]) -> dict[str, float]:
    return {path: value for path, value in values.items() if value > LARGEST_HALF}


def _warn_of_a_faint_example(plan: Plan) -> None:
    """Warn where the example says little about what overflows on images."""
    read: dict[str, float] = {}

    def note(layer: Layer, call: int, place: str, tensor: Tensor) -> None:
        if place == "input" and call == 0 and tensor.numel():
            read[layer.name] = float(tensor.detach().abs().max())

    with plan.in_fp32().simulated(watch=note) as model:
        model(*copied(plan.basis.args), **copied(plan.basis.kwargs))
    for layer in plan.quantized:
        in_half = layer.name in read and layer.name in plan.half_scales
        reach = calibrated_reach(plan, layer, 0) if in_half else None
        if reach is not None and reach > FAINT * read[layer.name]:
            warn_caller(
                "overflow in fp16 between layers was looked for on the example inputs alone, where "
                f"{layer.name} reads at most {read[layer.name]:.3g}; the calibration images reach {reach:.3g} there. "
                "Give a real image:",
                python="wrapped.deploy(..., example=image).",
                shell="let MODEL return one as its example input.",
            )
            return


def calibrated_reach(plan: Plan, layer: Layer, call: int) -> float | None:
    """The largest absolute value that a quantized input stands for; None where it is in float or was not reached."""
    try:
        params = plan.input_params(layer, call)
    except CalibrationError:  # it was not reached at this call
        return None
    if params is None:
        return None
    ends = torch.tensor([params.qmin, params.qmax]) - params.zero_point.reshape(-1, 1)
    return float((ends * params.scale.reshape(-1, 1)).abs().max())


def _described(plan: Plan, overflows: dict[str, float]) -> str:
    names = {layer.module: layer.name for layer in plan.layers}
    worst = sorted(overflows, key=lambda path: -overflows[path])
    texts = [
        f"{path or 'the forward of the model itself'}{f' ({names[path]})' if path in names else ''}: "
        f"{overflows[path]:.3g}"
        for path in worst[:_ROUNDS]
    ]
    return ", ".join(texts) + (f" and {len(worst) - _ROUNDS} more" if len(worst) > _ROUNDS else "")


def _cure(plan: Plan) -> tuple[str, tuple[Rest, tuple[str, ...]], str]:
    """What holds all numbers, tried until nothing overflows: what to do, the rest of the scheme, what else can be."""
    entries, trial = dict.fromkeys(plan.scheme.keep_fp32), plan
    for _ in range(_ROUNDS):
        overflows = _beyond(largest_values(trial)) | _beyond(calibrated_values(trial))
        if not overflows:
            return "This keeps them in fp32:", ("fp16", tuple(entries)), ""
        if "" in overflows:
            break
        entries |= dict.fromkeys(entries_for(plan, overflows))
        trial = replace(plan, scheme=plan.scheme.with_rest("fp16", keep_fp32=tuple(entries)))
        _ = trial.kept  # found now, while nothing is hooked
    forward = "What the model's own forward computes cannot be kept in fp32 by name. bf16 can hold it:"
    return forward, ("bf16", ()), ", and so can fp32; or deploy its parts"


def entries_for(plan: Plan, paths: Iterable[str]) -> list[str]:
    """Entries of ``keep_fp32`` that hold modules: ``norms`` and ``attention`` where they do, else their paths."""
    homes: dict[str, frozenset[str]] = {}
    inputs = dict(plan.basis.kwargs) or plan.basis.args
    for entry in (NORMS, ATTENTION):
        scheme = plan.scheme.with_rest("fp16", keep_fp32=entry)
        try:
            kept_modules = find_kept(plan.basis.model, plan.layers, scheme, inputs)
        except LayerNotFoundError:
            continue
        homes[entry] = kept_modules.whole | kept_modules.bodies
    return [next((entry for entry, held in homes.items() if path in held), path) for path in paths]
