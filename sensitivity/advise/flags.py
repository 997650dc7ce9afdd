"""What stands out about each layer: flags of its structure and flags of what was measured."""

from __future__ import annotations

from sensitivity.advise.rank import ONE_AT_A_TIME
from sensitivity.advise.verdicts import verdicts
from sensitivity.records import Measurement, StudyRecord
from sensitivity.records.results.signals import CHANNEL_RATIO, CLIPPED_SHARE, DEAD_SHARE
from sensitivity.records.results.study import RecipeLike
from sensitivity.records.results.verdict import Verdict

DEAD_CHANNELS = 0.1
CLIPPED_VALUES = 0.01
OUTLIER_RATIO = 10.0
_THRESHOLDS = {
    "dead": (DEAD_SHARE, DEAD_CHANNELS),
    "saturated": (CLIPPED_SHARE, CLIPPED_VALUES),
    "outlier-channels": (CHANNEL_RATIO, OUTLIER_RATIO),
}


def flags(
    study: StudyRecord, *, tolerance: float | None = None, recipe: RecipeLike | None = None
) -> dict[str, frozenset[str]]:
    """Every layer's flags: those of its structure, and ``dip`` where that is its verdict; see ``verdicts``.

    Of the signals, where ``with_signals`` has added them:

    - ``dead``: at least a tenth of the layer's output channels are constant over all images and places.
    - ``saturated``: at least 1 % of its quantized activations lie beyond the calibrated range.
    - ``outlier-channels``: its largest input channel reaches at least ten times as far as the median channel, so that
      one scale for all leaves most channels few codes.

    Every layer of an ``all-but-one`` study, whose drops are about all other layers, has the flags of its structure
    alone.

    Args:
        study: What was measured.
        tolerance: Largest drop that does not matter; see ``stored_tolerance``.
        recipe: The recipe or its name; None where the study has only one.

    Returns:
        Layer name to flags, in execution order, for all layers of the study.

    Raises:
        StudyError: If the recipe is unknown or left out where there are several, or the tolerance is negative.
    """
    of_layer = verdicts(study, tolerance=tolerance, recipe=recipe)
    flags_of = {layer.name: layer.flags for layer in study.layers}
    if study.direction != ONE_AT_A_TIME:
        return flags_of
    for measurement in study.of_recipe(recipe):
        layer = measurement.layer
        dip = {"dip"} if of_layer.get(layer) is Verdict.DIP else set()
        flags_of[layer] = flags_of[layer] | dip | signal_flags(measurement)
    return flags_of


def signal_flags(measurement: Measurement) -> frozenset[str]:
    """``dead``, ``saturated``, ``outlier-channels``, as far as a measurement has the signals; thresholds included."""
    signals = measurement.signals
    return frozenset(flag for flag, (name, least) in _THRESHOLDS.items() if name in signals and signals[name] >= least)
