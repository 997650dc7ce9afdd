"""How far whole schemes move the model's outputs: the smooth signal that proposes what is measured next."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.errors import ModelError
from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.search.assignment import Assignment
from sensitivity.sweep.passes.forward import FEWEST_REPLAYED, Forward
from sensitivity.sweep.plan import Perturbation
from sensitivity.sweep.signals.fidelity import Fidelity

Run = Callable[[], Any]
"""Runs the model on one batch and returns its outputs."""


class OutputNoise:
    """Compares the outputs of quantized networks with those in float, on a few images.

    Args:
        model: The model; left as it was.
        perturber: Applies recipes to it.
        passes: Runs the model on one batch each, and how many images that has.
        tell: Called with the name of a scheme's first layer when a batch was compared.

    Attributes:
        images: How many images are compared.
    """

    def __init__(
        self,
        model: nn.Module,
        perturber: Perturber,
        passes: Sequence[tuple[Run, int]],
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._model = model
        self._tell = tell
        self._perturber = perturber
        self._runs = [run for run, _ in passes]
        self.images = sum(count for _, count in passes)

    def of(
        self, assignments: Sequence[Assignment], *, replay: bool, network: Assignment | None = None
    ) -> list[Fidelity | None]:
        """Signal and noise of each scheme; None where it fails, or gives outputs of other shapes.

        Args:
            assignments: What each quantized layer gets.
            replay: Compute only what the quantized layers can change, which saves nothing where all are quantized.
            network: A scheme that the others differ from in a few layers: replay computes only what these can change.
                Too few schemes for that to pay are run in full.

        Raises:
            ModelError: If the model returns no floating-point tensor.
        """
        fidelities: list[Fidelity | None] = [Fidelity() for _ in assignments]
        schemes = [Perturbation(assignment) for assignment in assignments]
        recorded = network if replay and len(schemes) * len(self._runs) >= FEWEST_REPLAYED else None
        with untouched(self._model) as state, torch.no_grad():
            in_float = Forward(self._model, self._perturber, replay=replay and not network, state=state)
            forward = in_float
            if recorded:
                forward = Forward(self._model, self._perturber, replay=True, state=state, network=recorded)
            for run in self._runs:
                outputs = functools.partial(_outputs, run)
                expected = _tensors(in_float.baseline(outputs, [] if network else schemes))
                if not any(tensor.numel() for tensor in expected):
                    raise ModelError("the model returns no floating-point tensor, so there are no outputs to compare.")
                if forward is not in_float and not _records(forward, outputs, schemes):
                    forward = in_float
                for number, assignment in enumerate(assignments):
                    fidelity = fidelities[number]
                    if fidelity is not None:
                        fidelities[number] = _compared(forward, outputs, assignment, expected, fidelity)
                    if self._tell is not None and assignment:
                        self._tell(next(iter(assignment)).name)
        return [fidelity if fidelity is not None and fidelity.finite else None for fidelity in fidelities]


def _records(forward: Forward, outputs: Run, schemes: Sequence[Perturbation]) -> bool:
    """Record the quantized network; False where it fails, and its variants may not."""
    try:
        forward.baseline(outputs, schemes)
    except Exception:  # noqa: BLE001 - the schemes are run in full instead, and say themselves whether they fail
        return False
    return True


def _compared(
    forward: Forward, outputs: Run, assignment: Assignment, expected: Sequence[Tensor], fidelity: Fidelity
) -> Fidelity | None:
    try:
        computed = _tensors(forward.variant(outputs, Perturbation(assignment))) if assignment else list(expected)
    except Exception:  # noqa: BLE001 - a scheme that fails is not proposed; measuring it would say why
        return None
    if [tensor.shape for tensor in computed] != [tensor.shape for tensor in expected]:
        return None
    for reference, output in zip(expected, computed, strict=True):
        fidelity.add(reference, output)
    return fidelity


def _outputs(run: Run) -> list[Any]:
    """The floating-point tensors of a pass as arrays of their own, which passes compare."""
    return [tensor.detach().double().cpu().numpy().copy() for tensor in tensors_in(run()) if tensor.is_floating_point()]


def _tensors(arrays: Sequence[Any]) -> list[Tensor]:
    return [torch.from_numpy(array) for array in arrays]
