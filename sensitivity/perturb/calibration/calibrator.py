"""The calibrations of one model: those that were made, and new ones for recipes that need them."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sensitivity.contracts import Task
from sensitivity.errors import CalibrationError
from sensitivity.layers.table import LayerTable
from sensitivity.perturb.calibration.arguments import CalibrationLike, Images, check_calibration
from sensitivity.perturb.calibration.calibrate import calibrate
from sensitivity.perturb.calibration.images import check_images, passes_of
from sensitivity.perturb.reference import with_reference
from sensitivity.progress import counted, watching
from sensitivity.quantize.calibration import Calibration
from sensitivity.records import Recipe


@dataclass(eq=False)
class Calibrator:
    """Calibrates one model, and keeps what it made.

    Attributes:
        model: The model; left as it was.
        layers: Its layers.
        example_inputs: What it accepts.
        calibrations: Those that were made, the latest last.
    """

    model: nn.Module
    layers: LayerTable
    example_inputs: Any
    calibrations: list[Calibration] = field(default_factory=list)

    def calibrate(self, images: Images, recipes: Sequence[Recipe], *, progress: bool | None = None) -> Calibration:
        """The activation ranges of all layers for some recipes, from one pass; they are kept.

        Args:
            images: A task, or preprocessed images.
            recipes: Say which tensors are observed, and how.
            progress: Show a progress bar.

        Raises:
            CalibrationError: If there are no images, an activation holds NaN or infinity, or no layer ran.
            RecipeError: If a recipe quantizes no activations, or no layer can be observed.
        """
        images = with_reference(self.model, images) if isinstance(images, Task) else check_images(images)
        total = len(images) if isinstance(images, Sized) else None
        with watching(total, progress) as watch:
            passes = passes_of(self.model, images, self.example_inputs)
            runs = counted(((run, count) for run, count, _ in passes), watch, total, in_images=isinstance(images, Task))
            calibration = calibrate(self.model, self.layers, recipes, runs)
        self.calibrations.append(calibration)
        return calibration

    def ready_for(
        self, recipes: Sequence[Recipe], calibration: CalibrationLike, *, progress: bool | None = None
    ) -> list[Calibration]:
        """The calibrations to use: those given, those made before, or a new one from one pass over the images given.

        Args:
            recipes: What is to be done to layers.
            calibration: Ranges, images, or None for the ranges made before.
            progress: Show a progress bar while images are run.

        Raises:
            CalibrationError: If these are neither ranges nor images, or no ranges can be measured on them.
        """
        check_calibration(calibration)
        if calibration is None:
            return self.calibrations
        if isinstance(calibration, Calibration):
            return [calibration]
        if isinstance(calibration, Sequence) and all(isinstance(item, Calibration) for item in calibration):
            return list(calibration)
        needed = [recipe for recipe in recipes if recipe.needs_calibration]
        try:
            return [self.calibrate(calibration, needed, progress=progress)] if needed else []
        except CalibrationError as error:
            raise CalibrationError(
                python=f"calibration=: {error}", shell=f"images to calibrate with: {error.in_shell}"
            ) from error
