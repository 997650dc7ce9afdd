"""``wrap(model, example)``: the object a notebook holds. Thin: it only calls rooms."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from sensitivity.contracts import Executor, NeedsReference, Store, Task
from sensitivity.deployable import Deployable
from sensitivity.errors import CalibrationError, ModelError
from sensitivity.layers.activations import ActivationTable
from sensitivity.layers.cost import scheme_bytes
from sensitivity.layers.find import find_layers
from sensitivity.layers.inputs import batches_like, on_device_of, tensors_in
from sensitivity.layers.names import NamingScheme
from sensitivity.layers.select import resolve
from sensitivity.layers.table import LayerTable
from sensitivity.perturb.calibrate import calibrate
from sensitivity.perturb.digest import weights_digest
from sensitivity.perturb.disturb import Disturber
from sensitivity.perturb.kept import find_kept
from sensitivity.perturb.rest import half_rest
from sensitivity.perturb.restore import untouched
from sensitivity.progress import told, watching
from sensitivity.quantize.calibration import Calibration
from sensitivity.quantize.recipes import INT8
from sensitivity.records import Recipe, Scheme, Score, Signals, StudyInfo
from sensitivity.score import evaluate
from sensitivity.study import Study
from sensitivity.sweep.arguments import check_arguments, check_calibration, check_recipes
from sensitivity.sweep.explain import Explanation, explain
from sensitivity.sweep.passes.in_process import OnError
from sensitivity.sweep.plan import Direction, plan
from sensitivity.sweep.run import Settings, sweep
from sensitivity.sweep.signals.estimated import Loss, ready_for_autograd, screen
from sensitivity.sweep.signals.measured import measure_signals
from sensitivity.sweep.signals.outputs import outputs_inside
from sensitivity.sweep.stopping.race import Confidence
from sensitivity.sweep.storage.claim import calibration_images
from sensitivity.sweep.storage.journal import opened
from sensitivity.verification import Verification

CalibrationLike = Calibration | Sequence[Calibration] | Task | Iterable[Any]
"""Ranges, or images to measure them on."""

if TYPE_CHECKING:
    from sensitivity.deploy.deployed import Deployed


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


def verify(wrapped: Wrapped, deployed: Deployed, task: Task | None = None, **settings: Any) -> Verification:
    """``wrapped.verify(deployed, task)`` as a function; see there."""
    return wrapped.verify(deployed, task, **settings)


class Wrapped(Deployable):
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

    def activations(self, samples: int = 1) -> ActivationTable:
        """The tensors behind the model's activation functions with their sizes, the largest marked.

        Args:
            samples: Number of samples that the sizes are for.
        """
        first = next(tensors_in(self._example_inputs))
        return ActivationTable(self.layers, samples=samples, batch=max(1, first.shape[0] if first.dim() else 1))

    def folded(self) -> Wrapped:
        """A copy of the model with each batch norm folded into the layer before it, as engines run it.

        Layers keep their names; those that took over their norm have none. Where folding would change the outputs a
        norm stays. A sweep of it is cheaper, and scores differ in last bits. Not so where a recipe looks at the weights
        as they are stored: ``sv.THESIS`` and pruning see the folded ones, and choose others than ``deploy`` does.

        Raises:
            ExportError: If the model cannot be copied, or is not in float32.
            TracingError: If it fails with the example inputs.
        """
        from sensitivity.deploy.prepare.plan import make_basis

        basis = make_basis(self.model, self.layers, self._example_inputs)
        return Wrapped(basis.model, basis.layers, self._example_inputs)

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

    @overload
    def calibrate(
        self, images: Task | Iterable[Any], recipe: Recipe = INT8, *, progress: bool | None = None
    ) -> Calibration: ...

    @overload
    def calibrate(
        self, images: Task | Iterable[Any], recipe: Sequence[Recipe], *, progress: bool | None = None
    ) -> list[Calibration]: ...

    def calibrate(
        self, images: Task | Iterable[Any], recipe: Recipe | Sequence[Recipe] = INT8, *, progress: bool | None = None
    ) -> Calibration | list[Calibration]:
        """Measure the activation ranges that recipes need, all layers and placements in one streaming pass.

        Layers with a tensor that no hook can see, such as the output of ``F.relu`` where ``sv.THESIS`` needs it, are
        left out; disturbing one says why.

        Args:
            images: A task (its images, run as it runs them), or preprocessed images: batches or single ones, as
                tensors, tuples or dicts like the example inputs.
            recipe: Says which tensors are observed, and how; several share the pass.
            progress: Show a progress bar; by default where a person is watching (a terminal or a notebook).

        Returns:
            The ranges, one for each recipe where several are given; also kept for later calls that are given none.

        Raises:
            CalibrationError: If there are no images, an activation holds NaN or infinity, or no layer ran.
            RecipeError: If a recipe quantizes no activations, or none of the layers can be observed.
        """
        recipes = check_recipes(recipe)
        total = len(images) if isinstance(images, Sized) else None
        with watching(total, progress) as watch:
            runs = told(self._runs(images), watch, total, in_images=isinstance(images, Task))
            made = calibrate(self.model, self.layers, recipes, runs)
        self.calibrations += made
        return made[0] if isinstance(recipe, Recipe) else made

    @contextlib.contextmanager
    def quantized(self, scheme: Scheme, *, calibration: Calibration | None = None) -> Iterator[nn.Module]:
        """The simulated model for the time of a ``with`` block: the caller's own object, put back afterwards.

        Where the scheme's rest is in half precision, that is emulated. Batch norms are not folded here, so biases are
        not rounded that an engine makes of them; ``plan(scheme).simulated()`` is nearer to it.

        Args:
            scheme: Which layer gets which recipe.
            calibration: Activation ranges; by default the last one made here that fits.

        Raises:
            LayerNotFoundError: If a rule of the scheme selects no layer, or what it keeps in fp32 is not there.
            CalibrationError: If activations are to be quantized and no ranges are known.
        """
        recipes = resolve(scheme, self.layers, model=self.name)
        kept = find_kept(self.model, self.layers, scheme, self._example_inputs)
        disturber = Disturber(self.model, self._calibrations(calibration))
        with (
            untouched(self.model),
            disturber.applied({self.layers[name]: r for name, r in recipes.items()}),
            half_rest(self.model, self.layers, recipes, scheme.rest, kept),
        ):
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
        calibration: CalibrationLike | None = None,
        layers: str | Iterable[str] = "*",
        direction: Direction = "one-at-a-time",
        store: Store | str | Path | None = None,
        stop: Confidence | None = None,
        executor: Executor | None = None,
        intervals: bool = True,
        replay: bool = True,
        memory_limit: int | None = None,
        on_error: OnError = "record",
        progress: bool | None = None,
    ) -> Study:
        """Disturb one layer at a time and score the task each time, in one pass over the data.

        Args:
            task: Data and metric.
            recipe: What is done to each layer; several give one study with all of them.
            calibration: Ranges (one or several), or images to measure them on; by default the last made here that fit.
            layers: Names, module paths or patterns of the layers to measure; the others are never disturbed.
            direction: ``one-at-a-time``, or ``all-but-one``: disturb every one of ``layers`` except the one.
            store: A file that every result is written to as soon as it is there. Stop any time and run again to go on
                from there, also with more layers or recipes; the study is the same to the last bit but for the times,
                which are those of the last run. A layer that failed is not tried again, unless memory ran out. The
                undisturbed model always runs on the first batch: if it predicts something else than when the store was
                written, the store is refused.
            stop: When a layer's drop is known well enough to give it no more images; images then come in a seeded
                random order. None runs every layer on every image.
            executor: Where passes run: any of ``concurrent.futures``, best a ``ProcessPoolExecutor``, or
                ``sv.ray_executor()``. The study is the same to the last bit. None is this process.
            intervals: Give every drop bounds, which without a stop scores each layer some twenty times more: cheap for
                our COCO and LVIS tasks, which share the matching, dear for a metric of your own that is slow.
            replay: Recompute only what a disturbed layer can change; the result is the same to the last bit.
            memory_limit: Bytes of outputs that one recorded pass may keep; less costs time and changes no number.
            on_error: ``record`` turns a layer that fails, or that the metric fails on, into a row with its reason;
                ``raise`` stops.
            progress: Show a progress bar; by default where a person is watching (a terminal or a notebook).

        Returns:
            The study. Drops have bounds where the task has 8 images or more (``docs/confidence.md``). Ctrl-C ends the
            sweep early: the study holds what was measured until then, and a note says so; while scores are computed,
            the first one does without intervals, the second without the scores still to come.

        Raises:
            LayerNotFoundError: If a pattern selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known.
            TaskError: If the task has no images or the undisturbed model cannot be scored, or not with a number.
            StoreConflictError: If the store was written for another model, data, calibration or settings, or another
                process is writing to it.
            StoreFormatError: If the file is no store, or one of a newer version.
            StoreError: If the store cannot be written; what it holds is kept.
            ExecutorError: If a worker died whose work is not run again, or something cannot be sent to workers.
        """
        started = time.perf_counter()
        asked = {"stop": stop, "executor": executor, "on_error": on_error, "memory_limit": memory_limit}
        check_arguments(task, calibration=calibration, store=store, **asked)
        recipes = check_recipes(recipe)
        task = self._with_reference(task)
        ready = self._ready(calibration, recipes, progress=progress)
        variants = plan(self.layers.select(layers), recipes, direction=direction)
        disturber = Disturber(self.model, ready)
        settings = Settings(
            replay=replay,
            on_error=on_error,
            stop=stop,
            memory_limit=memory_limit,
            executor=executor,
            intervals=intervals,
        )
        with opened(store) as kept, watching(len(variants) * len(task), progress) as watch:
            found = sweep(self.model, task, variants, disturber, settings=settings, store=kept, watch=watch)
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
            info=StudyInfo(
                seconds=round(time.perf_counter() - started, 3),
                torch=torch.__version__,
                weights=weights_digest(self.model),
                calibration_images=calibration_images(recipes, disturber),
                intervals=found.intervals,
            ),
        )

    def explain(
        self,
        task: Task,
        recipe: Recipe | Sequence[Recipe] = INT8,
        *,
        calibration: CalibrationLike | None = None,
        layers: str | Iterable[str] = "*",
        direction: Direction = "one-at-a-time",
        stop: Confidence | None = None,
        intervals: bool = True,
        memory_limit: int | None = None,
    ) -> Explanation:
        """What ``analyze`` will cost in this process, from a short probe on the first batches; print it.

        Args:
            task: As in ``analyze``.
            recipe: As in ``analyze``.
            calibration: As in ``analyze``; images are run now, and what that takes is not told.
            layers: As in ``analyze``.
            direction: As in ``analyze``.
            stop: As in ``analyze``; the data decide how much it saves, so the cost is then at most what is told.
            intervals: As in ``analyze``.
            memory_limit: As in ``analyze``.

        Raises:
            LayerNotFoundError: If a pattern selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known.
            TaskError: If the task has no images.
        """
        check_arguments(task, calibration=calibration, stop=stop, memory_limit=memory_limit)
        recipes = check_recipes(recipe)
        task = self._with_reference(task)
        disturber = Disturber(self.model, self._ready(calibration, recipes))
        variants = plan(self.layers.select(layers), recipes, direction=direction)
        return explain(self.model, task, variants, disturber, stop=stop, intervals=intervals, memory_limit=memory_limit)

    def signals(
        self,
        images: Task | Iterable[Any],
        recipe: Recipe = INT8,
        *,
        calibration: CalibrationLike | None = None,
        layers: str | Iterable[str] = "*",
    ) -> Signals:
        """Disturb one layer at a time and compare without labels; see ``sweep.signals.measure_signals``.

        Args:
            images: A task (its inputs; a task without them calls the model itself), or preprocessed images; a few are
                usual.
            recipe: What is done to each layer.
            calibration: Ranges (one or several), or images to measure them on; by default the last made here that fit.
            layers: Names, module paths or patterns of the layers.

        Returns:
            SQNR of weight, layer output and model outputs, cosines, dead channels, clipped values; a mapping from the
            layer's name, with ``to_frame()``. ``study.with_signals`` shows them beside the drops.

        Raises:
            LayerNotFoundError: If a pattern selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known, or there are no images.
            ModelError: If the model returns no floating-point tensor.
            TaskError: If the task never calls the model as a whole.
        """
        disturber = Disturber(self.model, self._ready(calibration, check_recipes(recipe)))
        passes = ((run, count) for run, count, _ in self._passes(images))
        return measure_signals(self.model, self.name, self.layers.select(layers), recipe, disturber, passes)

    def screen(
        self,
        images: Task | Iterable[Any],
        recipe: Recipe = INT8,
        *,
        loss: Loss | None = None,
        calibration: CalibrationLike | None = None,
        layers: str | Iterable[str] = "*",
    ) -> Signals:
        """**Estimate** which layers matter, to choose what to measure first; see ``sweep.signals.estimated.screen``.

        Args:
            images: A task (as in ``signals``), or preprocessed images, best one by one; one is usual. All activations
                of a batch are held at once.
            recipe: What would be done to each layer.
            loss: Takes the model's outputs and the batch as given (a task's ``Batch``, or the item of ``images``) and
                returns a scalar tensor; by default the outputs with random signs, which needs no labels.
            calibration: Ranges (one or several), or images to measure them on; by default the last made here that fit.
            layers: Names, module paths or patterns of the layers.

        Returns:
            ``estimate_first_order``, ``estimate_second_order`` (from one backward pass a batch) and
            ``estimate_output_mse`` (from one replayed pass a layer). ``study.with_signals`` tells how well they agree
            with measured drops.

        Raises:
            LayerNotFoundError: If a pattern selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known, or there are no images.
            ModelError: If the loss is no scalar or cannot be differentiated.
            TaskError: If the task never calls the model as a whole.
        """
        disturber = Disturber(self.model, self._ready(calibration, check_recipes(recipe)))
        chosen = self.layers.select(layers)
        return screen(self.model, self.name, chosen, recipe, disturber, self._passes(images), loss)

    def _with_reference(self, task: Task) -> Task:
        """The task, given the undisturbed model's outputs first where it compares with them."""
        if not isinstance(task, NeedsReference) or not task.needs_reference:
            return task
        with untouched(self.model), torch.no_grad():
            return task.with_reference(self.model)

    def _calibrations(self, given: Calibration | None) -> list[Calibration]:
        return self.calibrations if given is None else [given]

    def _ready(
        self, given: CalibrationLike | None, recipes: Sequence[Recipe], *, progress: bool | None = None
    ) -> list[Calibration]:
        """Calibrations for a sweep: those at hand, those given, or new ones from one pass over the images given."""
        check_calibration(given)
        if given is None or isinstance(given, Calibration):
            return self._calibrations(given)
        if isinstance(given, Sequence) and given and all(isinstance(one, Calibration) for one in given):
            return list(given)
        needed = [recipe for recipe in recipes if recipe.needs_calibration]
        return self.calibrate(given, needed, progress=progress) if needed else []

    def _runs(self, images: Task | Iterable[Any]) -> Iterator[tuple[Callable[[], Any], int]]:
        """The model on each batch of images, as functions to call."""
        if isinstance(images, Task):
            task = self._with_reference(images)
            for batch in task.batches():
                yield partial(task.predict, self.model, batch), len(batch.images)
            return
        if isinstance(images, (str, Path)):
            raise CalibrationError(f"images must be tensors or a task, not the path {str(images)!r}. Load them first.")
        for args, kwargs, count in batches_like(images, self._example_inputs):
            moved_args, moved_kwargs = on_device_of(self.model, (args, kwargs))
            yield partial(self.model, *moved_args, **moved_kwargs), count

    def _passes(self, images: Task | Iterable[Any]) -> Iterator[tuple[Callable[[], Any], int, Any]]:
        """The model's own outputs on each batch, as functions to call; the number of images, and the batch as given."""
        if isinstance(images, Task):
            for batch in images.batches():
                inputs = ready_for_autograd(on_device_of(self.model, batch.inputs))
                own = partial(self.model, *inputs) if inputs else partial(outputs_inside, self.model, images, batch)
                yield own, len(batch.images), batch
            return
        if isinstance(images, (str, Path)):
            raise CalibrationError(f"images must be tensors or a task, not the path {str(images)!r}. Load them first.")
        for item in images:
            for args, kwargs, count in batches_like([item], self._example_inputs):
                moved_args, moved_kwargs = ready_for_autograd(on_device_of(self.model, (args, kwargs)))
                yield partial(self.model, *moved_args, **moved_kwargs), count, item

    def __repr__(self) -> str:
        return f"Wrapped({self.name}, {len(self.layers)} layers)"
