"""What was measured: one model, one task, one baseline, many perturbed layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Self

from sensitivity.errors import StudyError
from sensitivity.markup.elements import element, html_table
from sensitivity.markup.view import view
from sensitivity.records.arguments import check_fields, checked
from sensitivity.records.layer import Layer, SkippedModule
from sensitivity.records.recipes.recipe import Recipe
from sensitivity.records.results.info import StudyInfo
from sensitivity.records.results.note import noted, notes_of
from sensitivity.records.storage.saved import FileKind, Saved
from sensitivity.records.units import number_text, scale_of, score_text

_DIRECTIONS = ("one-at-a-time", "all-but-one")
_NAME = re.compile(r".+:\d{1,9}:\d{1,9}", re.DOTALL)
RecipeLike = str | Recipe
"""A recipe of a study, by its name or by value."""
_MAY_BE_NAN = ("metrics", "signals")
"""A metric may be undefined on the images, such as AP of small objects where there are none."""


@dataclass(frozen=True, slots=True, repr=False)
class Score:
    """A task's score of one model, with all its metrics.

    Attributes:
        value: The task's metric, as a fraction where the unit is ``%``.
        metrics: All metrics of the task by name, the same way.
        metric: Name of the metric that ``value`` is.
        unit: Unit for people, ``%`` for fractions.
        images: Images that were scored.
    """

    value: float
    metrics: Mapping[str, float]
    metric: str
    unit: str
    images: int

    def _repr_html_(self) -> str:
        header = ("metric", f"value ({self.unit})" if self.unit else "value")
        return view(
            element("strong", self._title), html_table(header, list(self._shown_metrics), numeric=(False, True))
        )

    def __repr__(self) -> str:
        """The metric in the unit people see, and the other metrics below it."""
        others = [f"  {name} {number}" for name, number in self._shown_metrics if name != self.metric]
        return "\n".join([self._title, *others])

    @property
    def _title(self) -> str:
        shown = score_text(scale_of(self.unit) * self.value, self.unit)
        return f"{self.metric} {shown} on {self.images:,} image{'s' if self.images != 1 else ''}"

    @property
    def _shown_metrics(self) -> Iterator[tuple[str, str]]:
        """Name and number of every metric, for people."""
        for name, number in self.metrics.items():
            yield name, number_text(scale_of(self.unit) * number)


class Status(StrEnum):
    """What became of a measurement.

    Attributes:
        MEASURED: It was scored on all images.
        DECIDED: It was stopped early, because its drop was known well enough.
        INTERRUPTED: It was scored on some of the images, or not at all, because the sweep was ended.
        VERIFIED: An engine computes the same.
        FAILED: The model or the metric raised an exception, or gave no number.
        SKIPPED: It never ran, or no image of the calibration or the task reached the layer.
    """

    MEASURED = "measured"
    DECIDED = "decided"
    INTERRUPTED = "interrupted"
    VERIFIED = "verified"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One layer perturbed by one recipe, scored.

    Attributes:
        layer: Name of the layer.
        recipe: Name of the recipe, a key of ``StudyRecord.recipes``.
        score: The metric with this layer perturbed; None where the measurement failed.
        drop: Baseline minus score (score minus baseline where lower is better); positive is worse.
        drop_low: Lower end of the interval of the drop, or None where no interval was computed.
        drop_high: Upper end.
        images: Images scored.
        status: What became of it; equal to its text, e.g. ``measured``.
        reason: Why it failed, was skipped or stopped; empty for a plain measurement.
        metrics: Every metric of the task.
        signals: Label-free measures, e.g. ``output_sqnr_db``.
        seconds: Time spent on it.
        drops_without: The drop without each of the groups of images that its interval comes from; the groups are the
            same for all layers, so that sums over layers have intervals too. Empty where there are none.
        drop_shifts: How far the mean drop of two halves of the images lies from the drop of all of them, for several
            ways to halve them, the same for all layers. Empty as above, and in a study of an older version.
        engine_reason: Why ``Wrapped.verify_study`` did not show that an engine computes the same; empty where it did,
            or was not asked.
    """

    layer: str
    recipe: str
    score: float | None
    drop: float | None
    drop_low: float | None = None
    drop_high: float | None = None
    images: int = 0
    status: Status = Status.MEASURED
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    signals: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    drops_without: tuple[float, ...] = ()
    engine_reason: str = ""
    drop_shifts: tuple[float, ...] = ()

    @property
    def remarks(self) -> str:
        """Its reasons in one text for people: of the measurement, and of its repetition on an engine."""
        return "; ".join(filter(None, (self.reason, self.engine_reason)))

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The measurement that ``dataclasses.asdict`` described.

        Raises:
            ValueError: If its status is unknown.
            TypeError: If a field is missing or unknown.
        """
        numbers = {name: tuple(plain.get(name, ())) for name in ("drops_without", "drop_shifts")}
        return cls(**{**plain, "status": Status(plain.get("status", Status.MEASURED)), **numbers})


@dataclass(frozen=True)
class StudyRecord(Saved):
    """All measurements of one model on one task, with its baseline.

    Scores and drops are fractions where ``unit`` is ``%``; tables and plots show percent.

    Attributes:
        model: Name of the model, for titles.
        task: Name of the task, for titles.
        metric: Name of the metric that scores and drops are of.
        unit: Unit for people; ``%`` means that fractions are stored.
        higher_is_better: Whether a larger metric is a better model.
        baseline: Score with nothing perturbed.
        layers: All layers of the model in execution order.
        measurements: One for each layer and recipe, in execution order.
        recipes: The recipes by name.
        direction: ``one-at-a-time`` or ``all-but-one``.
        skipped: Modules with a weight that are in no layer, with the reason.
        notes: What a reader should know, e.g. rows that a loader dropped. A ``Note`` has a kind that code may ask for.
        info: How it was made: weights, seconds, versions; a mapping is taken as well.
    """

    _kind: ClassVar[FileKind] = FileKind("study", "Study.save or sensitivity analyze")

    model: str
    task: str
    metric: str
    unit: str
    higher_is_better: bool
    baseline: Score
    layers: tuple[Layer, ...]
    measurements: tuple[Measurement, ...]
    recipes: Mapping[str, Recipe]
    direction: str = "one-at-a-time"
    skipped: tuple[SkippedModule, ...] = ()
    notes: tuple[str, ...] = ()
    info: StudyInfo = field(default_factory=StudyInfo)

    def __post_init__(self) -> None:
        object.__setattr__(self, "info", StudyInfo.of(self.info))

    @property
    def scale(self) -> float:
        """What stored numbers are multiplied by for people: 100 where the unit is ``%``, else 1."""
        return scale_of(self.unit)

    @checked(StudyError)
    def of_recipe(self, recipe: RecipeLike | None = None) -> tuple[Measurement, ...]:
        """The measurements of one recipe, in execution order.

        Args:
            recipe: The recipe or its name; None where the study has only one.

        Raises:
            StudyError: If the recipe is unknown, or left out where there are several recipes.
        """
        name = self.recipe_name(recipe)
        return tuple(m for m in self.measurements if m.recipe == name)

    @checked(StudyError)
    def recipe_name(self, recipe: RecipeLike | None = None) -> str:
        """The name under which the study knows a recipe.

        Args:
            recipe: Its name, or the recipe itself, of which what it does counts and not its name; None where the study
                has only one.

        Raises:
            StudyError: If the study has no such recipe, or it is left out where there are several.
        """
        names = tuple(self.recipes)
        if recipe is None:
            if len(names) != 1:
                known = f"{', '.join(names)}."
                raise StudyError(
                    f"this study has {len(names)} recipes; name one with",
                    python=f"recipe=: {known}",
                    shell=f"--recipe NAME: {known}",
                )
            return names[0]
        if isinstance(recipe, str):
            if recipe not in self.recipes:
                raise StudyError(f"no recipe {recipe!r} in this study. It has: {', '.join(names)}.")
            return recipe
        same = [name for name, known in self.recipes.items() if known.digest == recipe.digest]
        if not same:
            raise StudyError(
                f"recipe={recipe.name!r} does something else than the recipes of this study: {', '.join(names)}."
            )
        return recipe.name if recipe.name in same else same[0]

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal study."""
        facts = {
            "model": self.model,
            "task": self.task,
            "metric": self.metric,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "direction": self.direction,
            "baseline": asdict(self.baseline),
            "recipes": [recipe.to_json() for recipe in self.recipes.values()],
            "layers": [layer.to_json() for layer in self.layers],
            "measurements": [asdict(measurement) for measurement in self.measurements],
            "skipped": [asdict(module) for module in self.skipped],
            "notes": [str(note) for note in self.notes],
            "note_kinds": [str(noted(note).kind) for note in self.notes],
            "info": self.info.to_json(),
        }
        return self._kind.described(facts)

    @classmethod
    def _of_facts(cls, facts: dict[str, Any]) -> Self:
        recipes = [Recipe.from_json(dict(recipe)) for recipe in facts["recipes"]]
        study = cls(
            model=facts["model"],
            task=facts["task"],
            metric=facts["metric"],
            unit=facts["unit"],
            higher_is_better=facts["higher_is_better"],
            direction=facts["direction"],
            baseline=Score(**facts["baseline"]),
            recipes={recipe.name: recipe for recipe in recipes},
            layers=tuple(Layer.from_json(layer) for layer in facts["layers"]),
            measurements=tuple(Measurement.from_json(measurement) for measurement in facts["measurements"]),
            skipped=tuple(SkippedModule(**module) for module in facts["skipped"]),
            notes=notes_of(facts["notes"], facts.get("note_kinds", ())),
            info=StudyInfo.of(facts["info"]),
        )
        _check(study, [recipe.name for recipe in recipes])
        return study


def other_recipe_name(other: StudyRecord, recipe: RecipeLike | None) -> str:
    """The recipe of a study that another one is compared with; see ``StudyRecord.recipe_name``.

    Raises:
        StudyError: If the study has no such recipe, or it is left out where there are several.
    """
    try:
        return other.recipe_name(recipe)
    except StudyError as error:
        known = ", ".join(other.recipes)
        raise StudyError(
            python=f"other_recipe: {error}",
            shell=f"the other study has these recipes; name one with --other-recipe NAME: {known}.",
        ) from error


def _check(study: StudyRecord, recipes: list[str]) -> None:
    """Refuse a loaded study whose parts have values of the wrong kind, or do not fit each other.

    Raises:
        StudyError: If so.
        TypeError: If a metric or a signal is no number.
    """
    check_fields(study, StudyError, skip=("info",))
    check_fields(study.baseline, StudyError, skip=_MAY_BE_NAN)
    for part in (*study.layers, *study.skipped, *study.measurements):
        check_fields(part, StudyError, skip=_MAY_BE_NAN)
    _check_numbers(study.baseline.metrics)
    for measurement in study.measurements:
        _check_numbers(measurement.metrics)
        _check_numbers(measurement.signals)
    if study.direction not in _DIRECTIONS:
        raise StudyError(f"direction={study.direction!r}: a study has one of {', '.join(_DIRECTIONS)}.")
    layers = [layer.name for layer in study.layers]
    _check_unique("layer", layers)
    _check_unique("recipe", recipes)
    _check_unique("measurement", [f"{m.layer} with {m.recipe}" for m in study.measurements])
    for layer in study.layers:
        if not _NAME.fullmatch(layer.name) or layer.groups < 1:
            raise StudyError(f"{layer.name!r:.60} is no layer: a name is stage:block:layer, and groups are 1 or more.")
    known = set(layers)
    for measurement in study.measurements:
        if measurement.layer not in known or measurement.recipe not in study.recipes or measurement.images < 0:
            raise StudyError(
                f"a measurement is of layer {measurement.layer!r:.60} with recipe {measurement.recipe!r:.60} on "
                f"{measurement.images} images: the study has no such layer or recipe, or the number is negative. Give "
                "a file written by Study.save."
            )


def _check_numbers(numbers: Mapping[str, float]) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{name!r:.40} is {number!r:.40}, which is no number")


def _check_unique(noun: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise StudyError(f"the {noun} {twice!r:.80} stands twice in the study. Give a file written by Study.save.")
