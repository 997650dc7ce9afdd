"""``wrap(model, example)``: the object a notebook holds. Thin: it only calls rooms."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sensitivity.contracts import Executor, NeedsReference, Store, Task
from sensitivity.deploy.deployed import Deployed, deploy
from sensitivity.deploy.engines import Build, check_engine, target_of
from sensitivity.deploy.latency import measure_latency
from sensitivity.deploy.placement import Target
from sensitivity.deploy.plan import Basis, Plan, make_basis, make_plan
from sensitivity.deploy.study import verify_measurements
from sensitivity.deploy.verify import CHECKED_SAMPLES
from sensitivity.deploy.verify import verify as compare_deployed
from sensitivity.errors import CalibrationError, ModelError, StudyError
from sensitivity.layers.activations import ActivationTable
from sensitivity.layers.cost import scheme_bytes
from sensitivity.layers.inputs import batches_like, on_device_of, tensors_in
from sensitivity.layers.names import NamingScheme
from sensitivity.layers.select import resolve
from sensitivity.layers.table import LayerTable
from sensitivity.layers.wrap import find_layers
from sensitivity.perturb.calibrate import calibrate
from sensitivity.perturb.digest import weights_digest
from sensitivity.perturb.disturb import Disturber
from sensitivity.perturb.restore import untouched
from sensitivity.quantize.calibration import Calibration
from sensitivity.quantize.recipes import INT8
from sensitivity.records import Recipe, Scheme, Score, Signals
from sensitivity.records.latency import Latency
from sensitivity.records.verification import Gates
from sensitivity.study import Study
from sensitivity.sweep.explain import Explanation, explain
from sensitivity.sweep.passes import OnError
from sensitivity.sweep.plan import Direction, plan
from sensitivity.sweep.progress import told, watching
from sensitivity.sweep.race import Confidence
from sensitivity.sweep.run import Settings, evaluate, sweep
from sensitivity.sweep.screen import Loss, ready_for_autograd, screen
from sensitivity.sweep.signals import measure_signals
from sensitivity.sweep.store import opened
from sensitivity.verification import Verification


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
        self._basis: Basis | None = None  # folded and exported once for all schemes

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

    def calibrate(
        self, images: Task | Iterable[Any], recipe: Recipe = INT8, *, progress: bool | None = None
    ) -> Calibration:
        """Measure the activation ranges that a recipe needs, all layers in one streaming pass.

        Args:
            images: A task (its images, run as it runs them), or preprocessed images: batches or single ones, as
                tensors, tuples or dicts like the example inputs.
            recipe: Says which tensors are observed, and how.
            progress: Show a progress bar; by default where a person is watching (a terminal or a notebook).

        Returns:
            The ranges; also kept for later calls that are given none.

        Raises:
            CalibrationError: If there are no images, or an activation holds NaN or infinity.
            RecipeError: If the recipe quantizes no activations.
        """
        total = len(images) if isinstance(images, Sized) else None
        with watching(total, progress) as watch:
            runs = told(self._runs(images), watch, total, in_images=isinstance(images, Task))
            made = calibrate(self.model, self.layers, recipe, runs)
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

    def plan(
        self, scheme: Scheme, *, calibration: Calibration | None = None, target: Target = "any", example: Any = None
    ) -> Plan:
        """What deploying a scheme means: a folded copy of the model, every scale, and what is left out with its reason.

        Args:
            scheme: Which layer gets which recipe.
            calibration: Activation ranges; by default the last one made here that fits.
            target: ``tensorrt`` leaves out what TensorRT does not run well in int8.
            example: Inputs that fix the sizes of the exported graph; by default the example inputs.

        Raises:
            ExportError: If a recipe cannot be expressed as Q/DQ, or the model cannot be copied.
            LayerNotFoundError: If a rule of the scheme selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known.
        """
        basis = self._basis if example is None and self._basis is not None else None
        if basis is None or basis.digest != weights_digest(self.model):
            basis = make_basis(self.model, self.layers, self._example_inputs if example is None else example)
            self._basis = basis if example is None else self._basis
        return make_plan(self.model, basis, scheme, self._calibrations(calibration), target=target)

    def deploy(
        self,
        scheme: Scheme,
        engine: str | Build = "openvino",
        *,
        calibration: Calibration | None = None,
        parts: Iterable[str] | None = None,
        example: Any = None,
        **settings: Any,
    ) -> Deployed:
        """Export a scheme and run it on an engine.

        Args:
            scheme: Which layer gets which recipe; ``Scheme()`` deploys the model in float.
            engine: ``openvino`` (true int8 on a CPU), ``onnxruntime`` (portable reference), ``tensorrt``, ``torch``
                (the simulation), or a function that makes an engine of an ONNX file's bytes.
            calibration: Activation ranges; by default the last one made here that fits.
            parts: Paths of the submodules to export, e.g. a backbone; None exports the whole model, and where that
                fails as much of it as can be.
            example: Inputs that fix the sizes of the exported graph; by default the example inputs.
            settings: The engine's own.

        Returns:
            Something that is called like the model.

        Raises:
            ExportError: If a recipe cannot be expressed as Q/DQ, or nothing can be exported.
            LayerNotFoundError: If a rule of the scheme selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known.
            MissingPackageError: If a package is not installed; the message names the extra that brings it.
            EngineBuildError: If the engine cannot be built.
            EngineError: If the engine is unknown.
        """
        check_engine(engine)
        plan = self.plan(scheme, calibration=calibration, target=target_of(engine), example=example)
        return deploy(plan, engine, parts=parts, **settings)

    def verify(
        self,
        deployed: Deployed,
        task: Task | None = None,
        *,
        samples: int = CHECKED_SAMPLES,
        gates: Gates | None = None,
        strict: bool = False,
    ) -> Verification:
        """Compare what an engine computes with what was simulated: layers, outputs, the task's metric, latency.

        Args:
            deployed: What ``deploy`` returned.
            task: Gives real inputs, and the metric; without one, layers and outputs are checked on the example inputs.
            samples: Samples that outputs and codes are compared on.
            gates: What is required; None for the usual numbers.
            strict: Raise where the engine runs another precision than planned.

        Raises:
            PrecisionNotHonouredError: If ``strict``, and a layer that is quantized runs in another precision.
            TaskError: If the task has no images, or never runs what was exported.
        """
        task = None if task is None else self._with_reference(task)
        with untouched(self.model), torch.no_grad():
            return Verification.of(
                compare_deployed(deployed, task, fp32=self.model, samples=samples, gates=gates, strict=strict)
            )

    def analyze(
        self,
        task: Task,
        recipe: Recipe | Sequence[Recipe] = INT8,
        *,
        calibration: Calibration | Task | Iterable[Any] | None = None,
        layers: str | Iterable[str] = "*",
        direction: Direction = "one-at-a-time",
        store: Store | str | Path | None = None,
        stop: Confidence | None = None,
        executor: Executor | None = None,
        replay: bool = True,
        memory_limit: int | None = None,
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
            stop: When a layer's drop is known well enough to give it no more images; images then come in a seeded
                random order. None runs every layer on every image.
            executor: Where passes run: any of ``concurrent.futures``, best a ``ProcessPoolExecutor``, or
                ``sv.ray_executor()``. The study is the same to the last bit. None is this process.
            replay: Recompute only what a disturbed layer can change; the result is the same to the last bit.
            memory_limit: Bytes of outputs that one recorded pass may keep; less costs time and changes no number.
            on_error: ``record`` turns a layer that fails into a row with its reason; ``raise`` stops.
            progress: Show a progress bar; by default where a person is watching (a terminal or a notebook).

        Returns:
            The study. Drops have bounds where the task has 8 images or more (``docs/confidence.md``). Ctrl-C ends the
            sweep early: the study holds what was measured until then, and a note says so.

        Raises:
            LayerNotFoundError: If a pattern selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known.
            TaskError: If the task has no images or the undisturbed model cannot be scored.
            StoreConflictError: If the store was written for other weights, data, calibration or settings, or another
                process is writing to it.
            StoreFormatError: If the file is no store, or one of a newer version.
            StoreError: If the store cannot be written; what it holds is kept.
            ExecutorError: If a worker died whose work is not run again, or something cannot be sent to workers.
        """
        started = time.perf_counter()
        recipes = [recipe] if isinstance(recipe, Recipe) else list(recipe)
        task = self._with_reference(task)
        ready = self._ready(calibration, recipes)
        variants = plan(self.layers.select(layers), recipes, direction=direction, of=self.layers)
        disturber = Disturber(self.model, ready)
        settings = Settings(replay=replay, on_error=on_error, stop=stop, memory_limit=memory_limit, executor=executor)
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
            info={
                "seconds": round(time.perf_counter() - started, 3),
                "torch": torch.__version__,
                "calibration_images": ready[-1].images if ready else 0,
                "intervals": found.intervals,
            },
        )

    def latency(
        self,
        recipe: Recipe = INT8,
        engine: str | Build = "openvino",
        *,
        calibration: Calibration | None = None,
        parts: Iterable[str] | None = None,
        example: Any = None,
        **settings: Any,
    ) -> Latency:
        """Time every layer on an engine, quantized and in float; ``study.with_latency`` takes the result.

        Args:
            recipe: What the quantized layers have.
            engine: One that tells the time of single layers: ``openvino``, ``tensorrt``.
            calibration: Activation ranges; by default the last one made here that fits.
            parts: As in ``deploy``.
            example: As in ``deploy``: the sizes that are timed.
            settings: The engine's own.

        Raises:
            EngineError: If the engine is unknown, or does not tell the time of single layers.
            ExportError: If the recipe cannot be expressed as Q/DQ, or nothing can be exported.
            CalibrationError: If activations are to be quantized and no ranges are known.
            MissingPackageError: If a package is not installed; the message names the extra that brings it.
            EngineBuildError: If the engine cannot be built.
        """
        given: dict[str, Any] = {"calibration": calibration, "parts": parts, "example": example, **settings}
        quantized, in_float = (self.deploy(scheme, engine, **given) for scheme in (Scheme.all(recipe), Scheme()))
        return measure_latency(quantized, in_float, recipe)

    def explain(
        self,
        task: Task,
        recipe: Recipe | Sequence[Recipe] = INT8,
        *,
        calibration: Calibration | Task | Iterable[Any] | None = None,
        layers: str | Iterable[str] = "*",
        direction: Direction = "one-at-a-time",
        memory_limit: int | None = None,
    ) -> Explanation:
        """What ``analyze`` with the same arguments will cost, from a short probe on the first batch; print it.

        Raises:
            LayerNotFoundError: If a pattern selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known.
            TaskError: If the task has no images.
        """
        recipes = [recipe] if isinstance(recipe, Recipe) else list(recipe)
        task = self._with_reference(task)
        disturber = Disturber(self.model, self._ready(calibration, recipes))
        variants = plan(self.layers.select(layers), recipes, direction=direction, of=self.layers)
        return explain(self.model, task, variants, disturber, memory_limit=memory_limit)

    def signals(
        self,
        images: Task | Iterable[Any],
        recipe: Recipe = INT8,
        *,
        calibration: Calibration | Task | Iterable[Any] | None = None,
        layers: str | Iterable[str] = "*",
    ) -> Signals:
        """Disturb one layer at a time and compare without labels; see ``sweep.signals.measure_signals``.

        Args:
            images: A task (its inputs), or preprocessed images; a few are usual.
            recipe: What is done to each layer.
            calibration: Ranges, or images to measure them on; by default the last calibration made here that fits.
            layers: Names, module paths or patterns of the layers.

        Returns:
            SQNR of weight, layer output and model outputs, cosines, dead channels, clipped values; a mapping from the
            layer's name, with ``to_frame()``. ``study.with_signals`` shows them beside the drops.

        Raises:
            LayerNotFoundError: If a pattern selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known, or there are no images.
            ModelError: If the model returns no floating-point tensor.
        """
        disturber = Disturber(self.model, self._ready(calibration, [recipe]))
        passes = ((run, count) for run, count, _ in self._passes(images))
        return measure_signals(self.model, self.name, self.layers.select(layers), recipe, disturber, passes)

    def screen(
        self,
        images: Task | Iterable[Any],
        recipe: Recipe = INT8,
        *,
        loss: Loss | None = None,
        calibration: Calibration | Task | Iterable[Any] | None = None,
        layers: str | Iterable[str] = "*",
    ) -> Signals:
        """**Estimate** which layers matter, to choose what to measure first; see ``sweep.screen.screen``.

        Args:
            images: A task (its inputs), or preprocessed images, best one by one; one is usual. All activations of a
                batch are held at once.
            recipe: What would be done to each layer.
            loss: Takes the model's outputs and the batch as given (a task's ``Batch``, or the item of ``images``) and
                returns a scalar tensor; by default the outputs with random signs, which needs no labels.
            calibration: Ranges, or images to measure them on; by default the last calibration made here that fits.
            layers: Names, module paths or patterns of the layers.

        Returns:
            ``estimate_first_order``, ``estimate_second_order`` (from one backward pass a batch) and
            ``estimate_output_mse`` (from one replayed pass a layer). ``study.with_signals`` tells how well they agree
            with measured drops.

        Raises:
            LayerNotFoundError: If a pattern selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known, or there are no images.
            ModelError: If the loss is no scalar or cannot be differentiated.
        """
        disturber = Disturber(self.model, self._ready(calibration, [recipe]))
        chosen = self.layers.select(layers)
        return screen(self.model, self.name, chosen, recipe, disturber, self._passes(images), loss)

    def verify_study(
        self,
        study: Study,
        task: Task,
        *,
        engine: str | Build = "openvino",
        layers: str | Iterable[str] = "*",
        calibration: Calibration | None = None,
        parts: Iterable[str] | None = None,
        gates: Gates | None = None,
        **settings: Any,
    ) -> Study:
        """Measure some layers of a study again, one at a time, on an engine.

        Args:
            study: What ``analyze`` returned for this model.
            task: The task it was made with.
            engine: As in ``deploy``.
            layers: Names, module paths or patterns of the layers to measure.
            calibration: Activation ranges; by default the last one made here that fits.
            parts: As in ``deploy``.
            gates: How near the drops must be; None for the usual numbers.
            settings: The engine's own.

        Returns:
            The study with those rows ``verified`` whose drop on the engine is the simulated one; all rows measured
            again have ``deployed_score`` and ``deployed_drop`` among their signals, and the others say why not.

        Raises:
            LayerNotFoundError: If a pattern selects no layer.
            StudyError: If the study is of another task, or of other layers.
            ExportError: If a recipe cannot be deployed.
            MissingPackageError: If a package is not installed.
            EngineBuildError: If an engine cannot be built.
        """
        if [layer.name for layer in study.layers] != self.layers.names:
            raise StudyError(f"the study is of {study.model}, whose layers are not those of {self.name}.")
        run = partial(self.deploy, engine=engine, calibration=calibration, parts=parts, **settings)
        rows = verify_measurements(study, run, self._with_reference(task), self.layers.select(layers), gates)
        return replace(study, measurements=rows)

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
                yield partial(self.model, *inputs), len(batch.images), batch
            return
        if isinstance(images, (str, Path)):
            raise CalibrationError(f"images must be tensors or a task, not the path {str(images)!r}. Load them first.")
        for item in images:
            for args, kwargs, count in batches_like([item], self._example_inputs):
                moved_args, moved_kwargs = ready_for_autograd(on_device_of(self.model, (args, kwargs)))
                yield partial(self.model, *moved_args, **moved_kwargs), count, item

    def __repr__(self) -> str:
        return f"Wrapped({self.name}, {len(self.layers)} layers)"
