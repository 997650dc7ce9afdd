"""``wrap(model, example)``: the object a notebook holds. Thin: it only calls rooms."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, Unpack

import torch
from torch import nn

from sensitivity.contracts import Executor, Store, Task
from sensitivity.errors import ExportError, ModelError, StudyError
from sensitivity.layers.activations import ActivationTable
from sensitivity.layers.cost import scheme_bytes
from sensitivity.layers.find import find_layers
from sensitivity.layers.inputs import tensors_in
from sensitivity.layers.names import NamingScheme
from sensitivity.layers.select import resolve
from sensitivity.layers.table import LayerTable
from sensitivity.perturb.arguments import CalibrationLike, Images, check_calibrated, check_calibration, check_recipes
from sensitivity.perturb.attributes import Attributes
from sensitivity.perturb.calibrator import Calibrator
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.reference import with_reference
from sensitivity.perturb.restore import untouched
from sensitivity.perturb.simulate import simulated
from sensitivity.perturb.sole_use import sole_use
from sensitivity.perturb.state import ModelState
from sensitivity.progress import watching
from sensitivity.quantize.calibration import Calibration
from sensitivity.quantize.recipes import INT8
from sensitivity.records import Recipe, Scheme, Score, Signals
from sensitivity.records.arguments import CHECKED_WHERE_USED, checked
from sensitivity.records.latency import Latency
from sensitivity.records.scheme import IoType
from sensitivity.records.tuned import Goal
from sensitivity.records.verification import CHECKED_SAMPLES, Gates
from sensitivity.score import evaluate
from sensitivity.study import Study
from sensitivity.sweep.arguments import check_arguments, stored_stop
from sensitivity.sweep.explain import Explanation, explain
from sensitivity.sweep.plan import Direction, plan
from sensitivity.sweep.record import study_record
from sensitivity.sweep.run import Settings, sweep
from sensitivity.sweep.settings import Sweep, SweepKeywords, settings_of
from sensitivity.sweep.signals.estimated import Loss, estimate_signals
from sensitivity.sweep.signals.measured import measure_signals
from sensitivity.sweep.signals.passes import output_passes
from sensitivity.sweep.stopping.race import Confidence
from sensitivity.sweep.storage.journal import opened
from sensitivity.verification import Verification

if TYPE_CHECKING:
    from sensitivity.deploy.deployed import Deployed
    from sensitivity.deploy.engines.registry import Build
    from sensitivity.deploy.prepare.placement import Target
    from sensitivity.deploy.prepare.plan import Plan
    from sensitivity.deploy.prepare.plans import Plans
    from sensitivity.diagnosis import Diagnosis
    from sensitivity.search.explain import TuneExplanation
    from sensitivity.search.tune import Subject
    from sensitivity.tuned import Tuned

Patterns: TypeAlias = str | Iterable[str]
Recipes: TypeAlias = Recipe | Sequence[Recipe]
StoreLike: TypeAlias = Store | str | Path | None


@checked(StudyError)
def wrap(
    model: nn.Module, example_inputs: Any, *, name: str | None = None, naming: NamingScheme | None = None
) -> Wrapped:
    """A model with its layers found and named, ready to be perturbed and measured.

    Args:
        model: Any ``torch.nn.Module``; it is not changed, now or later.
        example_inputs: What it accepts: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        name: Its name in tables and patterns; by default its ``name`` attribute or its class.
        naming: A naming scheme of your own: module paths in execution order to (stage, block) of each.

    Raises:
        ModelError: If this is no module or has no layer.
        TracingError: If it fails with these inputs.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"wrap() takes a torch.nn.Module, not {type(model).__name__}: {model!r:.80}.")
    shared = Attributes(model)  # a copy is traced, which shares its classes with the model
    try:
        layers = find_layers(model, example_inputs, name=name, naming=naming)
    finally:
        shared.put_back()
    return Wrapped(model, layers, example_inputs)


@checked(StudyError)
def verify(wrapped: Wrapped, deployed: Deployed, task: Task | None = None, **settings: Any) -> Verification:
    """``wrapped.verify(deployed, task)`` as a function; see there."""
    return wrapped.verify(deployed, task, **settings)


class Wrapped:
    """A model and its layers.

    What several methods take has one meaning, and is not described again in each of them:

    - ``recipe``: what is done to a layer; ``scheme``: which layer gets which recipe.
    - ``layers``: names, module paths or patterns of the layers to measure.
    - ``calibration``: activation ranges (one ``Calibration`` or several), or images to measure them on first. None
      takes the last ranges made here that fit.
    - ``images``: a task (its inputs), or preprocessed images: batches or single ones, as tensors, tuples or dicts like
      the example inputs.
    - ``progress``: show a progress bar; by default where a person is watching (a terminal or a notebook).
    - ``engine``, ``parts``, ``example`` and the engine's own ``settings``: as in ``deploy``.

    So have errors: a pattern or a rule that selects no layer is a ``LayerNotFoundError``, missing ranges and missing
    images are a ``CalibrationError``, a task without images or a score is a ``TaskError``, an unknown engine or recipe
    is an ``EngineError`` or a ``RecipeError``, and a package that is not installed is a ``MissingPackageError``. A
    method lists what it raises beside these.

    Attributes:
        model: The caller's model itself; it is perturbed only inside ``quantized`` and while a method runs.
        layers: Its layers in execution order.
        calibrations: Those made by ``calibrate``, the latest last.
        reasons: For a copy that ``equalized`` made: layers that could not be equalized whole, with the reason.
    """

    @checked(StudyError)
    def __init__(self, model: nn.Module, layers: LayerTable, example_inputs: Any) -> None:
        self.model = model
        self.layers = layers
        self.calibrations: list[Calibration] = []
        self.reasons: Mapping[str, str] = {}
        self._example_inputs = example_inputs

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.layers.model

    @checked(StudyError)
    def activations(self, samples: int = 1) -> ActivationTable:
        """The tensors behind the model's activation functions with their sizes, the largest marked.

        Args:
            samples: Number of samples that the sizes are for.
        """
        first = next(tensors_in(self._example_inputs))
        return ActivationTable(self.layers, samples=samples, batch=max(1, first.shape[0] if first.dim() else 1))

    def folded(self) -> Wrapped:
        """A copy of the model with each batch norm folded into the layer before it, as engines run it.

        Layers keep their names; a norm stays where folding would change the outputs. A sweep of it is cheaper, and
        scores differ in last bits; recipes that look at stored weights (``sv.THESIS``, pruning) see the folded ones.

        Raises:
            ExportError: If the model cannot be copied, or is not in float32.
            TracingError: If it fails with the example inputs.
        """
        from sensitivity.deploy.prepare.basis import make_basis

        basis = make_basis(self.model, self.layers, self._example_inputs)
        return Wrapped(basis.model, basis.layers, self._example_inputs)

    def equalized(self) -> Wrapped:
        """A copy of the model, batch norms folded, whose channels are as large where they are written as where read.

        What quantizes it meets fewer outlier channels; its outputs are the same but for rounding, which is checked,
        layers keep their names, and it costs nothing when the model runs. See ``deploy.prepare.equalized``.

        Returns:
            The copy; its ``reasons`` say which layers read channels that could not be scaled, and why.

        Raises:
            ExportError: If the model cannot be copied, is not in float32, or the copy computes something else.
            TracingError: If it fails with the example inputs.
        """
        from sensitivity.deploy.prepare.equalized import equalized_copy

        copied = equalized_copy(self.model, self.layers, self._example_inputs)
        wrapped = Wrapped(copied.model, copied.layers, self._example_inputs)
        wrapped.reasons = copied.reasons
        return wrapped

    @checked(StudyError)
    def size_bytes(
        self, scheme: Scheme | None = None, *, element_bytes: int | None = None, biases_too: bool = False
    ) -> int:
        """Bytes of all layers' weights and biases under a scheme; without one, as stored.

        Args:
            scheme: Which layer gets which recipe.
            element_bytes: Bytes of an element that is not quantized, e.g. 2 in FP16; None takes those of the model.
            biases_too: Count the biases of quantized layers in the recipe's bits as well, as the thesis did; engines
                keep them in float.
        """
        recipes = resolve(scheme or Scheme(), self.layers, model=self.name)
        return scheme_bytes(self.layers, recipes, element_bytes=element_bytes, biases_too=biases_too)

    @checked(StudyError)
    def calibrate(
        self, images: Images, recipe: Recipe | Sequence[Recipe] | Scheme = INT8, *, progress: bool | None = None
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
        return self._calibrator.calibrate(images, check_calibrated(recipe), progress=progress)

    @checked(StudyError)
    @contextlib.contextmanager
    def quantized(self, scheme: Scheme, *, calibration: CalibrationLike = None) -> Iterator[nn.Module]:
        """The simulated model for the time of a ``with`` block: the caller's own object, put back afterwards.

        Other layers are emulated in half precision where the scheme says so. Batch norms are not folded:
        ``plan(scheme).simulated()`` is nearer to an engine.
        """
        ready = self._calibrator.ready_for(scheme.recipes, calibration)
        with simulated(self.model, self.layers, scheme, ready, self._example_inputs):
            yield self.model

    @checked(StudyError)
    def evaluate(self, task: Task, scheme: Scheme | None = None, *, calibration: CalibrationLike = None) -> Score:
        """Score the model on a task under a scheme; without one, as it is."""
        check_calibration(calibration)
        task = with_reference(self.model, task)
        with self.quantized(scheme or Scheme(), calibration=calibration) as model, torch.no_grad():
            same_start = ModelState(model).same_start
            return evaluate(model, task, around_batch=same_start, unperturbed=scheme is None)

    @checked(StudyError)
    def analyze(
        self,
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
        with sole_use(self.model):
            task = with_reference(self.model, task)
            perturber = self._perturber(recipes, calibration, progress=progress)
            variants = plan(self.layers.select(layers), recipes, direction=direction)
            total = len(variants) * len(task)
            with how.workplace() as executor, opened(store) as opened_store, watching(total, progress) as watch:
                passes = Settings.of(how, executor=executor, stop=stored_stop(stop, task))
                outcome = sweep(self.model, task, variants, perturber, settings=passes, store=opened_store, watch=watch)
            facts: dict[str, Any] = {"direction": direction, "stop": stop, "started": started}
            return Study.of(study_record(outcome, task, self.layers, recipes, perturber, **facts))

    @checked(StudyError)
    def tune(
        self,
        task: Task,
        *,
        max_drop: float | None = None,
        size_bytes: int | None = None,
        latency_s: float | None = None,
        engine: str | Build | None = "openvino",
        calibration: CalibrationLike = None,
        candidates: Annotated[Recipes | None, CHECKED_WHERE_USED] = None,
        store: StoreLike = None,
        stop: Confidence | None = None,
        executor: Executor | None = None,
        progress: bool | None = None,
    ) -> Tuned:
        """Search for a scheme that meets a target: whole networks first, then cures, then protection.

        Every scheme is measured with the task's metric, all layers together as they would be deployed. Outputs of the
        quantized network on a few images propose what is measured next. Give one target or several.

        Args:
            task: Data and metric.
            max_drop: Largest drop, in points where the unit is ``%``; the cheapest scheme within it is chosen.
            size_bytes: Most bytes that the parameters of all layers may take; an exact solver chooses the recipes.
            latency_s: Most seconds that one run may take on the engine.
            engine: What the scheme is for, as in ``deploy``. Where it runs here, its own score and latency are measured
                at the end. None searches in the simulation alone.
            calibration: Activation ranges or images, best images: then all candidates share one pass over them.
            candidates: The recipes that may be used; None takes several of 8 bits, and of fewer for ``size_bytes``.
            store: A file that every result is written to, as in ``analyze``: stop any time and run again to go on.
            stop: Measure a scheme on no more images than decide whether it is within ``max_drop``; its level counts,
                its tolerance is replaced. The scheme that is chosen is measured on all images.
            executor: Where passes over the task run, as in ``sv.Sweep``.
            progress: Show a progress bar.

        Raises:
            StudyError: If there is no target, or one that fp32 itself misses.
            RecipeError: If a candidate is no recipe, or two have the same name.
            EngineError: If the engine runs none of the candidates, or cannot tell a latency asked for.
            MissingPackageError: If a latency is asked for, and the engine's package is not installed.
            StoreError: As in ``analyze``.
        """
        from sensitivity.search.tune import request_of, settings_for, tune
        from sensitivity.tuned import Tuned

        request = request_of(Goal(max_drop, size_bytes, latency_s), engine, candidates)
        check_arguments(task, calibration=calibration, store=store, stop=stop)
        with sole_use(self.model):
            task = with_reference(self.model, task)
            subject = self._subject(request.candidates, calibration, progress=progress)
            request = request.with_ranges(subject.perturber.calibrations)
            settings = settings_for(request.goal, task, stop=stop, executor=executor)
            with opened(store) as opened_store, watching(None, progress) as watch:
                record = tune(subject, task, request, settings=settings, store=opened_store, watch=watch)
        deployed = subject.equalized() if record.equalized and subject.equalized is not None else subject
        return Tuned.of(record, partial(deployed.deploy, engine=engine or "torch"))

    @checked(StudyError)
    def explain_tune(
        self,
        task: Task,
        *,
        max_drop: float | None = None,
        size_bytes: int | None = None,
        latency_s: float | None = None,
        engine: str | Build | None = "openvino",
        calibration: CalibrationLike = None,
        candidates: Annotated[Recipes | None, CHECKED_WHERE_USED] = None,
        stop: Confidence | None = None,
    ) -> TuneExplanation:
        """What ``tune`` will cost in this process, from a short probe on the first batches; print it.

        All arguments are those of ``tune``. Images given as ``calibration`` are run now, and the time for that is not
        part of the estimate; for a ``latency_s`` single layers are timed on the engine now.

        Raises:
            StudyError: If there is no target, or one that fp32 itself misses.
            RecipeError: If a candidate is no recipe, or two have the same name.
            EngineError: If the engine runs none of the candidates, or cannot tell a latency asked for.
        """
        from sensitivity.search.explain import explain_tune
        from sensitivity.search.tune import request_of, settings_for

        request = request_of(Goal(max_drop, size_bytes, latency_s), engine, candidates)
        check_arguments(task, calibration=calibration, stop=stop)
        with sole_use(self.model):
            task = with_reference(self.model, task)
            subject = self._subject(request.candidates, calibration, progress=None)
            request = request.with_ranges(subject.perturber.calibrations)
            stop = settings_for(request.goal, task, stop=stop, executor=None).stop
            return explain_tune(subject, task, request, stop=stop)

    def _subject(
        self, candidates: Sequence[Recipe], calibration: CalibrationLike, *, progress: bool | None, copy: bool = True
    ) -> Subject:
        """This model as a search takes it, with ranges for its candidates, and its equalized copy."""
        from sensitivity.deploy.prepare.equalized import equalized_copy
        from sensitivity.search.tune import Subject

        ready = self._calibrator.ready_for(candidates, calibration, progress=progress)
        ranges: dict[str, Any] = {"calibration": ready or None}

        @cache
        def equalized() -> Subject:
            copied = equalized_copy(self.model, self.layers, self._example_inputs)
            if not copied.scaled:
                raise ExportError(f"no channel of {self.name} can be scaled.")
            wrapped = Wrapped(copied.model, copied.layers, self._example_inputs)
            return wrapped._subject(candidates, calibration, progress=progress, copy=False)

        return Subject(
            *(self.model, self.layers, self._example_inputs, Perturber(self.model, ready)),
            plan=partial(self.plan, **ranges),
            deploy=partial(self.deploy, **ranges),
            latency=partial(self.latency, **ranges),
            equalized=equalized if copy else None,
        )

    @checked(StudyError)
    def explain(
        self,
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
        task = with_reference(self.model, task)
        perturber = self._perturber(recipes, calibration)
        variants = plan(self.layers.select(layers), recipes, direction=direction)
        return explain(self.model, task, variants, perturber, stop=stored_stop(stop, task), settings=how)

    @checked(StudyError)
    def signals(
        self, images: Images, recipe: Recipe = INT8, *, calibration: CalibrationLike = None, layers: Patterns = "*"
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
        perturber = self._perturber(check_recipes(recipe), calibration)
        passes = ((run, count) for run, count, _ in output_passes(self.model, images, self._example_inputs))
        return measure_signals(perturber, self.layers.select(layers), recipe, passes, name=self.name)

    @checked(StudyError)
    def diagnose(
        self,
        images: Images,
        recipe: Recipe = INT8,
        *,
        calibration: CalibrationLike = None,
        layers: Patterns = "*",
        enough_db: float | None = None,
        engine: str | Build | None = None,
    ) -> Diagnosis:
        """What each layer's damage comes from and what cures it, measured; see ``search.diagnose.diagnose``.

        Args:
            images: A task or preprocessed images; some eight are usual.
            recipe: What is done to each layer.
            calibration: Activation ranges or images; None measures the ranges of all recipes tried on ``images``.
            layers: The layers to look at.
            enough_db: SQNR of the model's outputs below which a layer counts as hurt; None takes 10 dB below the median
                layer: ten times the damage of the typical one.
            engine: Where its 8-bit sums saturate on this machine, each layer is run on it, and what weights in 7 bits
                give back is one of the causes; None looks at the simulation alone, which does not saturate.

        Returns:
            A finding for each layer: its damage, what mending each cause gives back, and the cheapest cure.

        Raises:
            ModelError: If the model returns no floating-point tensor.
        """
        from sensitivity.deploy.doctor.saturation import saturates_here
        from sensitivity.diagnosis import Diagnosis
        from sensitivity.search.diagnose import diagnose_on

        selected = self.layers.select(layers)
        ranges: dict[str, Any] = {"calibrator": self._calibrator, "calibration": calibration}
        deploy = partial(self.deploy, engine=engine) if engine is not None and saturates_here(engine) else None
        record = diagnose_on(images, recipe, selected=selected, enough_db=enough_db, deploy=deploy, **ranges)
        return Diagnosis.of(record)

    @checked(StudyError)
    def screen(
        self,
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
        perturber = self._perturber(check_recipes(recipe), calibration)
        passes = output_passes(self.model, images, self._example_inputs)
        return estimate_signals(perturber, self.layers.select(layers), recipe, passes, name=self.name, loss=loss)

    @checked(StudyError)
    def plan(
        self, scheme: Scheme, *, calibration: CalibrationLike = None, target: str | Target = "any", example: Any = None
    ) -> Plan:
        """What deploying a scheme means: a folded copy of the model, every scale, and what is left out with its reason.

        ``target`` is the name of an engine: what it does not run well in int8 is left out; ``any`` leaves nothing out.

        Raises:
            ExportError: If a recipe cannot be expressed as Q/DQ, or the model cannot be copied.
        """
        from sensitivity.deploy.engines.registry import target_of
        from sensitivity.deploy.prepare.placement import check_deployable

        made_for = target_of(target)
        check_deployable(resolve(scheme, self.layers, model=self.name), self.layers, made_for)  # before images are run
        ready = self._calibrator.ready_for(scheme.recipes, calibration)
        return self._plans.plan(scheme, ready, target=made_for, example=example)

    @checked(StudyError)
    def deploy(
        self,
        scheme: Scheme,
        engine: str | Build = "openvino",
        *,
        calibration: CalibrationLike = None,
        parts: Iterable[str] | None = None,
        example: Any = None,
        load: str | Path | None = None,
        io: IoType = "fp32",
        **settings: Any,
    ) -> Deployed:
        """Export a scheme and run it on an engine; see ``deploy.deploy.deploy``.

        Args:
            scheme: Which layer gets which recipe; ``Scheme()`` deploys the model in float.
            engine: ``openvino`` (true int8 on a CPU), ``onnxruntime`` (portable reference), ``tensorrt``, ``torch``
                (the simulation), one that you registered, or a function that makes an engine of an ONNX file's bytes.
            calibration: Activation ranges or images.
            parts: Paths of the submodules to export, e.g. a backbone; None exports the whole model, and where that
                fails as much of it as can be.
            example: Inputs that fix the sizes of the exported graph; by default the example inputs.
            load: Folder that ``deployed.save`` wrote; its engines are read and not built (``tensorrt``).
            io: Type of the float inputs and outputs of a graph in half precision: ``fp32`` or ``fp16``.
            settings: The engine's own.

        Returns:
            Something that is called like the model.

        Raises:
            ExportError: If a recipe cannot be expressed as Q/DQ, or nothing can be exported.
            EngineBuildError: If the engine cannot be built.
        """
        from sensitivity.deploy.deploy import deploy
        from sensitivity.deploy.engines.registry import kind_of

        target = kind_of(engine).target
        planned = self.plan(scheme, calibration=calibration, target=target, example=example)
        return deploy(planned, engine, parts=parts, load=load, io=io, **settings)

    @checked(StudyError)
    def verify(
        self,
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

        check_deployed(deployed, self.model, self.name)
        task = None if task is None else with_reference(self.model, task)
        total = 0 if task is None else passes_over(task, roundings=roundings)
        compare = partial(verify, samples=samples, gates=gates, strict=strict, roundings=roundings)
        with untouched(self.model), torch.no_grad(), watching(total, progress if total else False) as watch:
            count = None if watch is None else lambda done, description: watch(done, total, description)
            return Verification.of(compare(deployed, task, fp32=self.model, watch=count))

    @checked(StudyError)
    def latency(
        self,
        recipe: Recipe = INT8,
        engine: str | Build = "openvino",
        *,
        calibration: CalibrationLike = None,
        parts: Iterable[str] | None = None,
        example: Any = None,
        **settings: Any,
    ) -> Latency:
        """Time every layer on an engine, quantized and in float; ``study.with_latency`` takes the result.

        The arguments are those of ``deploy``; ``engine`` is one that tells the time of single layers (``openvino``,
        ``tensorrt``), ``recipe`` what the quantized layers have, and ``example`` fixes the sizes that are timed.

        Raises:
            EngineError: If the engine does not tell the time of single layers.
            ExportError: If the recipe cannot be expressed as Q/DQ, or nothing can be exported.
            EngineBuildError: If the engine cannot be built.
        """
        from sensitivity.deploy.verify.latency import measure_latency

        ready = self._calibrator.ready_for(check_recipes(recipe), calibration)
        options: dict[str, Any] = {"calibration": ready or None, "parts": parts, "example": example, **settings}
        quantized, in_float = (self.deploy(scheme, engine, **options) for scheme in (Scheme.all(recipe), Scheme()))
        return measure_latency(quantized, in_float, recipe)

    @checked(StudyError)
    def verify_study(
        self,
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

        check_study(study, self.model, self.layers)
        ready = self._calibrator.ready_for(list(study.recipes.values()), calibration)
        run = partial(self.deploy, engine=engine, calibration=ready or None, parts=parts, **settings)
        chosen = Chosen(self.layers.select(layers), recipe)
        rows = verify_measurements(study, run, with_reference(self.model, task), chosen=chosen, gates=gates)
        return replace(study, measurements=rows)

    @cached_property
    def _plans(self) -> Plans:
        """Folded and exported once for all schemes."""
        from sensitivity.deploy.prepare.plans import Plans

        return Plans(self.model, self.layers, self._example_inputs)

    @property
    def _calibrator(self) -> Calibrator:
        return Calibrator(self.model, self.layers, self._example_inputs, self.calibrations)

    def _perturber(
        self, recipes: Sequence[Recipe], calibration: CalibrationLike, *, progress: bool | None = None
    ) -> Perturber:
        return Perturber(self.model, self._calibrator.ready_for(recipes, calibration, progress=progress))

    def __repr__(self) -> str:
        return f"Wrapped({self.name}, {len(self.layers)} layers)"
