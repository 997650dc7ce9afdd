"""One layer at a time: what a sweep measures, what it costs, and what tells without labels which layers matter."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Unpack

from sensitivity.contracts import Task
from sensitivity.errors import StudyError
from sensitivity.perturb.calibration.arguments import CalibrationLike, Images, check_recipes
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.reference import with_reference
from sensitivity.perturb.state.sole_use import sole_use
from sensitivity.progress import watching
from sensitivity.quantize.recipes import INT8
from sensitivity.records import Recipe, Signals
from sensitivity.records.arguments import CHECKED_WHERE_USED, checked
from sensitivity.study import Study
from sensitivity.sweep.arguments import check_arguments, stored_stop
from sensitivity.sweep.explain import Explanation
from sensitivity.sweep.explain import explain as explain_sweep
from sensitivity.sweep.plan import Direction, Variant
from sensitivity.sweep.plan import plan_sweep as variants_of
from sensitivity.sweep.record import study_record
from sensitivity.sweep.run import Settings, sweep
from sensitivity.sweep.settings import Sweep, SweepKeywords, settings_of
from sensitivity.sweep.signals.estimated import Loss, estimate_signals
from sensitivity.sweep.signals.measured import measure_signals
from sensitivity.sweep.signals.passes import output_passes
from sensitivity.sweep.stopping.race import Confidence
from sensitivity.sweep.storage.journal import usable_store
from sensitivity.wrapped.arguments import Patterns, Recipes, StoreLike

if TYPE_CHECKING:
    from sensitivity.wrapped.model import Wrapped


@checked(StudyError)
def analyze(
    wrapped: Wrapped,
    task: Task,
    recipe: Recipes = INT8,
    *,
    calibration: CalibrationLike = None,
    layers: Patterns = "*",
    direction: Annotated[Direction, CHECKED_WHERE_USED] = "one-at-a-time",
    store: StoreLike = None,
    stop: Confidence | None = None,
    settings: Sweep | None = None,
    progress: bool | None = None,
    **keywords: Unpack[SweepKeywords],
) -> Study:
    """Perturb one layer at a time and score the task each time, in one pass over the data; see ``sweep.run.sweep``.

    Args:
        wrapped: The model and its layers.
        task: Data and metric.
        recipe: What is done to each layer; several give one study with all of them.
        calibration: Activation ranges or images.
        layers: The layers to measure; the others are never perturbed.
        direction: ``one-at-a-time``, or ``all-but-one``: perturb every one of ``layers`` except the one.
        store: A file that every result is written to as soon as it is there. Stop any time and run again to go on
            from there, also with more layers or recipes; the study is the same to the last bit but for the times.
        stop: When a layer's drop is known well enough to give it no more images, which then come in a seeded random
            order. None runs every layer on every image.
        settings: How the sweep runs: where, with or without intervals and replay; see ``sv.Sweep``.
        progress: Show a progress bar.
        keywords: The fields of ``sv.Sweep`` by name, in the place of ``settings``.

    Returns:
        The study. Drops have bounds where the task has 8 images or more (``docs/concepts/confidence.md``). Ctrl-C
        ends the sweep early: the study holds what was measured until then, and a note says so.

    Raises:
        StoreConflictError: If the store was written for another model, data, calibration or settings, or another
            process is writing to it.
        StoreFormatError: If the file is no store, or one of a newer version.
        StoreError: If the store cannot be written; what it holds is kept.
        StudyError: If ``settings`` and one of its fields are both given, or a setting is out of range.
        ModelInUseError: If another thread measures this model.
        ExecutorError: If a worker died whose work is not run again, or something cannot be sent to workers.
    """
    started, how = time.perf_counter(), settings_of(settings, keywords)
    check_arguments(task, calibration=calibration, store=store, stop=stop, direction=direction)
    recipes = check_recipes(recipe)
    with sole_use(wrapped.model):
        task = with_reference(wrapped.model, task)
        perturber = wrapped._perturber(recipes, calibration, progress=progress)
        variants = _variants(wrapped, layers, recipes, direction, perturber)
        total = len(variants) * len(task)
        with how.workplace() as executor, usable_store(store) as opened_store, watching(total, progress) as watch:
            passes = Settings.of(how, executor=executor, stop=stored_stop(stop, task))
            outcome = sweep(wrapped.model, task, variants, perturber, settings=passes, store=opened_store, watch=watch)
        facts: dict[str, Any] = {"direction": direction, "stop": stop, "started": started}
        return Study.of(study_record(outcome, task, wrapped.layers, recipes, perturber, **facts))


def _variants(
    wrapped: Wrapped, layers: Patterns, recipes: Sequence[Recipe], direction: Direction, perturber: Perturber
) -> list[Variant]:
    """What a sweep measures."""
    why_unreached = perturber.why_unreached
    return variants_of(wrapped.layers.select(layers), recipes, direction=direction, why_unreached=why_unreached)


@checked(StudyError)
def explain(
    wrapped: Wrapped,
    task: Task,
    recipe: Recipes = INT8,
    *,
    calibration: CalibrationLike = None,
    layers: Patterns = "*",
    direction: Annotated[Direction, CHECKED_WHERE_USED] = "one-at-a-time",
    stop: Confidence | None = None,
    settings: Sweep | None = None,
    **keywords: Unpack[SweepKeywords],
) -> Explanation:
    """What ``analyze`` will cost in this process, from a short probe on the first batches; print it.

    The arguments are those of ``analyze``. Images given as ``calibration`` are run now, and the time for that is
    not part of the estimate. With a ``stop`` the estimate is an upper bound. ``executor`` and ``workers`` do not
    count: all runs here.

    Raises:
        StudyError: If ``settings`` and one of its fields are both given, or a setting is out of range.
    """
    how = settings_of(settings, keywords)
    check_arguments(task, calibration=calibration, stop=stop, direction=direction)
    recipes = check_recipes(recipe)
    task = with_reference(wrapped.model, task)
    perturber = wrapped._perturber(recipes, calibration)
    variants = _variants(wrapped, layers, recipes, direction, perturber)
    return explain_sweep(wrapped.model, task, variants, perturber, stop=stored_stop(stop, task), settings=how)


@checked(StudyError)
def signals(
    wrapped: Wrapped,
    images: Images,
    recipe: Recipe = INT8,
    *,
    calibration: CalibrationLike = None,
    layers: Patterns = "*",
) -> Signals:
    """Perturb one layer at a time and compare without labels; see ``sweep.signals.measured.measure_signals``.

    A few images are usual. A task without inputs calls the model itself.

    Returns:
        SQNR of weight, layer output and model outputs, cosines, dead channels, clipped values; a mapping from the
        layer's name, with ``to_frame()``. ``study.with_signals`` shows them beside the drops.

    Raises:
        ModelError: If the model returns no floating-point tensor.
        TaskError: If the task never calls the model as a whole.
    """
    perturber = wrapped._perturber(check_recipes(recipe), calibration)
    passes = ((run, count) for run, count, _ in output_passes(wrapped.model, images, wrapped._example_inputs))
    return measure_signals(perturber, wrapped.layers.select(layers), recipe, passes, name=wrapped.name)


@checked(StudyError)
def screen(
    wrapped: Wrapped,
    images: Images,
    recipe: Recipe = INT8,
    *,
    loss: Loss | None = None,
    calibration: CalibrationLike = None,
    layers: Patterns = "*",
) -> Signals:
    """**Estimate** which layers matter, to choose what to measure first; see ``sweep.signals.estimated``.

    ``images`` come best one by one, and one is usual: all activations of a batch are held at once. ``loss`` takes
    the model's outputs and the batch as given (a task's ``Batch``, or the item of ``images``) and returns a scalar
    tensor; None takes the outputs with random signs, which needs no labels.

    Returns:
        ``estimate_first_order``, ``estimate_second_order`` and ``estimate_output_mse`` by layer;
        ``study.with_signals`` tells how well they agree with measured drops.

    Raises:
        ModelError: If the loss is no scalar or cannot be differentiated.
        TaskError: If the task never calls the model as a whole.
    """
    perturber = wrapped._perturber(check_recipes(recipe), calibration)
    passes = output_passes(wrapped.model, images, wrapped._example_inputs)
    return estimate_signals(perturber, wrapped.layers.select(layers), recipe, passes, name=wrapped.name, loss=loss)
