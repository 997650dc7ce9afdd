"""Does the engine compute what was simulated? Layer by layer, at the outputs, and in the task's metric."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from sensitivity.contracts import EngineLayer, Task
from sensitivity.deploy.deployed import Deployed, DeployedPart, EngineModule
from sensitivity.deploy.inside import inside_graph
from sensitivity.deploy.local import Counts, compare, merged, simulate_and_record, trials
from sensitivity.deploy.measures import sqnr_of_all_db
from sensitivity.deploy.plan import Plan
from sensitivity.deploy.qdq import insert_qdq
from sensitivity.errors import PrecisionNotHonouredError, TaskError
from sensitivity.perturb.hooks import hooked
from sensitivity.records import Layer, Scheme
from sensitivity.records.verification import (
    DISAGREES,
    IN_FLOAT,
    NOT_CHECKED,
    OTHER_PRECISION,
    SIMULATED_ONLY,
    VERIFIED,
    Gates,
    LayerCheck,
    VerificationRecord,
)

CHECKED_SAMPLES = 2
"""Samples that outputs and codes are compared on."""

LATENCY_REPEATS = 50


def verify(
    deployed: Deployed,
    task: Task | None = None,
    *,
    fp32: Callable[..., Any] | None = None,
    samples: int = CHECKED_SAMPLES,
    gates: Gates | None = None,
    strict: bool = False,
) -> VerificationRecord:
    """Compare a deployed model with its plan and its simulation.

    Args:
        deployed: What is verified.
        task: Gives real inputs, and the metric; without one, layers and outputs are checked on the example inputs.
        fp32: The undisturbed model; None for the folded copy.
        samples: Samples that outputs and codes are compared on.
        gates: What is required; None for the usual numbers.
        strict: Raise where the engine runs another precision than planned.

    Raises:
        PrecisionNotHonouredError: If ``strict``, and a layer that the plan quantizes runs in another precision.
        TaskError: If the task has no images.
    """
    plan, gates = deployed.plan, gates or Gates()
    calls = _calls(deployed, task, samples)
    ran = _executed(deployed, calls)
    alone = {} if deployed.name == "torch" else _local_agreement(deployed, calls)
    inside = {} if deployed.name == "torch" else inside_graph(deployed, calls)
    checks = tuple(_check(layer, ran, alone, inside, gates, deployed) for layer in plan.layers)
    if strict:
        _raise_if_other(checks, deployed.name)
    engine_db, simulation_db = _outputs(deployed, calls)
    int8_s, fp32_s = _latencies(deployed)
    return VerificationRecord(
        model=plan.layers.model,
        engine=deployed.name,
        layers=checks,
        gates=gates,
        output_sqnr_db=engine_db,
        simulation_sqnr_db=simulation_db,
        latency_int8_s=int8_s,
        latency_fp32_s=fp32_s,
        info=_info(deployed),
        **(_metrics(deployed, task, fp32 or plan.model) if task is not None else {}),
    )


Call = tuple[tuple[Any, ...], dict[str, Any]]


def _calls(deployed: Deployed, task: Task | None, samples: int) -> dict[str, list[Call]]:
    """Arguments that each part is called with, sample by sample: from the task, or the example."""
    if task is None:
        return {one.path: [one.part.signature.inputs.filled(one.part.example)] for one in deployed.parts}
    found: dict[str, list[Call]] = {one.path: [] for one in deployed.parts}
    model = deployed.plan.model

    def keeper(one: DeployedPart) -> Any:
        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if len(found[one.path]) < samples:
                found[one.path] += itertools.islice(_singly(one, args, kwargs), samples - len(found[one.path]))

        return keep

    hooks = [(model.get_submodule(one.path), keeper(one)) for one in deployed.parts]
    with torch.no_grad(), hooked(before=hooks):
        for batch in task.batches():
            task.predict(model, batch)
            if all(len(calls) >= samples for calls in found.values()):
                break
    empty = [path or "the model" for path, calls in found.items() if not calls]
    if empty:
        raise TaskError(f"the task {task.name!r} never runs {', '.join(empty)}. Give one that uses what was exported.")
    return found


def _singly(one: DeployedPart, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Call]:
    """The arguments cut into pieces of the engine's batch, copied."""
    signature = one.part.signature
    tensors = signature.inputs.tensors_of((args, kwargs), one.path or "the model")
    counts = [len(t) for t, many in zip(tensors, signature.batched_inputs, strict=True) if many]
    for start in range(0, counts[0] if counts else 1, signature.batch):
        cut = slice(start, start + signature.batch)
        piece = [t[cut] if many else t for t, many in zip(tensors, signature.batched_inputs, strict=True)]
        new_args, new_kwargs = signature.inputs.filled([tensor.clone() for tensor in piece])
        yield tuple(new_args), dict(new_kwargs)


def _executed(deployed: Deployed, calls: Mapping[str, list[Call]]) -> dict[str, EngineLayer]:
    """What the engines ran, by node of the graph; each has run once, so that times are known."""
    found: dict[str, EngineLayer] = {}
    for one in deployed.parts:
        tensors = one.part.signature.inputs.tensors_of(calls[one.path][0], "the part")
        one.engine.run(*[tensor.cpu().numpy() for tensor in tensors])
        for layer in one.engine.layer_info():
            found |= dict.fromkeys(layer.nodes, layer)
    return found


def _local_agreement(deployed: Deployed, calls: Mapping[str, list[Call]]) -> dict[str, Counts]:
    """For each quantized layer: codes compared, codes that differ, largest difference."""
    plan = deployed.plan
    found: dict[str, list[Counts]] = {}
    for one in deployed.parts:
        module = plan.model.get_submodule(one.path)
        engines: dict[str, Any] = {}
        for args, kwargs in calls[one.path]:
            for trial in trials(plan, one.qdq, simulate_and_record(plan, module, args, kwargs)):
                key = f"{trial.layer.name}#{trial.call}"
                # scales of its own depend on the sample: such a trial is built anew
                built = engines.get(key) or deployed.build(trial.graph, one.part)
                engines[key] = None if "own.codes" in trial.graph.graph.output[0].name else built
                codes = built.run(trial.inputs.cpu().numpy())[0]
                found.setdefault(trial.layer.name, []).append(compare(codes, trial.codes.cpu()))
    return {name: merged(several) for name, several in found.items()}


def _check(
    layer: Layer,
    ran: Mapping[str, EngineLayer],
    alone: Mapping[str, Counts],
    inside: Mapping[str, Counts],
    gates: Gates,
    deployed: Deployed,
) -> LayerCheck:
    nodes = [name for one in deployed.parts for name in one.qdq.nodes.get(layer.name, ())]
    operations = [ran[node] for node in nodes if node in ran]
    times = [one.time_s for one in operations if one.time_s is not None]
    codes, different, steps = alone.get(layer.name, (0, 0, 0))
    check = LayerCheck(
        layer.name,
        layer.module,
        planned=deployed.plan.expected_precision(layer),
        executed="+".join(sorted({one.precision for one in operations})) or None,
        status=VERIFIED,
        time_s=sum(times) if times else None,
        codes=codes,
        code_steps=steps if codes else None,
        code_share=different / codes if codes else None,
    )
    status, reason = _status(check, deployed.plan, gates, inside.get(layer.name))
    return replace(check, status=status, reason=reason)


def _status(check: LayerCheck, plan: Plan, gates: Gates, inside: Counts | None) -> tuple[str, str]:
    if check.layer in plan.left_out:
        return SIMULATED_ONLY, plan.left_out[check.layer]
    if check.layer not in plan.recipes:
        return IN_FLOAT, ""
    if check.executed is None:
        return NOT_CHECKED, "the engine does not tell what it ran for this layer"
    if check.executed != check.planned:
        return OTHER_PRECISION, f"planned in {check.planned}, the engine ran {check.executed}"
    if check.code_share is None or check.code_steps is None:
        reason = "weights or activations alone are quantized: there are no codes to compare"
        return (VERIFIED, reason) if check.planned == "fp32" else (NOT_CHECKED, "its codes were not compared")
    if check.code_steps > gates.code_steps or check.code_share > gates.code_share:
        return DISAGREES, f"{check.code_share:.1e} of {check.codes} codes differ, by up to {check.code_steps}"
    if inside is not None and (inside[2] > gates.code_steps or inside[1] > max(1, gates.code_share * inside[0])):
        told = f"{inside[1]} of {inside[0]} codes behind it differ, by up to {inside[2]}"
        return DISAGREES, f"by itself it is right, inside the whole graph {told}, from the same input codes"
    return VERIFIED, ""


def _raise_if_other(checks: tuple[LayerCheck, ...], engine: str) -> None:
    wrong = [check for check in checks if check.status == OTHER_PRECISION]
    if wrong:
        first = "; ".join(f"{check.layer} ({check.module}): {check.reason}" for check in wrong[:3])
        raise PrecisionNotHonouredError(
            f"{engine} runs {len(wrong)} of {len(checks)} layers in another precision than planned: {first}. Protect "
            "them in the scheme, or verify with strict=False to see all."
        )


def _outputs(deployed: Deployed, calls: Mapping[str, list[Call]]) -> tuple[float, float]:
    """SQNR of the engine's outputs against the simulation's, and of the simulation's against fp32."""
    wanted: list[Tensor] = []
    simulated: list[Tensor] = []
    computed: list[Tensor] = []
    for one in deployed.parts:
        module = deployed.plan.model.get_submodule(one.path)
        engine = EngineModule(one.engine, one.part.signature, module, one.path or "the model")
        for args, kwargs in calls[one.path]:
            with torch.no_grad():
                wanted += _tensors(module(*args, **kwargs))
                computed += _tensors(engine(*args, **kwargs))
            with deployed.plan.simulated():
                simulated += _tensors(module(*args, **kwargs))
    return sqnr_of_all_db(simulated, computed), sqnr_of_all_db(wanted, simulated)


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf.clone() for leaf in tree_flatten(outputs)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _latencies(deployed: Deployed) -> tuple[float, float | None]:
    """Median times of all parts, as planned and with nothing quantized."""
    planned, in_float = 0.0, 0.0
    nothing = deployed.plan.only([])
    for one in deployed.parts:
        arrays = [tensor.cpu().numpy() for tensor in one.part.example]
        planned += one.engine.latency_s(*arrays, repeats=LATENCY_REPEATS)
        if deployed.name != "torch":
            plain = deployed.build(insert_qdq(one.part.graph, nothing).graph, one.part)
            in_float += plain.latency_s(*arrays, repeats=LATENCY_REPEATS)
    return planned, in_float or None


def _metrics(deployed: Deployed, task: Task, fp32: Callable[..., Any]) -> dict[str, Any]:
    plan = deployed.plan
    variants = {}
    with torch.no_grad():
        in_float, count = score_of(task, fp32)
        with plan.simulated() as model:
            simulated, _ = score_of(task, model)
            parts = [(model.get_submodule(one.path), _in_channels_last) for one in deployed.parts]
            with hooked(before=parts):
                variants["channels last"], _ = score_of(task, model)
        with plan.simulated(rounding="torch") as model:
            variants["reciprocal scale"], _ = score_of(task, model)
        on_engine, _ = score_of(task, deployed)
    return {
        "task": task.name,
        "metric": task.metric,
        "unit": task.unit,
        "images": count,
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


def score_of(task: Task, model: Callable[..., Any]) -> tuple[float, int]:
    """The task's metric of a model, and the number of images.

    Raises:
        TaskError: If the task has no images.
    """
    predictions: dict[int, Any] = {}
    with torch.no_grad():
        for batch in task.batches():
            predictions.update(zip(batch.images, task.predict(model, batch), strict=True))
    if not predictions:
        raise TaskError(f"the task {task.name!r} has no images to score.")
    return task.score(predictions)[task.metric], len(predictions)


def _info(deployed: Deployed) -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "engine_version": getattr(deployed.parts[0].engine, "version", None),
        "parts": [one.path for one in deployed.parts],
        "exporters": [one.part.exporter for one in deployed.parts],
        "not_exported": [str(attempt) for attempt in deployed.attempts],
        "scheme": _scheme(deployed.scheme),
    }


def _scheme(scheme: Scheme) -> list[list[str | None]]:
    return [[rule.pattern, None if rule.recipe is None else rule.recipe.name] for rule in scheme.rules]
