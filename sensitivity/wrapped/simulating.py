"""Activation ranges, and what the simulated model computes with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from sensitivity.contracts import Task
from sensitivity.errors import StudyError
from sensitivity.perturb.arguments import CalibrationLike, Images, check_calibrated, check_calibration
from sensitivity.perturb.reference import with_reference
from sensitivity.perturb.simulate import simulated
from sensitivity.perturb.state import ModelState
from sensitivity.quantize.calibration import Calibration
from sensitivity.quantize.recipes import INT8
from sensitivity.records import Recipe, Scheme, Score
from sensitivity.records.arguments import checked
from sensitivity.score import evaluate as score_with

if TYPE_CHECKING:
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
    ``plan(scheme).simulated()`` is nearer to an engine.
    """
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
