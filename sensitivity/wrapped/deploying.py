"""A scheme on an engine: planned, deployed, verified, timed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sensitivity.contracts import Task
from sensitivity.errors import EngineError, RecipeError, StudyError
from sensitivity.layers.select import resolve
from sensitivity.perturb.calibration.arguments import CalibrationLike, check_recipes
from sensitivity.perturb.reference import with_reference
from sensitivity.perturb.restore import untouched
from sensitivity.perturb.state.sole_use import sole_use
from sensitivity.progress import watching
from sensitivity.quantize.recipes import INT8, INT8_MINMAX
from sensitivity.records import Recipe, Scheme
from sensitivity.records.arguments import checked
from sensitivity.records.recipes.scheme import IoType
from sensitivity.records.results.latency import Latency
from sensitivity.records.results.verification import CHECKED_SAMPLES, Gates
from sensitivity.study import Study
from sensitivity.verification import Verification
from sensitivity.wrapped.arguments import Patterns

if TYPE_CHECKING:
    from sensitivity.deploy.deployed import Deployed
    from sensitivity.deploy.engines.registry import Build
    from sensitivity.deploy.graph.export.dynamic import DynamicAxis
    from sensitivity.deploy.handover.handed import Handover
    from sensitivity.deploy.prepare.placement import Target
    from sensitivity.deploy.prepare.plan import Plan
    from sensitivity.wrapped.model import Wrapped


@checked(StudyError)
def plan(
    wrapped: Wrapped,
    scheme: Scheme,
    *,
    calibration: CalibrationLike = None,
    target: str | Target = "any",
    example: Any = None,
) -> Plan:
    """What deploying a scheme means: a folded copy of the model, every scale, and what is left out with its reason.

    ``target`` is the name of an engine: what it does not run well in int8 is left out; ``any`` leaves nothing out.

    Raises:
        ExportError: If a recipe cannot be expressed as Q/DQ, or the model cannot be copied.
    """
    from sensitivity.deploy.engines.registry import target_of
    from sensitivity.deploy.prepare.placement import check_deployable

    made_for = target_of(target)
    check_deployable(
        resolve(scheme, wrapped.layers, model=wrapped.name), wrapped.layers, made_for
    )  # before images are run
    looks_alone = scheme.rest == "fp16" and not any(recipe.needs_calibration for recipe in scheme.recipes)
    ready = wrapped._calibrator.ready_for([INT8_MINMAX] if looks_alone else scheme.recipes, calibration)
    return wrapped._plans.plan(scheme, ready, target=made_for, example=example)


@checked(StudyError)
def deploy(
    wrapped: Wrapped,
    scheme: Scheme,
    engine: str | Build = "openvino",
    *,
    calibration: CalibrationLike = None,
    parts: Iterable[str] | None = None,
    example: Any = None,
    load: str | Path | None = None,
    io: IoType = "fp32",
    export_limit_s: float | None = None,
    dynamic: DynamicAxis | Collection[DynamicAxis] | None = None,
    **settings: Any,
) -> Deployed:
    """Export a scheme and run it on an engine; see ``deploy.deploy.deploy``.

    Args:
        wrapped: The model and its layers.
        scheme: Which layer gets which recipe; ``Scheme()`` deploys the model in float.
        engine: ``openvino`` or ``onnxruntime-int8`` (true int8 on a CPU), ``onnxruntime`` (portable reference),
            ``tensorrt``, ``torch`` (the simulation), one that you registered, or a function that makes an engine of an
            ONNX file's bytes.
        calibration: Activation ranges or images; with layers in fp16 also what overflow is looked for on.
        parts: Paths of the submodules to export, e.g. a backbone; None exports the whole model, and where that
            fails as much of it as can be.
        example: Inputs that fix the sizes of the exported graph; by default the example inputs.
        load: Folder that ``deployed.save`` wrote; its engines are read and not built (``tensorrt``).
        io: Type of the float inputs and outputs of a graph in half precision: ``fp32`` or ``fp16``.
        export_limit_s: Seconds that the export may take, after which it is an error; None sets no limit. Only in the
            main thread, and not on Windows.
        dynamic: What may change in size when the engine is run: ``batch``, ``size`` (height and width of images), or
            both. It is checked with another number of samples and larger images. ``tensorrt`` takes ``batch`` alone,
            with its range as ``batch=(smallest, usual, largest)``. None fixes the sizes of ``example``.
        settings: The engine's own.

    Returns:
        Something that is called like the model.

    Raises:
        ExportError: If a recipe cannot be expressed as Q/DQ, nothing can be exported, or not with ``dynamic``.
        EngineBuildError: If the engine cannot be built.
    """
    from sensitivity.deploy.deploy import deploy
    from sensitivity.deploy.engines.registry import kind_of

    target = kind_of(engine).target
    planned = wrapped.plan(scheme, calibration=calibration, target=target, example=example)
    options: dict[str, Any] = {"load": load, "io": io, "export_limit_s": export_limit_s, "dynamic": dynamic}
    return deploy(planned, engine, parts=parts, **options, **settings)


@checked(RecipeError)
def handover(wrapped: Wrapped, scheme: Scheme, tool: str) -> Handover:
    """A scheme in the words of another tool, which then calibrates and quantizes by itself.

    Args:
        wrapped: The model and its layers.
        scheme: Which layer gets which recipe.
        tool: See ``Scheme.handover``.

    Raises:
        RecipeError: If the tool is not known or cannot do what the scheme says.
        LayerNotFoundError: If a rule selects no layer.
    """
    return scheme.handover(tool, list(wrapped.layers))


@checked(StudyError)
def verify(
    wrapped: Wrapped,
    deployed: Deployed,
    task: Task | None = None,
    *,
    samples: int = CHECKED_SAMPLES,
    gates: Gates | None = None,
    strict: bool = False,
    roundings: bool = True,
    progress: bool | None = None,
) -> Verification:
    """Compare what an engine computes with what was simulated: layers, outputs, the task's metric, latency.

    Args:
        wrapped: The model and its layers.
        deployed: What ``deploy`` returned.
        task: Gives real inputs, and the metric; without one, layers and outputs are checked on the example inputs.
        samples: Samples that outputs and codes are compared on.
        gates: What is required; None for the usual numbers.
        strict: Raise where the engine runs another precision than planned.
        roundings: Score the simulation with two other, equally good roundings as well, which tell what the
            prediction can be trusted to: five passes over the task. Without them it is three.
        progress: Show a progress bar.

    Raises:
        EngineError: If this is not what ``deploy`` returned, or it was deployed of another model or other weights.
        PrecisionNotHonouredError: If ``strict``, and a layer runs in another precision than planned.
        TaskError: If the task never runs what was exported, or ``samples`` is not positive.
    """
    from sensitivity.deploy.verify.same_model import check_deployed
    from sensitivity.deploy.verify.verify import passes_over, verify

    with sole_use(wrapped.model):  # or perturbed weights would be told as others than those deployed
        check_deployed(deployed, wrapped.model, wrapped.name)
    task = None if task is None else with_reference(wrapped.model, task)
    total = 0 if task is None else passes_over(task, roundings=roundings)
    compare = partial(verify, samples=samples, gates=gates, strict=strict, roundings=roundings)
    with untouched(wrapped.model), torch.no_grad(), watching(total, progress if total else False) as watch:
        count = None if watch is None else lambda done, description: watch(done, total, description)
        deployed.verification = Verification.of(compare(deployed, task, fp32=wrapped.model, watch=count))
    return deployed.verification


@checked(StudyError)
def latency(
    wrapped: Wrapped,
    recipe: Recipe = INT8,
    engine: str | Build = "openvino",
    *,
    calibration: CalibrationLike = None,
    parts: Iterable[str] | None = None,
    example: Any = None,
    threads: int | None = 1,
    rounds: int = 5,
    **settings: Any,
) -> Latency:
    """Time a model and each of its layers on an engine, quantized and in float; print what is returned.

    The quantized graph, the float one, and graphs in which every third layer is protected take turns in every round,
    so that a slow moment of the machine weighs on all; medians over the rounds are taken, and their interquartile
    ranges told. ``study.with_latency`` and ``tune(latency=...)`` take the result.

    Args:
        wrapped: The model and its layers.
        recipe: What the quantized layers have.
        engine: One that tells the time of single layers: ``openvino``, ``onnxruntime-int8``, ``tensorrt``.
        calibration: As in ``deploy``.
        parts: As in ``deploy``.
        example: As in ``deploy``; it fixes the sizes that are timed.
        threads: Threads of an engine that runs on the CPU; the process is held to as many CPUs meanwhile, where the
            system can do that. None leaves both as they are, as ``deploy`` does.
        rounds: How often each is measured.
        settings: Those of ``deploy``, and the engine's own.

    Raises:
        EngineError: If the engine does not tell the time of single layers, or ``threads`` or ``rounds`` is below 1.
        ExportError: If the recipe cannot be expressed as Q/DQ, or nothing can be exported.
        EngineBuildError: If the engine cannot be built.
    """
    from sensitivity.deploy.engines.registry import kind_of
    from sensitivity.deploy.verify.latency import measure_latency

    for name, value in (("threads", threads), ("rounds", rounds)):
        if value is not None and value < 1:
            raise EngineError(f"{name}={value}: give 1 or more.")
    ready = wrapped._calibrator.ready_for(check_recipes(recipe), calibration)
    options: dict[str, Any] = {"calibration": ready or None, "parts": parts, "example": example, **settings}
    if threads is not None and kind_of(engine).capabilities.takes_threads:
        options["threads"] = threads
    deployed = wrapped.deploy(Scheme.all(recipe), engine, **options)
    return measure_latency(deployed, recipe, rounds=rounds, threads=threads)


@checked(StudyError)
def verify_study(
    wrapped: Wrapped,
    study: Study,
    task: Task,
    *,
    engine: str | Build = "openvino",
    layers: Patterns = "*",
    calibration: CalibrationLike = None,
    parts: Iterable[str] | None = None,
    gates: Gates | None = None,
    recipe: Recipe | str | None = None,
    **settings: Any,
) -> Study:
    """Measure some layers of a study again on an engine; see ``deploy.verify.study_rows.verify_measurements``.

    ``study`` is what ``analyze`` returned for this model and ``task``; ``layers`` and ``recipe`` choose its rows,
    by default all. ``gates`` says how near the drops must be.

    Returns:
        The study with those rows ``verified`` whose drop on the engine is the simulated one.

    Raises:
        StudyError: If the study is of another task, of other layers or weights, or has no such recipe.
    """
    from sensitivity.deploy.verify.same_model import check_study
    from sensitivity.deploy.verify.study_rows import Chosen, verify_measurements

    with sole_use(wrapped.model):
        check_study(study, wrapped.model, wrapped.layers)
        ready = wrapped._calibrator.ready_for(list(study.recipes.values()), calibration)
        run = partial(wrapped.deploy, engine=engine, calibration=ready or None, parts=parts, **settings)
        chosen = Chosen(wrapped.layers.select(layers), recipe)
        rows = verify_measurements(study, run, with_reference(wrapped.model, task), chosen=chosen, gates=gates)
        return replace(study, measurements=rows)
