"""The columns of a study that fit on a page, as text: what markdown, LaTeX, reStructuredText and HTML show."""

from __future__ import annotations

from dataclasses import dataclass

from sensitivity.records import Layer, Measurement
from sensitivity.records.results.study import RecipeLike
from sensitivity.records.results.verdict import Verdict
from sensitivity.records.units import ABSENT
from sensitivity.report.reading import Reading

NOT_ANALYSED = "not analysed"
COLUMNS = (
    "layer",
    "recipe",
    "kind",
    "role",
    "traits",
    "drop",
    "interval",
    "verdict",
    "score",
    "images",
    "parameters",
    "result",
)
NUMBERS = ("drop", "interval", "score", "images", "parameters")


@dataclass(frozen=True, slots=True)
class Rows:
    """A table as text.

    Attributes:
        header: Column headings; drop and score with their unit.
        numeric: For each column, whether it holds numbers and is set flush right.
        body: One list of cells for each layer; an en dash for what is absent.
    """

    header: tuple[str, ...]
    numeric: tuple[bool, ...]
    body: tuple[tuple[str, ...], ...]


def rows(reading: Reading, recipe: RecipeLike | None = None) -> Rows:
    """One row for each layer in execution order, then one for each module that is in no layer.

    Args:
        reading: What there is to show.
        recipe: One recipe; None for all, told apart by a column of their own.

    Raises:
        StudyError: If the recipe is unknown.
    """
    study, names = reading.study, reading.recipes(recipe)
    cells = [row for name in names for row in _recipe_rows(reading, name)]
    cells += [{"layer": module.module, "result": f"skipped: {module.reason}"} for module in study.skipped]
    optional = {"recipe": len(names) > 1} | {
        column: any(row.get(column) for row in cells) for column in ("interval", "verdict")
    }
    columns = [column for column in COLUMNS if optional.get(column, True)]
    units = {
        "drop": f"drop{_bracketed(reading.drop_unit)}",
        "score": f"{study.metric}{_bracketed(reading.score_unit)}",
    }
    return Rows(
        header=tuple(units.get(column, column) for column in columns),
        numeric=tuple(column in NUMBERS for column in columns),
        body=tuple(tuple(row.get(column) or ABSENT for column in columns) for row in cells),
    )


def _recipe_rows(reading: Reading, recipe: str) -> list[dict[str, str]]:
    measurements = {m.layer: m for m in reading.study.of_recipe(recipe)}
    flags = reading.flags[recipe]
    return [
        _facts(layer, flags[layer.name])
        | {"recipe": recipe, "verdict": reading.verdict(recipe, layer.name)}
        | _result(reading, measurements.get(layer.name))
        for layer in reading.study.layers
    ]


def _facts(layer: Layer, flags: frozenset[str]) -> dict[str, str]:
    return {
        "layer": layer.name,
        "kind": layer.kind,
        "role": layer.role,
        "traits": ", ".join(sorted(flags - {Verdict.DIP})),  # a column of its own has the verdict
        "parameters": f"{layer.parameters:,}",
    }


def _result(reading: Reading, measurement: Measurement | None) -> dict[str, str]:
    if measurement is None:
        return {"result": NOT_ANALYSED}
    reason = f": {measurement.remarks}" if measurement.remarks else ""
    return {
        "drop": reading.drop(measurement),
        "interval": reading.interval(measurement),
        "score": "" if measurement.score is None else reading.shown(measurement.score),
        "images": f"{measurement.images:,}",
        "result": f"{measurement.status}{reason}",
    }


def _bracketed(unit: str) -> str:
    return f" ({unit.strip()})" if unit else ""
