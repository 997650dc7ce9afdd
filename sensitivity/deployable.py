"""What a wrapped model does beyond simulating: plans, engines, verification. Engines are imported when first used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sensitivity.contracts import Task
from sensitivity.errors import EngineError, StudyError
from sensitivity.layers.table import LayerTable
from sensitivity.perturb.digest import weights_digest
from sensitivity.perturb.restore import untouched
from sensitivity.progress import watching
from sensitivity.quantize.calibration import Calibration
from sensitivity.quantize.recipes import INT8
from sensitivity.records import Recipe, Scheme
from sensitivity.records.latency import Latency
from sensitivity.records.verification import CHECKED_SAMPLES, Gates
from sensitivity.study import Study
from sensitivity.verification import Verification

if TYPE_CHECKING:
    from sensitivity.deploy.deployed import Deployed
    from sensitivity.deploy.engines.registry import Build
    from sensitivity.deploy.prepare.placement import Target
    from sensitivity.deploy.prepare.plan import Basis, Plan


class Deployable:
    """The half of ``Wrapped`` that deploys; it is used through ``Wrapped`` alone."""

    model: nn.Module
    layers: LayerTable
    _example_inputs: Any
    _basis: Basis | None = None  # folded and exported once for all schemes

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.layers.model

    def _calibrations(self, given: Calibration | None) -> list[Calibration]:
        raise NotImplementedError

    def _with_reference(self, task: Task) -> Task:
        raise NotImplementedError

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
        from sensitivity.deploy.prepare.plan import make_basis, make_plan

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
        from sensitivity.deploy.deployed import deploy
        from sensitivity.deploy.engines.registry import check_engine, target_of

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
            progress: Show a progress bar; by default where a person is watching (a terminal or a notebook).

        Raises:
            EngineError: If this is not what ``deploy`` returned, or it was deployed of another model or other weights.
            PrecisionNotHonouredError: If ``strict``, and a layer runs in another precision than planned.
            TaskError: If the task has no images, or never runs what was exported, or ``samples`` is not positive.
        """
        from sensitivity.deploy.verify.verify import passes_over, verify

        self._check_deployed(deployed)
        task = None if task is None else self._with_reference(task)
        total = 0 if task is None else passes_over(task, roundings=roundings)
        given: dict[str, Any] = {"samples": samples, "gates": gates, "strict": strict, "roundings": roundings}
        with untouched(self.model), torch.no_grad(), watching(total, progress if total else False) as watch:
            told = None if watch is None else lambda done, what: watch(done, total, what)
            return Verification.of(verify(deployed, task, fp32=self.model, watch=told, **given))

    def _check_deployed(self, deployed: Deployed) -> None:
        """Nothing, if this model was deployed here, with the weights that it has now."""
        from sensitivity.deploy.deployed import Deployed

        if not isinstance(deployed, Deployed):
            raise EngineError(
                f"verify() takes what wrapped.deploy(scheme, engine) returned, not {type(deployed).__name__}."
            )
        if deployed.plan.basis.digest != weights_digest(self.model):
            raise EngineError(
                f"{deployed.plan.layers.model} on {deployed.name} was not made of {self.name} as it is now: its "
                "weights are others. Deploy again, and verify that."
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
        from sensitivity.deploy.verify.latency import measure_latency

        given: dict[str, Any] = {"calibration": calibration, "parts": parts, "example": example, **settings}
        quantized, in_float = (self.deploy(scheme, engine, **given) for scheme in (Scheme.all(recipe), Scheme()))
        return measure_latency(quantized, in_float, recipe)

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
        recipe: Recipe | str | None = None,
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
            recipe: Measure the rows of this recipe of the study alone; by default all.
            settings: The engine's own.

        Returns:
            The study with those rows ``verified`` whose drop on the engine is the simulated one; all rows measured
            again have ``deployed_score`` and ``deployed_drop`` among their signals, and the others say why not: rows
            that cannot be deployed, or that were not simulated on all images, are not run.

        Raises:
            LayerNotFoundError: If a pattern selects no layer.
            StudyError: If the study is of another task, of other layers or weights, or has no such recipe.
            CalibrationError: If activations are to be quantized and no ranges are known.
            MissingPackageError: If a package is not installed.
            EngineError: If the engine is unknown.
        """
        from sensitivity.deploy.verify.study_rows import verify_measurements

        if [layer.name for layer in study.layers] != self.layers.names:
            raise StudyError(f"the study is of {study.model}, whose layers are not those of {self.name}.")
        was, now = study.info.weights, weights_digest(self.model)
        if was not in (None, now):
            raise StudyError(
                f"the study was made with other weights or buffers (digest {was}) than {self.name} has now ({now}). "
                "Load those, or analyze the model as it is."
            )
        run = partial(self.deploy, engine=engine, calibration=calibration, parts=parts, **settings)
        rows = verify_measurements(study, run, self._with_reference(task), self.layers.select(layers), gates, recipe)
        return replace(study, measurements=rows)
