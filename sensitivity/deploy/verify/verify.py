"""Does the engine compute what was simulated? Layer by layer, at the outputs, and in the task's metric."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sensitivity.contracts import EngineLayer, Task
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.engine_module import DeployedPart
from sensitivity.deploy.outputs import check_outputs, worst
from sensitivity.deploy.verify.first_difference import first_differences
from sensitivity.deploy.verify.layer_alone import local_agreement
from sensitivity.deploy.verify.layer_inside import InsideGraphs, inside_graph
from sensitivity.deploy.verify.timing import compare_with_float, is_simulation
from sensitivity.deploy.verify.verdict import Evidence, check_layer, explained, raise_if_other
from sensitivity.errors import TaskError
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.state.state import ModelState
from sensitivity.records import Scheme
from sensitivity.records.results.first_difference import FirstDifference
from sensitivity.records.results.info import VerificationInfo
from sensitivity.records.results.verification import (
    CHECKED_SAMPLES,
    PASSING,
    Gates,
    LayerCheck,
    OutputCheck,
    VerificationRecord,
)
from sensitivity.score import evaluate

HALF_MARGIN_DB = 3.0
"""Where an engine rounds to half precision is guessed, not known: its outputs need not be as near the simulation's."""

HALF_FLOAT_DB = 40.0
"""One rounding to bf16 leaves 56 dB: what two roundings of the same number may differ by there."""

HALF_METRIC_DB = 1.8
"""By how much a difference that is 3 dB below the simulation's noise, and independent of it, changes the SQNR."""

Watch = Callable[[int, str], None]
"""Told after every batch: how many images were scored in all, and by what."""

ROUNDINGS = ("channels last", "reciprocal scale")
"""Other, equally good roundings of the simulation."""


def verify(
    deployed: Deployed,
    task: Task | None = None,
    *,
    fp32: Callable[..., Any] | None = None,
    samples: int = CHECKED_SAMPLES,
    gates: Gates | None = None,
    strict: bool = False,
    roundings: bool = True,
    watch: Watch | None = None,
) -> VerificationRecord:
    """Compare a deployed model with its plan and its simulation.

    Args:
        deployed: What is verified.
        task: Gives real inputs, and the metric; without one, layers and outputs are checked on the example inputs, and
            so is an exported submodule that the task does not run (``info.not_reached``).
        fp32: The unperturbed model; None for the folded copy.
        samples: Samples that outputs and codes are compared on.
        gates: What is required; None for the usual numbers, which ask for less in float where layers are in half
            precision.
        strict: Raise where the engine runs another precision than planned.
        roundings: Score the simulation with two other, equally good roundings as well: five passes over the task and
            not three.
        watch: Told of progress, if given.

    Raises:
        PrecisionNotHonouredError: If ``strict``, and a layer runs in another precision than the plan says.
        TaskError: If the task has no images, or runs nothing of what was exported, or ``samples`` is not positive.
    """
    if samples < 1:
        raise TaskError(f"samples={samples}: give 1 or more, there is nothing to compare otherwise.")
    plan = deployed.plan
    thresholds = gates or _usual_thresholds(plan.scheme)
    from_task = _calls(deployed, task, samples)
    calls = _with_examples(from_task, deployed)
    evidence = _evidence(deployed, calls)
    checks = explained([check_layer(layer, deployed, evidence, thresholds) for layer in plan.layers], deployed)
    if strict:
        raise_if_other(checks, deployed.name)
    outputs = check_outputs(deployed, calls)
    least = worst(outputs, thresholds)
    differences = _differences(deployed, calls, checks, outputs, thresholds)
    planned, in_float = compare_with_float(deployed)
    scores = {} if task is None else _metrics(deployed, task, fp32 or plan.model, roundings=roundings, watch=watch)
    return VerificationRecord(
        model=plan.layers.model,
        engine=deployed.name,
        layers=checks,
        gates=thresholds,
        output_sqnr_db=None if least is None else least.sqnr_db,
        simulation_sqnr_db=None if least is None else least.simulation_sqnr_db,
        latency_int8_s=planned.median_s,
        latency_fp32_s=None if in_float is None else in_float.median_s,
        latency_int8_spread_s=planned.spread_s,
        latency_fp32_spread_s=None if in_float is None else in_float.spread_s,
        info=_info(deployed, [path for path, own in from_task.items() if not own], evidence.inside.unseen),
        outputs=outputs,
        first_differences=differences,
        **scores,
    )


def passes_over(task: Task, *, roundings: bool) -> int:
    """Images that ``verify`` scores in all."""
    return len(task) * (3 + (len(ROUNDINGS) if roundings else 0))


def _usual_thresholds(scheme: Scheme) -> Gates:
    if scheme.rest == "fp32":
        return Gates()
    return Gates(output_margin_db=HALF_MARGIN_DB, float_sqnr_db=HALF_FLOAT_DB, metric_db=HALF_METRIC_DB)


def _differences(
    deployed: Deployed,
    calls: Mapping[str, list[Call]],
    checks: Sequence[LayerCheck],
    outputs: Sequence[OutputCheck],
    thresholds: Gates,
) -> tuple[FirstDifference, ...]:
    """Where outputs differ and no layer does by itself: the first tensor inside the graph that parts."""
    outputs_pass = all(check.passes(thresholds) is not False for check in outputs)
    if outputs_pass or is_simulation(deployed) or any(check.status not in PASSING for check in checks):
        return ()
    plain = deployed if deployed.plan.scheme.rest == "fp32" else deployed.in_fp32()
    return first_differences(plain, calls, thresholds)


def _evidence(deployed: Deployed, calls: Mapping[str, list[Call]]) -> Evidence:
    ran = _executed(deployed, calls)
    if is_simulation(deployed):
        return Evidence(ran, {}, InsideGraphs({}))
    plain = deployed if deployed.plan.scheme.rest == "fp32" else deployed.in_fp32()  # cut out, a layer rounds elsewhere
    return Evidence(ran, local_agreement(plain, calls), inside_graph(plain, calls))


Call = tuple[tuple[Any, ...], dict[str, Any]]


def _calls(deployed: Deployed, task: Task | None, samples: int) -> dict[str, list[Call]]:
    """Arguments that each part is called with, sample by sample: from the task, or the example."""
    if task is None:
        return {part.path: [part.part.signature.inputs.filled(part.part.example)] for part in deployed.parts}
    calls_of: dict[str, list[Call]] = {part.path: [] for part in deployed.parts}
    model = deployed.plan.model

    def keeper(part: DeployedPart) -> Any:
        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if len(calls_of[part.path]) < samples:
                calls_of[part.path] += itertools.islice(_singly(part, args, kwargs), samples - len(calls_of[part.path]))

        return keep

    hooks = [(model.get_submodule(part.path), keeper(part)) for part in deployed.parts]
    with torch.no_grad(), hooked(before=hooks):
        for batch in task.batches():
            task.predict(model, batch)
            if all(len(calls) >= samples for calls in calls_of.values()):
                break
    if not any(calls_of.values()):
        exported = ", ".join(path or "the model" for path in calls_of)
        raise TaskError(f"the task {task.name!r} never runs {exported}. Give one that uses what was exported.")
    return calls_of


def _with_examples(calls: Mapping[str, list[Call]], deployed: Deployed) -> dict[str, list[Call]]:
    """The calls, with that of the example inputs for a part that the task did not run."""
    examples = _calls(deployed, None, 1)
    return {path: own or examples[path] for path, own in calls.items()}


def _singly(part: DeployedPart, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Call]:
    """The arguments cut into pieces of the engine's batch, copied."""
    signature = part.part.signature
    tensors = signature.inputs.tensors_of((args, kwargs), part.path or "the model")
    counts = [len(t) for t, many in zip(tensors, signature.batched_inputs, strict=True) if many]
    for start in range(0, counts[0] if counts else 1, signature.batch):
        cut = slice(start, start + signature.batch)
        piece = [t[cut] if many else t for t, many in zip(tensors, signature.batched_inputs, strict=True)]
        new_args, new_kwargs = signature.inputs.filled([tensor.clone() for tensor in piece])
        yield tuple(new_args), dict(new_kwargs)


def _executed(deployed: Deployed, calls: Mapping[str, list[Call]]) -> dict[str, EngineLayer]:
    """What the engines ran, by node of the graph; each has run once, so that times are known."""
    ran: dict[str, EngineLayer] = {}
    for part in deployed.parts:
        tensors = part.part.signature.inputs.tensors_of(calls[part.path][0], "the part")
        part.engine.run(*part.arrays_of(tensors))
        for layer in part.engine.layer_info():
            ran |= dict.fromkeys(layer.nodes, layer)
    return ran


def _metrics(
    deployed: Deployed, task: Task, fp32: Callable[..., Any], *, roundings: bool, watch: Watch | None
) -> dict[str, Any]:
    plan, variants, done = deployed.plan, {}, 0

    def score(model: Callable[..., Any], description: str) -> float:
        nonlocal done
        counted = None if watch is None else lambda images: watch(done + images, description)
        around = ModelState(model).same_start if isinstance(model, nn.Module) else contextlib.nullcontext
        scored = evaluate(model, task, counted, around_batch=around)
        done += scored.images
        return scored.value

    with torch.no_grad():
        in_float = score(fp32, "fp32")
        images = done
        with plan.simulated() as model:
            simulated = score(model, "simulated")
            parts = [(model.get_submodule(part.path), _in_channels_last) for part in deployed.parts]
            if roundings:
                with hooked(before=parts):
                    variants[ROUNDINGS[0]] = score(model, ROUNDINGS[0])
        if roundings:
            with plan.simulated(rounding="torch") as model:
                variants[ROUNDINGS[1]] = score(model, ROUNDINGS[1])
        on_engine = score(deployed, "deployed")
    return {
        "task": task.name,
        "metric": task.metric,
        "unit": task.unit,
        "images": images,
        "metric_fp32": in_float,
        "metric_simulated": simulated,
        "metric_deployed": on_engine,
        "metric_variants": variants,
    }


def _in_channels_last(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Inputs in another memory format: the same arithmetic in another order, so other last bits."""

    def change(leaf: Any) -> Any:
        image_like = isinstance(leaf, Tensor) and leaf.dim() == 4
        return leaf.contiguous(memory_format=torch.channels_last) if image_like else leaf

    new_args, new_kwargs = tree_map(change, (args, kwargs))
    return tuple(new_args), dict(new_kwargs)


def _info(deployed: Deployed, not_reached: Sequence[str], unseen: Mapping[str, str]) -> VerificationInfo:
    rules = deployed.scheme.rules
    return VerificationInfo(
        torch=torch.__version__,
        engine_version=deployed.parts[0].engine.version,
        parts=tuple(part.path for part in deployed.parts),
        exporters=tuple(part.part.exporter for part in deployed.parts),
        not_exported=tuple(str(attempt) for attempt in deployed.attempts),
        not_reached=tuple(not_reached) or None,
        not_inside=tuple(f"{path or 'the model'}: {error}" for path, error in unseen.items()) or None,
        scheme=tuple((rule.pattern, None if rule.recipe is None else rule.recipe.name) for rule in rules),
    )
