"""``wrap(model, example)``: the object a notebook holds. Thin: it only calls rooms."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sensitivity.contracts import NeedsReference, Store, Task
from sensitivity.errors import CalibrationError, ModelError
from sensitivity.layers.activations import ActivationTable
from sensitivity.layers.cost import scheme_bytes
from sensitivity.layers.inputs import batches_like, on_device_of, tensors_in
from sensitivity.layers.names import NamingScheme
from sensitivity.layers.select import resolve
from sensitivity.layers.table import LayerTable
from sensitivity.layers.wrap import find_layers
from sensitivity.perturb.calibrate import calibrate
from sensitivity.perturb.disturb import Disturber
from sensitivity.perturb.restore import untouched
from sensitivity.quantize.calibration import Calibration
from sensitivity.quantize.recipes import INT8
from sensitivity.records import Recipe, Scheme, Score
from sensitivity.study import Study
from sensitivity.sweep.plan import Direction, plan
from sensitivity.sweep.progress import watching
from sensitivity.sweep.run import OnError, evaluate, sweep
from sensitivity.sweep.store import opened


def wrap(
    model: nn.Module, example_inputs: Any, *, name: str | None = None, naming: NamingScheme | None = None
) -> Wrapped:
    """A model with its layers found and named, ready to be disturbed and measured.

    The model is not changed, now or later.

    Args:
        model: Any ``torch.nn.Module``.
        example_inputs: What it accepts: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        name: Its name in tables and patterns; by default its ``name`` attribute or its class.
        naming: A naming scheme of your own: module paths in execution order to (stage, block) of each.

    Raises:
        ModelError: If this is no module or has no layer.
        TracingError: If it fails with these inputs.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"wrap() takes a torch.nn.Module, not {type(model).__name__}: {model!r:.80}.")
    return Wrapped(model, find_layers(model, example_inputs, name=name, naming=naming), example_inputs)


class Wrapped:
    """A model and its layers.

    Attributes:
        model: The caller's model itself; it is disturbed only inside ``quantized`` and while a method runs.
        layers: Its layers in execution order.
        calibrations: Those made by ``calibrate``, the latest last.
    """

    def __init__(self, model: nn.Module, layers: LayerTable, example_inputs: Any) -> None:
        self.model = model
        self.layers = layers
        self.calibrations: list[Calibration] = []
        self._example_inputs = example_inputs

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.layers.model

    def activations(self, samples: int = 1) -> ActivationTable:
        """The tensors behind the model's activation functions with their sizes, the largest marked.

        Args:
            samples: Number of samples that the sizes are for.
        """
        first = next(tensors_in(self._example_inputs))
        return ActivationTable(self.layers, samples=samples, batch=max(1, first.shape[0] if first.dim() else 1))

    def size_bytes(
        self, scheme: Scheme | None = None, *, element_bytes: int | None = None, biases_too: bool = False
    ) -> int:
        """Bytes of all layers' weights and biases under a scheme; without one, as stored.

        Args:
            scheme: Which layer gets which recipe.
            element_bytes: Bytes of an element that is not quantized, e.g. 2 for a model deployed in FP16; None takes
                what the model is stored in.
            biases_too: Count the biases of quantized layers in the recipe's bits as well, as the thesis did; engines
                keep them in float.
        """
        recipes = resolve(scheme or Scheme(), self.layers, model=self.name)
        return scheme_bytes(self.layers, recipes, element_bytes=element_bytes, biases_too=biases_too)

    def calibrate(self, images: Task | Iterable[Any], recipe: Recipe = INT8) -> Calibration:
        """Measure the activation ranges that a recipe needs, all layers in one streaming pass.

        Args:
            images: A task (its images, run as it runs them), or preprocessed images: batches or single ones, as
                tensors, tuples or dicts like the example inputs.
            recipe: Says which tensors are observed, and how.

        Returns:
            The ranges; also kept for later calls that are given none.

        Raises:
            CalibrationError: If there are no images, or an activation holds NaN or infinity.
            RecipeError: If the recipe quantizes no activations.
        """
        made = calibrate(self.model, self.layers, recipe, self._runs(images))
        self.calibrations.append(made)
        return made

    @contextlib.contextmanager
    def quantized(self, scheme: Scheme, *, calibration: Calibration | None = None) -> Iterator[nn.Module]:
        """The simulated model for the time of a ``with`` block: the caller's own object, put back afterwards.

        Args:
            scheme: Which layer gets which recipe.
            calibration: Activation ranges; by default the last one made here that fits.

        Raises:
            LayerNotFoundError: If a rule of the scheme selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known.
        """
        recipes = resolve(scheme, self.layers, model=self.name)
        disturber = Disturber(self.model, self._calibrations(calibration))
        with untouched(self.model), disturber.applied({self.layers[name]: r for name, r in recipes.items()}):
            yield self.model

    def evaluate(self, task: Task, scheme: Scheme | None = None, *, calibration: Calibration | None = None) -> Score:
        """Score the model under a scheme; without one, as it is.

        Raises:
            LayerNotFoundError: If a rule of the scheme selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known.
            TaskError: If the task has no images or cannot score the predictions.
        """
        task = self._with_reference(task)
        with self.quantized(scheme or Scheme(), calibration=calibration) as model, torch.no_grad():
            return evaluate(model, task)

    def analyze(
        self,
        task: Task,
        recipe: Recipe | Sequence[Recipe] = INT8,
        *,
        calibration: Calibration | Task | Iterable[Any] | None = None,
        layers: str | Iterable[str] = "*",
        direction: Direction = "one-at-a-time",
        store: Store | str | Path | None = None,
        replay: bool = True,
        on_error: OnError = "record",
        progress: bool | None = None,
    ) -> Study:
        """Disturb one layer at a time and score the task each time, in one pass over the data.

        Args:
            task: Data and metric.
            recipe: What is done to each layer; several give one study with all of them.
            calibration: Ranges, or images to measure them on; by default the last calibration made here that fits.
            layers: Names, module paths or patterns of the layers to measure.
            direction: ``one-at-a-time``, or ``all-but-one``: disturb every layer except the one.
            store: A file that every result is written to as soon as it is there. Stop any time and run again to go on
                from there, also with more layers or recipes; the study is the same to the last bit but for the times,
                which are those of the last run. A layer that failed is not tried again.
            replay: Recompute only what a disturbed layer can change; the result is the same to the last bit.
            on_error: ``record`` turns a layer that fails into a row with its reason; ``raise`` stops.
            progress: Show a progress bar; by default where a person is watching (a terminal or a notebook).

        Returns:
            The study.

        Raises:
            LayerNotFoundError: If a pattern selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known.
            TaskError: If the task has no images or the undisturbed model cannot be scored.
            StoreConflictError: If the store was written for other weights, data, calibration or settings, or another
                process is writing to it.
            StoreFormatError: If the file is no store, or one of a newer version.
            StoreError: If the store cannot be written; what it holds is kept.
        """
        started = time.perf_counter()
        recipes = [recipe] if isinstance(recipe, Recipe) else list(recipe)
        task = self._with_reference(task)
        ready = self._ready(calibration, recipes)
        variants = plan(self.layers.select(layers), recipes, direction=direction, of=self.layers)
        disturber = Disturber(self.model, ready)
        with opened(store) as kept, watching(len(variants) * len(task), progress) as watch:
            found = sweep(
                self.model, task, variants, disturber, store=kept, replay=replay, on_error=on_error, watch=watch
            )
        return Study(
            model=self.name,
            task=task.name,
            metric=task.metric,
            unit=task.unit,
            higher_is_better=task.higher_is_better,
            baseline=found.baseline,
            layers=tuple(self.layers),
            measurements=tuple(found.measurements),
            recipes={one.name: one for one in recipes},
            direction=direction,
            skipped=self.layers.skipped,
            notes=tuple(found.notes),
            info={
                "seconds": round(time.perf_counter() - started, 3),
                "torch": torch.__version__,
                "calibration_images": ready[-1].images if ready else 0,
            },
        )

    def _with_reference(self, task: Task) -> Task:
        """The task, given the undisturbed model's outputs first where it compares with them."""
        if not isinstance(task, NeedsReference) or not task.needs_reference:
            return task
        with untouched(self.model), torch.no_grad():
            return task.with_reference(self.model)

    def _calibrations(self, given: Calibration | None) -> list[Calibration]:
        return self.calibrations if given is None else [given]

    def _ready(self, given: Calibration | Task | Iterable[Any] | None, recipes: Sequence[Recipe]) -> list[Calibration]:
        """Calibrations for a sweep: those at hand, the one given, or new ones from the images given."""
        if given is None or isinstance(given, Calibration):
            return self._calibrations(given)
        images = given if isinstance(given, Task) else list(given)
        made: list[Calibration] = []
        for recipe in recipes:
            if recipe.needs_calibration and not any(one.fits(recipe) for one in made):
                made.append(self.calibrate(images, recipe))
        return made

    def _runs(self, images: Task | Iterable[Any]) -> Iterator[tuple[Callable[[], Any], int]]:
        """The model on each batch of images, as functions to call."""
        if isinstance(images, Task):
            for batch in images.batches():
                yield partial(images.predict, self.model, batch), len(batch.images)
            return
        if isinstance(images, (str, Path)):
            raise CalibrationError(f"images must be tensors or a task, not the path {str(images)!r}. Load them first.")
        for args, kwargs, count in batches_like(images, self._example_inputs):
            moved_args, moved_kwargs = on_device_of(self.model, (args, kwargs))
            yield partial(self.model, *moved_args, **moved_kwargs), count

    def __repr__(self) -> str:
        return f"Wrapped({self.name}, {len(self.layers)} layers)"
