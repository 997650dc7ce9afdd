"""The search for a scheme, what it costs, and what cures single layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any

from sensitivity.contracts import Executor, Task
from sensitivity.errors import ExportError, StudyError
from sensitivity.perturb.calibration.arguments import CalibrationLike, Images
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.reference import with_reference
from sensitivity.perturb.state.sole_use import sole_use
from sensitivity.progress import watching
from sensitivity.quantize.recipes import INT8
from sensitivity.records import Recipe
from sensitivity.records.arguments import CHECKED_WHERE_USED, checked
from sensitivity.records.results.latency import Latency
from sensitivity.records.results.tuned import Goal
from sensitivity.sweep.arguments import check_arguments
from sensitivity.sweep.stopping.race import Confidence
from sensitivity.sweep.storage.journal import usable_store
from sensitivity.wrapped.arguments import Patterns, Recipes, StoreLike

if TYPE_CHECKING:
    from sensitivity.deploy.engines.registry import Build
    from sensitivity.diagnosis import Diagnosis
    from sensitivity.search.explain import TuneExplanation
    from sensitivity.search.request import Subject
    from sensitivity.tuned import Tuned
    from sensitivity.wrapped.model import Wrapped


@checked(StudyError)
def tune(
    wrapped: Wrapped,
    task: Task,
    *,
    max_drop: float | None = None,
    size_bytes: int | None = None,
    latency_s: float | None = None,
    engine: str | Build | None = "openvino",
    calibration: CalibrationLike = None,
    candidates: Annotated[Recipes | None, CHECKED_WHERE_USED] = None,
    latency: Latency | None = None,
    store: StoreLike = None,
    stop: Confidence | None = None,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> Tuned:
    """Search for a scheme that meets a target: whole networks first, then cures, then protection.

    Every scheme is measured with the task's metric, all layers together as they would be deployed. Outputs of the
    quantized network on a few images propose what is measured next. Give one target or several.

    Args:
        wrapped: The model and its layers.
        task: Data and metric.
        max_drop: Largest drop, in points where the unit is ``%``; the cheapest scheme within it is chosen.
        size_bytes: Most bytes that the parameters of all layers may take; an exact solver chooses the recipes.
        latency_s: Most seconds that one run may take on the engine.
        engine: What the scheme is for, as in ``deploy``. Where it runs here, its own score and latency are measured
            at the end. None searches in the simulation alone.
        calibration: Activation ranges or images, best images: then all candidates share one pass over them.
        candidates: The recipes that may be used; None takes several of 8 bits, and of fewer for ``size_bytes``.
        latency: What ``wrapped.latency`` measured, for any target: what a layer in float costs is then the seconds
            that protecting it adds. None measures it for ``latency_s``, and otherwise counts multiply-adds and bytes,
            which do not depend on the clock.
        store: A file that every result is written to, as in ``analyze``: stop any time and run again to go on.
        stop: Measure a scheme on no more images than decide whether it is within ``max_drop``; its level counts,
            its tolerance is replaced. The scheme that is chosen is measured on all images.
        executor: Where passes over the task run, as in ``sv.Sweep``.
        progress: Show a progress bar.

    Raises:
        StudyError: If there is no target, or one that fp32 itself misses, or ``latency`` is of other layers.
        RecipeError: If a candidate is no recipe, or two have the same name.
        EngineError: If the engine runs none of the candidates, or cannot tell a latency asked for.
        MissingPackageError: If a latency is asked for, and the engine's package is not installed.
        StoreError: As in ``analyze``.
    """
    from sensitivity.search.request import request_of
    from sensitivity.search.tune import settings_for, tune
    from sensitivity.tuned import Tuned

    request = request_of(Goal(max_drop, size_bytes, latency_s), engine, candidates, latency)
    check_arguments(task, calibration=calibration, store=store, stop=stop)
    with sole_use(wrapped.model):
        task = with_reference(wrapped.model, task)
        subject = _subject(wrapped, request.candidates, calibration, progress=progress)
        request = request.with_ranges(subject.perturber.calibrations)
        settings = settings_for(request.goal, task, stop=stop, executor=executor)
        with usable_store(store) as opened_store, watching(None, progress) as watch:
            record = tune(subject, task, request, settings=settings, store=opened_store, watch=watch)
    deployed = subject.equalized() if record.equalized and subject.equalized is not None else subject
    return Tuned.of(record, partial(deployed.deploy, engine=engine or "torch"))


@checked(StudyError)
def explain_tune(
    wrapped: Wrapped,
    task: Task,
    *,
    max_drop: float | None = None,
    size_bytes: int | None = None,
    latency_s: float | None = None,
    engine: str | Build | None = "openvino",
    calibration: CalibrationLike = None,
    candidates: Annotated[Recipes | None, CHECKED_WHERE_USED] = None,
    latency: Latency | None = None,
    stop: Confidence | None = None,
) -> TuneExplanation:
    """What ``tune`` will cost in this process, from a short probe on the first batches; print it.

    All arguments are those of ``tune``. Images given as ``calibration`` are run now, and the time for that is not
    part of the estimate; for a ``latency_s`` single layers are timed on the engine now.

    Raises:
        StudyError: If there is no target, or one that fp32 itself misses, or ``latency`` is of other layers.
        RecipeError: If a candidate is no recipe, or two have the same name.
        EngineError: If the engine runs none of the candidates, or cannot tell a latency asked for.
    """
    from sensitivity.search.explain import explain_tune
    from sensitivity.search.request import request_of
    from sensitivity.search.tune import settings_for

    request = request_of(Goal(max_drop, size_bytes, latency_s), engine, candidates, latency)
    check_arguments(task, calibration=calibration, stop=stop)
    with sole_use(wrapped.model):
        task = with_reference(wrapped.model, task)
        subject = _subject(wrapped, request.candidates, calibration, progress=None)
        request = request.with_ranges(subject.perturber.calibrations)
        stop = settings_for(request.goal, task, stop=stop, executor=None).stop
        return explain_tune(subject, task, request, stop=stop)


def _subject(
    wrapped: Wrapped,
    candidates: Sequence[Recipe],
    calibration: CalibrationLike,
    *,
    progress: bool | None,
    copy: bool = True,
) -> Subject:
    """This model as a search takes it, with ranges for its candidates, and its equalized copy."""
    from sensitivity.deploy.prepare.equalized import equalized_copy
    from sensitivity.search.request import Subject

    ready = wrapped._calibrator.ready_for(candidates, calibration, progress=progress)
    ranges: dict[str, Any] = {"calibration": ready or None}

    @cache
    def equalized() -> Subject:
        copied = equalized_copy(wrapped.model, wrapped.layers, wrapped._example_inputs)
        if not copied.scaled:
            raise ExportError(f"no channel of {wrapped.name} can be scaled.")
        the_copy = type(wrapped)(copied.model, copied.layers, wrapped._example_inputs)
        return _subject(the_copy, candidates, calibration, progress=progress, copy=False)

    return Subject(
        *(wrapped.model, wrapped.layers, wrapped._example_inputs, Perturber(wrapped.model, ready)),
        plan=partial(wrapped.plan, **ranges),
        deploy=partial(wrapped.deploy, **ranges),
        latency=partial(wrapped.latency, threads=None, **ranges),
        equalized=equalized if copy else None,
    )


@checked(StudyError)
def diagnose(
    wrapped: Wrapped,
    images: Images,
    recipe: Recipe = INT8,
    *,
    calibration: CalibrationLike = None,
    layers: Patterns = "*",
    enough_db: float | None = None,
    engine: str | Build | None = None,
    progress: bool | None = None,
) -> Diagnosis:
    """What each layer's damage comes from and what cures it, measured; see ``search.diagnosis.diagnose.diagnose``.

    Args:
        wrapped: The model and its layers.
        images: A task or preprocessed images; some eight are usual.
        recipe: What is done to each layer.
        calibration: Activation ranges or images; None measures the ranges of all recipes tried on ``images``.
        layers: The layers to look at.
        enough_db: SQNR of the model's outputs below which a layer counts as hurt; None takes 10 dB below the median
            layer: ten times the damage of the typical one.
        engine: Where its 8-bit sums saturate on this machine, each layer is run on it, and what weights in 7 bits
            give back is one of the causes; None looks at the simulation alone, which does not saturate.
        progress: Show a progress bar.

    Returns:
        A finding for each layer: its damage, what mending each cause gives back, and the cheapest cure.

    Raises:
        ModelError: If the model returns no floating-point tensor.
    """
    from sensitivity.deploy.doctor.saturation import saturates_here
    from sensitivity.diagnosis import Diagnosis
    from sensitivity.search.diagnosis.diagnose import diagnose_on

    selected = wrapped.layers.select(layers)
    ranges: dict[str, Any] = {"calibrator": wrapped._calibrator, "calibration": calibration}
    deploy = partial(wrapped.deploy, engine=engine) if engine is not None and saturates_here(engine) else None
    record = diagnose_on(
        images, recipe, selected=selected, enough_db=enough_db, deploy=deploy, progress=progress, **ranges
    )
    return Diagnosis.of(record)
