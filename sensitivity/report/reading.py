"""What there is to show of a study: its record, and what the advice room found in it, in the words people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, isnan

from sensitivity.errors import StudyError
from sensitivity.records import Measurement, StudyRecord
from sensitivity.records.results.info import IntervalOf
from sensitivity.records.results.study import RecipeLike
from sensitivity.records.results.verdict import Verdict
from sensitivity.records.units import after_drop, after_score


@dataclass(frozen=True)
class Reading:
    """A study with what was found in it; tables and figures show a reading and work nothing out themselves.

    Attributes:
        study: What was measured.
        flags: Recipe to layer to all of its flags, structural and measured.
        verdicts: Recipe to layer to the verdict on its drop; a layer without a drop has none.
        images_needed: Recipe to undecided layer to about how many images would decide it, None where nobody can tell.
        worst_first: Recipe to the measurements that have a drop, the layer that hurts most first.
        saved_bytes: Recipe to layer to the bytes of parameters that the recipe saves.
        tolerance: Drop that does not matter, as stored (a fraction where the unit is ``%``).
        agreement: Recipe to signal or estimate to its rank correlation with the drops.
    """

    study: StudyRecord
    flags: Mapping[str, Mapping[str, frozenset[str]]]
    verdicts: Mapping[str, Mapping[str, Verdict]]
    images_needed: Mapping[str, Mapping[str, int | None]]
    worst_first: Mapping[str, Sequence[Measurement]]
    saved_bytes: Mapping[str, Mapping[str, int]]
    tolerance: float
    agreement: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def worst(self, top: int, recipe: RecipeLike | None = None) -> Reading:
        """The same with the layers that have the largest drops alone, the worst first.

        Args:
            top: How many of each recipe, from 1 on.
            recipe: One recipe; None for all.

        Raises:
            StudyError: If the number is below 1, or the recipe is unknown.
        """
        if top < 1:
            raise StudyError(f"top={top}: give a number of layers from 1 on.")
        ranked = [row.layer for name in self.recipes(recipe) for row in self.worst_first[name][:top]]
        layers = {layer.name: layer for layer in self.study.layers}
        chosen = tuple(layers[name] for name in dict.fromkeys(ranked))
        rows = tuple(row for row in self.study.measurements if row.layer in ranked)
        return replace(self, study=replace(self.study, layers=chosen, measurements=rows, skipped=()))

    def agreement_of(self, recipe: str) -> str:
        """The rank correlations of a recipe, e.g. ``estimate_output_mse 0.66, output_sqnr_db 0.71``; or nothing."""
        return ", ".join(f"{name} {value:.2f}" for name, value in self.agreement.get(recipe, {}).items())

    def verdict(self, recipe: str, layer: str) -> str:
        """The verdict on a layer, e.g. ``undecided (about 1,200 images would decide)``; empty where there is none."""
        verdict = self.verdicts[recipe].get(layer)
        images = self.images_needed[recipe].get(layer)
        needed = "" if images is None else f" (about {images:,} images would decide)"
        return "" if verdict is None else f"{verdict}{needed}"

    def verdict_counts(self, recipe: str) -> str:
        """How many layers have which verdict, e.g. ``3 dip, 60 harmless, 6 undecided``; empty where there are none."""
        verdicts = list(self.verdicts[recipe].values())
        return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict if verdict in verdicts)

    @property
    def intervals(self) -> str:
        """What the intervals mean, as one sentence; empty where there are none."""
        info = self.study.info
        if info.interval_level is None or info.interval_of is None:
            return f"Intervals: {info.intervals}." if info.intervals else ""
        about = f"the drops on other images of the same kind; {self.study.baseline.images:,} images were scored"
        if info.interval_of is IntervalOf.THIS_DATA_SET:
            about = "the drops on all images of this data set"
        return f"These are simultaneous {100 * info.interval_level:.4g} % intervals over all layers, of {about}."

    def recipes(self, recipe: RecipeLike | None) -> tuple[str, ...]:
        """The recipe asked for, or all where None is.

        Raises:
            StudyError: If it is unknown.
        """
        if recipe is None:
            return tuple(self.study.recipes)
        return (self.study.recipe_name(recipe),)

    @property
    def shown_tolerance(self) -> str:
        """The drop that does not matter, with its unit, e.g. ``0.10 points``."""
        return f"{self.shown(self.tolerance)}{self.drop_unit}"

    @property
    def one_at_a_time(self) -> bool:
        """Whether a drop is of the one layer that was perturbed, rather than of all but one."""
        return self.study.direction == "one-at-a-time"

    @property
    def score_unit(self) -> str:
        """What follows a score, with its space: `` %``, `` dB``, or nothing."""
        return after_score(self.study.unit)

    @property
    def drop_unit(self) -> str:
        """What follows a drop, with its space: a difference of percentages is in points."""
        return after_drop(self.study.unit)

    @property
    def baseline(self) -> str:
        """Metric, score and unit with nothing perturbed, e.g. ``mIoU 78.51 %``."""
        return f"{self.study.metric} {self.shown(self.study.baseline.value)}{self.score_unit}"

    def shown(self, stored: float) -> str:
        """A score or drop in the unit people see, without the unit: two decimals, more where two would show nothing."""
        number = stored * self.study.scale + 0.0  # adding zero turns -0.0 into 0.0
        if not isfinite(number):
            return str(number)
        return f"{number:.1g}" if 0.0 < abs(number) < 0.005 else f"{number:.2f}"

    def drop(self, measurement: Measurement) -> str:
        """The drop as ``shown``; empty where there is none."""
        return "" if measurement.drop is None or isnan(measurement.drop) else self.shown(measurement.drop)

    def interval(self, measurement: Measurement) -> str:
        """The interval of the drop, e.g. ``[4.02, 4.61]``; empty where none was computed."""
        if measurement.drop_low is None or measurement.drop_high is None:
            return ""
        return f"[{self.shown(measurement.drop_low)}, {self.shown(measurement.drop_high)}]"
