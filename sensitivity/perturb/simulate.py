"""A model under a scheme, for the time of a ``with`` block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from sensitivity.errors import CalibrationError, NotReachedWarning, warn_caller
from sensitivity.layers.select import resolve
from sensitivity.layers.table import LayerTable
from sensitivity.perturb.half.half_precision import in_half_precision
from sensitivity.perturb.half.kept import find_kept
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.quantize.calibration import Calibration
from sensitivity.records import Recipe, Scheme


@contextlib.contextmanager
def simulated(
    model: nn.Module,
    layers: LayerTable,
    scheme: Scheme,
    calibrations: Sequence[Calibration],
    example_inputs: Any,
) -> Iterator[None]:
    """Quantize a model's layers as a scheme says, and emulate half precision in its other layers; undone afterwards.

    A layer that no calibration image reached has no range and stays in float, as where the scheme is deployed; a
    ``NotReachedWarning`` names it.

    Args:
        model: Any module.
        layers: Its layers.
        scheme: Which layer gets which recipe.
        calibrations: Activation ranges; the last one that fits a recipe is used.
        example_inputs: What the model accepts: a tensor, a tuple or a dict.

    Raises:
        LayerNotFoundError: If a rule of the scheme selects no layer, or what it keeps in fp32 is not there.
        CalibrationError: If activations are to be quantized and no ranges are known, or images reached none of the
            layers that the scheme quantizes.
    """
    recipes = resolve(scheme, layers, model=layers.model)
    kept_modules = find_kept(model, layers, scheme, example_inputs)
    perturber = Perturber(model, calibrations)
    recipes = _reached(perturber, layers, recipes)
    with (
        untouched(model),
        perturber.applied({layers[name]: recipe for name, recipe in recipes.items()}),
        in_half_precision(model, layers, recipes, scheme.rest, kept_modules),
    ):
        yield


def _reached(perturber: Perturber, layers: LayerTable, recipes: Mapping[str, Recipe]) -> Mapping[str, Recipe]:
    """The recipes without those of layers that no calibration image reached, of which a warning tells.

    Raises:
        CalibrationError: If that leaves none.
    """
    reasons = {
        name: reason for name, recipe in recipes.items() if (reason := perturber.why_unreached(layers[name], recipe))
    }
    if reasons and len(reasons) == len(recipes):
        raise CalibrationError(next(iter(reasons.values())))
    if reasons:
        stay = "stays" if len(reasons) == 1 else "stay"
        why = next(iter(reasons.values()))
        warn_caller(f"{', '.join(reasons)} {stay} in float: {why}", NotReachedWarning)
    return {name: recipe for name, recipe in recipes.items() if name not in reasons}
