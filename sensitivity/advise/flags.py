"""What stands out about each layer: flags of its structure and flags of what was measured."""

from __future__ import annotations

from math import isfinite

from sensitivity.advise.rank import ONE_AT_A_TIME, drop_of, has_drop
from sensitivity.errors import StudyError
from sensitivity.records import Measurement, StudyRecord
from sensitivity.records.signals import CHANNEL_RATIO, CLIPPED_SHARE, DEAD_SHARE

DEFAULT_POINTS = 0.1
DEFAULT_SHARE_OF_BASELINE = 1e-3
DEAD_CHANNELS = 0.1
CLIPPED_VALUES = 0.01
OUTLIER_RATIO = 10.0
_THRESHOLDS = {
    "dead": (DEAD_SHARE, DEAD_CHANNELS),
    "saturated": (CLIPPED_SHARE, CLIPPED_VALUES),
    "outlier-channels": (CHANNEL_RATIO, OUTLIER_RATIO),
}


def flags(
    study: StudyRecord, *, tolerance: float | None = None, recipe: str | None = None
) -> dict[str, frozenset[str]]:
    """Every layer's flags: those of its structure, and ``dip`` or ``noise`` from the measurement.

    - ``dip``: the drop is above the tolerance, and its interval, where there is one, lies above zero.
    - ``noise``: the interval includes zero; without an interval, the drop is within the tolerance of zero.

    Of the signals, where ``with_signals`` has added them:

    - ``dead``: at least a tenth of the layer's output channels are constant over all images and places.
    - ``saturated``: at least 1 % of its quantized activations lie beyond the calibrated range.
    - ``outlier-channels``: its largest input channel reaches at least ten times as far as the median channel, so that
      one scale for all leaves most channels few codes.

    A layer can have neither ``dip`` nor ``noise``: a drop that is surely there but too small to matter, or a sure gain.
    It never has both. Layers without a drop have neither, and every layer of an ``all-but-one`` study, whose drops tell
    of all other layers, has the flags of its structure alone.

    Args:
        study: What was measured.
        tolerance: Largest drop that does not matter, in the unit people see (points where the unit is ``%``). None
            takes 0.1 points, the agreement that a deployed engine is held to; for other units a thousandth of the
            baseline's size.
        recipe: Name of the recipe; None where the study has only one.

    Returns:
        Layer name to flags, in execution order, for all layers of the study.

    Raises:
        StudyError: If the recipe is unknown or left out where there are several, or the tolerance is negative.
    """
    limit = stored_tolerance(study, tolerance)
    measurements = study.of_recipe(recipe)
    found = {layer.name: layer.flags for layer in study.layers}
    if study.direction != ONE_AT_A_TIME:
        return found
    for measurement in measurements:
        flag = measured_flag(measurement, limit)
        told = {flag} if flag is not None else set()
        found[measurement.layer] = found[measurement.layer] | told | signal_flags(measurement)
    return found


def signal_flags(measurement: Measurement) -> frozenset[str]:
    """``dead``, ``saturated``, ``outlier-channels``, as far as a measurement has the signals; thresholds included."""
    signals = measurement.signals
    return frozenset(flag for flag, (name, least) in _THRESHOLDS.items() if name in signals and signals[name] >= least)


def measured_flag(measurement: Measurement, limit: float) -> str | None:
    """``dip``, ``noise`` or None.

    Args:
        measurement: One layer disturbed.
        limit: The tolerance as ``stored_tolerance`` gives it.
    """
    if not has_drop(measurement):
        return None
    drop, low, high = drop_of(measurement), measurement.drop_low, measurement.drop_high
    if low is None or high is None:
        if abs(drop) <= limit:
            return "noise"
        return "dip" if drop > limit else None
    if low <= 0.0 <= high:
        return "noise"
    return "dip" if drop > limit and low > 0.0 else None


def stored_tolerance(study: StudyRecord, tolerance: float | None) -> float:
    """The tolerance as drops are stored: a fraction where the study's unit is ``%``.

    Raises:
        StudyError: If it is negative or not a finite number.
    """
    if tolerance is not None:
        if not (isfinite(tolerance) and tolerance >= 0.0):
            raise StudyError(f"tolerance={tolerance}: give a drop that does not matter, zero or more, e.g. 0.1.")
        return tolerance / study.scale
    if study.unit == "%":
        return DEFAULT_POINTS / study.scale
    baseline = study.baseline.value
    return abs(baseline) * DEFAULT_SHARE_OF_BASELINE if isfinite(baseline) else 0.0
