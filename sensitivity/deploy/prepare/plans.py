"""All plans of one model: it is folded once, and exported once, for as long as its weights stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from sensitivity.deploy.prepare.placement import ANY_ENGINE, Target
from sensitivity.deploy.prepare.plan import Basis, Plan, make_basis, make_plan
from sensitivity.layers.table import LayerTable
from sensitivity.quantize.calibration import Calibration
from sensitivity.records import Scheme
from sensitivity.weights import weights_digest


class Plans:
    """Makes plans of a model that share one folded copy of it.

    Args:
        model: Any module; not changed.
        layers: Its layers.
        example_inputs: What it accepts: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
    """

    def __init__(self, model: nn.Module, layers: LayerTable, example_inputs: Any) -> None:
        self._model = model
        self._layers = layers
        self._example_inputs = example_inputs
        self._basis: Basis | None = None

    def plan(
        self, scheme: Scheme, calibrations: Sequence[Calibration], *, target: Target = ANY_ENGINE, example: Any = None
    ) -> Plan:
        """What deploying a scheme means.

        Args:
            scheme: Which layer gets which recipe.
            calibrations: Activation ranges; the last one that fits a recipe is used.
            target: What the plan is for.
            example: Inputs that fix the sizes of the exported graph; its folded copy is not kept. None takes the
                example inputs.

        Raises:
            ExportError: If a recipe cannot be expressed as Q/DQ, or the model cannot be copied.
            LayerNotFoundError: If a rule of the scheme selects no layer.
            CalibrationError: If activations are to be quantized and no ranges are known.
        """
        basis = self._usual_basis() if example is None else make_basis(self._model, self._layers, example)
        return make_plan(self._model, basis, scheme, calibrations, target=target)

    def _usual_basis(self) -> Basis:
        if self._basis is None or self._basis.digest != weights_digest(self._model):
            self._basis = make_basis(self._model, self._layers, self._example_inputs)
        return self._basis
