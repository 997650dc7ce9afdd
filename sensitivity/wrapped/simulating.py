"""Activation ranges, and what the simulated model computes with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from sensitivity.contracts import Task
from sensitivity.errors import StudyError
from sensitivity.perturb.calibration.arguments import CalibrationLike, Images, check_calibrated, check_calibration
from sensitivity.perturb.reference import with_reference
from sensitivity.perturb.simulate import simulated
from sensitivity.perturb.state.sole_use import sole_use
from sensitivity.perturb.state.state import ModelState
from sensitivity.quantize.calibration import Calibration
from sensitivity.quantize.recipes import INT8
from sensitivity.records import Recipe, Scheme, Score
from sensitivity.records.arguments import checked, number
from sensitivity.score import evaluate as score_with

if TYPE_CHECKING:
    from sensitivity.changed_images import ChangedImages
    from sensitivity.wrapped.model import Wrapped


@checked(StudyError)
def calibrate(
    wrapped: Wrapped, images: Images, recipe: Recipe | Sequence[Recipe] | Scheme = INT8, *, progress: bool | None = None
) -> Calibration:
    """Measure the activation ranges that recipes need, all layers and placements in one streaming pass.

    Several recipes, or those of a scheme, share the pass.

    Returns:
        The ranges for all of the recipes; also kept for later calls that are given none. A layer with a tensor that
        no hook can see has none; perturbing it says why.

    Raises:
        CalibrationError: If an activation holds NaN or infinity, or no layer ran.
        RecipeError: If a recipe, or all of a scheme, quantizes no activations, or no layer can be observed.
    """
    return wrapped._calibrator.calibrate(images, check_calibrated(recipe), progress=progress)


@checked(StudyError)
@contextlib.contextmanager
def quantized(wrapped: Wrapped, scheme: Scheme, *, calibration: CalibrationLike = None) -> Iterator[nn.Module]:
    """The simulated model for the time of a ``with`` block: the caller's own object, put back afterwards.

    Other layers are emulated in half precision where the scheme says so. Batch norms are not folded:
    ``plan(scheme).simulated()`` is nearer to an engine. Inside the block call the model; what measures it, also through
    another wrap of it or in another thread, is refused: it would take the quantized model for the model itself.

    Raises:
        ModelInUseError: If the model is perturbed already, by a block around this one, or another thread measures it.
    """
    with sole_use(wrapped.model):
        ready = wrapped._calibrator.ready_for(scheme.recipes, calibration)
        with simulated(wrapped.model, wrapped.layers, scheme, ready, wrapped._example_inputs):
            yield wrapped.model


@checked(StudyError)
def evaluate(
    wrapped: Wrapped, task: Task, scheme: Scheme | None = None, *, calibration: CalibrationLike = None
) -> Score:
    """Score the model on a task under a scheme; without one, as it is."""
    check_calibration(calibration)
    task = with_reference(wrapped.model, task)
    with wrapped.quantized(scheme or Scheme(), calibration=calibration) as model, torch.no_grad():
        same_start = ModelState(model).same_start
        return score_with(model, task, around_batch=same_start, unperturbed=scheme is None)


@checked(StudyError)
def changed_images(
    wrapped: Wrapped,
    task: Task,
    scheme: Scheme,
    *,
    top: int = 6,
    least_score: float = 0.3,
    calibration: CalibrationLike = None,
) -> ChangedImages:
    """The images whose own score a scheme changes most, with what the model says about them before and after.

    All images are run twice, in float and quantized, and each is scored by itself; those with the largest difference,
    for better or worse, are run once more to be shown. An image without anything to find has no score of its own.

    Args:
        wrapped: The model and its layers.
        task: Data and metric; it can show its images (``contracts.ShowsImages``), as those with image files can.
        scheme: Which layer gets which recipe.
        top: How many images are shown; fewer where fewer change.
        least_score: Boxes with a score below this are not shown.
        calibration: Activation ranges or images.

    Returns:
        The images with a copy of at most 320 pixels, and boxes, pixels or class in float and quantized;
        ``study.to_html`` and ``tuned.to_html`` put them on their pages.

    Raises:
        TaskError: If the task cannot show its images, or has none.
        StudyError: If ``top`` is below 1.
    """
    from sensitivity.changed_images import ChangedImages
    from sensitivity.sweep.changed_images import Limits
    from sensitivity.sweep.changed_images import changed_images as compare_images

    number("top", top, least=1, error=StudyError)
    ready = wrapped._calibrator.ready_for(scheme.recipes, calibration)
    record = compare_images(
        with_reference(wrapped.model, task),
        *(partial(_entered, wrapped, each, ready) for each in (Scheme(), scheme)),
        model=wrapped.name,
        scheme=scheme,
        limits=Limits(top, least_score),
    )
    return ChangedImages.of(record)


@contextlib.contextmanager
def _entered(
    wrapped: Wrapped, scheme: Scheme, calibrations: Sequence[Calibration]
) -> Iterator[tuple[nn.Module, Callable[[], contextlib.AbstractContextManager[None]]]]:
    """The model under a scheme, and what lets each batch start from the same state of it."""
    with wrapped.quantized(scheme, calibration=list(calibrations) or None) as model, torch.no_grad():
        yield model, ModelState(model).same_start
