"""Which drops matter, which do not, and which cannot be told yet."""

from __future__ import annotations

from math import ceil, floor, isfinite, log10

from sensitivity.advise.rank import ONE_AT_A_TIME, has_drop, stored_drop
from sensitivity.errors import StudyError
from sensitivity.records import Measurement, StudyRecord
from sensitivity.records.results.info import IntervalOf
from sensitivity.records.results.study import RecipeLike
from sensitivity.records.results.verdict import Verdict, verdict_of_interval

DEFAULT_POINTS = 0.1
DEFAULT_SHARE_OF_BASELINE = 1e-3
FAR_TOO_MANY = 1000  # times the images at hand: beyond it, an estimate of the images needed says nothing


def verdicts(
    study: StudyRecord, *, tolerance: float | None = None, recipe: RecipeLike | None = None
) -> dict[str, Verdict]:
    """Every measured layer's verdict: ``dip``, ``harmless`` or ``undecided``.

    Where the study has intervals, a layer is a ``dip`` if its interval lies above the tolerance, ``harmless`` if it
    lies at or below it, and otherwise ``undecided``. A layer without an interval of its own is then ``undecided`` too:
    too few images were scored, or none of them moved the metric. Where no intervals were computed at all
    (``intervals=False``, or a table such as the thesis's), the drop itself is compared with the tolerance; the verdict
    is then about these images alone.

    Layers without a drop (failed, skipped, or not measured) have no verdict and are left out. So is every layer of an
    ``all-but-one`` study, whose drops are about all other layers.

    Args:
        study: What was measured.
        tolerance: Largest drop that does not matter; see ``stored_tolerance``.
        recipe: The recipe or its name; None where the study has only one.

    Raises:
        StudyError: If the recipe is unknown or left out where there are several, or the tolerance is negative.
    """
    limit = stored_tolerance(study, tolerance)
    measurements = study.of_recipe(recipe)
    if study.direction != ONE_AT_A_TIME:
        return {}
    computed = has_intervals(study, measurements)
    return {m.layer: verdict_of(m, limit, intervals=computed) for m in measurements if has_drop(m)}


def images_needed(
    study: StudyRecord, *, tolerance: float | None = None, recipe: RecipeLike | None = None
) -> dict[str, int | None]:
    """For every undecided layer, about how many images would decide it.

    An interval shrinks with the square root of the number of images; with a ``stop``, whose intervals are about the
    data set at hand, it shrinks to nothing when all of its images are scored. The estimate assumes that the drop stays
    what it is, has two digits, and is None where it would be more than a thousand times the images at hand (the drop is
    too near the tolerance) or where the layer has no interval.

    Args:
        study: What was measured.
        tolerance: Largest drop that does not matter; see ``stored_tolerance``.
        recipe: The recipe or its name; None where the study has only one.

    Raises:
        StudyError: As for ``verdicts``.
    """
    limit = stored_tolerance(study, tolerance)
    of_layer = verdicts(study, tolerance=tolerance, recipe=recipe)
    whole = study.info.images if study.info.interval_of is IntervalOf.THIS_DATA_SET else None
    return {
        m.layer: images_to_decide(m, limit, whole=whole)
        for m in study.of_recipe(recipe)
        if of_layer.get(m.layer) is Verdict.UNDECIDED
    }


def has_intervals(study: StudyRecord, measurements: tuple[Measurement, ...]) -> bool:
    """Whether intervals were computed for these measurements, even if some of them have none."""
    return bool(study.info.intervals) or any(m.drop_low is not None for m in measurements)


def verdict_of(measurement: Measurement, limit: float, *, intervals: bool) -> Verdict:
    """The verdict on a measurement that has a drop.

    Args:
        measurement: One layer perturbed.
        limit: The tolerance as ``stored_tolerance`` gives it.
        intervals: Whether intervals were computed; without them the drop itself is judged.
    """
    drop, low, high = stored_drop(measurement), measurement.drop_low, measurement.drop_high
    if low is None or high is None:
        if intervals:
            return Verdict.UNDECIDED
        low = high = drop
    return verdict_of_interval(low, high, limit)


def images_to_decide(measurement: Measurement, limit: float, *, whole: int | None = None) -> int | None:
    """About how many images would decide an undecided measurement; see ``images_needed``.

    Args:
        measurement: One layer perturbed.
        limit: The tolerance as ``stored_tolerance`` gives it.
        whole: Images of the data set that the intervals are about; None where they are about other images.
    """
    drop, low, high, images = stored_drop(measurement), measurement.drop_low, measurement.drop_high, measurement.images
    if low is None or high is None or images < 1:
        return None
    gap, spread = abs(drop - limit), drop - low if drop > limit else high - drop
    if not isfinite(spread):
        return None
    share = 0.0 if spread <= 0.0 else (gap / spread) ** 2
    if whole is not None and whole > images:
        return _two_digits(1.0 / (share * (1.0 / images - 1.0 / whole) + 1.0 / whole), most=whole)
    if share * FAR_TOO_MANY < 1.0:
        return None
    return _two_digits(images / share)


def _two_digits(number: float, most: int | None = None) -> int:
    """A number rounded up to two digits, and no larger than the most."""
    step: int = 10 ** max(0, floor(log10(number)) - 1)
    rounded = ceil(number / step) * step
    return rounded if most is None else min(rounded, most)


def stored_tolerance(study: StudyRecord, tolerance: float | None) -> float:
    """The largest drop that does not matter, as drops are stored: a fraction where the study's unit is ``%``.

    Args:
        study: What was measured.
        tolerance: In the unit people see (points where the unit is ``%``). None takes that of the study, which
            ``stop=`` and ``Study.with_tolerance`` set; else 0.1 points, the agreement that a deployed engine is held
            to; for other units a thousandth of the baseline's size.

    Raises:
        StudyError: If it is negative or not a finite number.
    """
    if tolerance is None:
        tolerance = study.info.tolerance
    if tolerance is not None:
        if not (isfinite(tolerance) and tolerance >= 0.0):
            raise StudyError(f"tolerance={tolerance}: give a drop that does not matter, zero or more, e.g. 0.1.")
        return tolerance / study.scale
    if study.unit == "%":
        return DEFAULT_POINTS / study.scale
    baseline = study.baseline.value
    return abs(baseline) * DEFAULT_SHARE_OF_BASELINE if isfinite(baseline) else 0.0
