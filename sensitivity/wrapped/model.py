"""``wrap(model, example)``: the object a notebook holds. Its verbs are functions in the files beside this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn

from sensitivity.contracts import Task
from sensitivity.errors import ModelError, StudyError
from sensitivity.layers.activations import ActivationTable
from sensitivity.layers.cost import scheme_bytes
from sensitivity.layers.find import find_layers
from sensitivity.layers.names import NamingScheme
from sensitivity.layers.select import resolve
from sensitivity.layers.table import LayerTable
from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.perturb.calibration.arguments import CalibrationLike
from sensitivity.perturb.calibration.calibrator import Calibrator
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import shared_state_kept
from sensitivity.perturb.state.sole_use import sole_use
from sensitivity.quantize.calibration import Calibration
from sensitivity.records import Recipe, Scheme
from sensitivity.records.arguments import checked
from sensitivity.verification import Verification
from sensitivity.weights import modules_digest
from sensitivity.wrapped import deploying, measuring, simulating, tuning

if TYPE_CHECKING:
    from sensitivity.deploy.deployed import Deployed
    from sensitivity.deploy.prepare.plans import Plans


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
        ModelInUseError: If it is perturbed now, by a block around this call, or another thread measures it.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"wrap() takes a torch.nn.Module, not {type(model).__name__}: {model!r:.80}.")
    with sole_use(model), shared_state_kept(model):
        layers = find_layers(model, example_inputs, name=name, naming=naming)
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
    - ``progress``: show a progress bar; by default in a terminal or a notebook, and elsewhere a line on stderr every
      half minute. False shows nothing.
    - ``engine``, ``parts``, ``example`` and the engine's own ``settings``: as in ``deploy``.

    Errors have one meaning as well: a pattern or a rule that selects no layer is a ``LayerNotFoundError``, missing
    ranges and missing images are a ``CalibrationError``, a task without images or a score is a ``TaskError``, an
    unknown engine or recipe is an ``EngineError`` or a ``RecipeError``, and a package that is not installed is a
    ``MissingPackageError``. A method lists what it raises beside these.

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
        self._modules = modules_digest(model)

    # The verbs: functions of a wrapped model, each in the file of what it is about.
    calibrate = simulating.calibrate
    quantized = simulating.quantized
    evaluate = simulating.evaluate
    changed_images = simulating.changed_images

    analyze = measuring.analyze
    explain = measuring.explain
    signals = measuring.signals
    screen = measuring.screen

    tune = tuning.tune
    explain_tune = tuning.explain_tune
    diagnose = tuning.diagnose

    plan = deploying.plan
    deploy = deploying.deploy
    handover = deploying.handover
    verify = deploying.verify
    latency = deploying.latency
    verify_study = deploying.verify_study

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

        Layers keep their names; a norm stays where folding would change the outputs. A sweep of the copy is cheaper,
        and its scores differ in the last bits. Recipes that use the stored weights (``sv.THESIS``, pruning) use the
        folded ones.

        Raises:
            ExportError: If the model cannot be copied, or is not in float32.
            TracingError: If it fails with the example inputs.
        """
        from sensitivity.deploy.prepare.basis import make_basis

        basis = make_basis(self.model, self.layers, self._example_inputs)
        return Wrapped(basis.model, basis.layers, self._example_inputs)

    def equalized(self) -> Wrapped:
        """A copy of the model with batch norms folded and channels scaled so that they differ less in size.

        Each scaled channel is multiplied where a layer writes it and divided where a layer reads it. Ranges then lose
        less to outlier channels. The outputs are the same except for rounding, which is checked; layers keep their
        names, and the copy runs as fast as the model. See ``deploy.prepare.equalized``.

        Returns:
            The copy. Its ``reasons`` name the layers that read channels which could not be scaled, and say why.

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

    @cached_property
    def _plans(self) -> Plans:
        """Folded and exported once for all schemes."""
        from sensitivity.deploy.prepare.plans import Plans

        return Plans(self.model, self.layers, self._example_inputs, self._modules)

    @property
    def _calibrator(self) -> Calibrator:
        return Calibrator(self.model, self.layers, self._example_inputs, self.calibrations)

    def _perturber(
        self, recipes: Sequence[Recipe], calibration: CalibrationLike, *, progress: bool | None = None
    ) -> Perturber:
        return Perturber(self.model, self._calibrator.ready_for(recipes, calibration, progress=progress))

    def __repr__(self) -> str:
        return f"Wrapped({self.name}, {len(self.layers)} layers)"
