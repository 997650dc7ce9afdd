"""Two studies side by side: the drop of every layer in one against that in the other."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Self

from sensitivity.markup.elements import joined
from sensitivity.records import StudyRecord
from sensitivity.records.results.study import RecipeLike, other_recipe_name
from sensitivity.records.units import ABSENT, unit_of_drops
from sensitivity.report import style
from sensitivity.report.page.document import Section
from sensitivity.report.page.points import Axis, Group, Mark, PointChart
from sensitivity.report.page.sortable import line, sortable

if TYPE_CHECKING:
    import pandas as pd

CHART = "comparison"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared.

    Attributes:
        study: What was measured.
        recipe: The recipe of it.
        other: Another study.
        other_recipe: The recipe of that one.
    """

    study: StudyRecord
    recipe: str
    other: StudyRecord
    other_recipe: str

    @classmethod
    def of(
        cls, study: StudyRecord, other: StudyRecord, recipe: RecipeLike | None, other_recipe: RecipeLike | None
    ) -> Self:
        """What is compared, by the names of the recipes; see ``Study.to_html``.

        Raises:
            StudyError: If a recipe is unknown, or left out where a study has several.
        """
        return cls(study, study.recipe_name(recipe), other, other_recipe_name(other, other_recipe))

    @property
    def names(self) -> tuple[str, str]:
        """How the two are told apart: by what differs between them."""
        own = {"model": self.study.model, "task": self.study.task, "recipe": self.recipe}
        others = {"model": self.other.model, "task": self.other.task, "recipe": self.other_recipe}
        differing = [key for key in own if own[key] != others[key]]
        if not differing:
            return f"{self.recipe} in this study", f"{self.recipe} in the other study"
        return ", ".join(own[key] for key in differing), ", ".join(others[key] for key in differing)

    def frame(self) -> pd.DataFrame:
        """Drops and ranks of both, one row for each layer; see ``report.tables.table.compare``."""
        from sensitivity.report.tables.table import compare

        return compare(self.study, self.other, recipe=self.recipe, other_recipe=self.other_recipe)


def comparison_finding(comparison: Comparison) -> str:
    """How much the two agree, and the layer whose rank differs most."""
    frame = comparison.frame()
    own_name, other_name = comparison.names
    common = frame.dropna(subset=["drop", "drop_other"])
    correlation = frame.attrs["rank_correlation"]
    text = f"{len(common)} layers were measured for both {own_name} and {other_name}"
    if isnan(correlation):
        return f"{text}; their ranks cannot be correlated."
    text += f"; the rank correlation of the two drops is {correlation:.2f}."
    moved = (common["rank"] - common["rank_other"]).abs().tolist()
    if max(moved, default=0.0) > 0.0:
        row = common.iloc[moved.index(max(moved))]
        text += f" {row['name']} moves most: rank {row['rank']:.0f} here, {row['rank_other']:.0f} there."
    return text


def comparison_section(comparison: Comparison) -> Section:
    """A chart of both drops, and the table."""
    frame = comparison.frame()
    own_name, other_name = comparison.names
    header = ("layer", "kind", "role", f"drop, {own_name}", f"drop, {other_name}", "rank", "rank there")
    numeric = (False, False, False, True, True, True, True)
    lines = [
        line(cells, numeric, data_row=place if ABSENT not in cells[3:5] else None)
        for place, cells in enumerate(_rows(frame))
    ]
    table = sortable("comparison-table", header, numeric, lines, "layer, kind, role ...", points=CHART)
    chart = comparison_chart(comparison)
    return Section("compared", f"Compared with {other_name}", joined(chart.markup(), table), [chart])


def comparison_chart(comparison: Comparison) -> PointChart:
    """One point for each layer that both studies measured."""
    frame = comparison.frame()
    flags = {layer.name: layer.flags for layer in (*comparison.other.layers, *comparison.study.layers)}
    groups: dict[tuple[str, str], list[Mark]] = {}
    for place, cells in enumerate(_rows(frame)):
        row = frame.iloc[place]
        look = (str(row["kind"]), style.shape_of(flags[str(row["name"])]))
        groups.setdefault(look, []).append(
            Mark(
                float(row["drop"]),
                float(row["drop_other"]),
                [
                    cells[0],
                    f"{cells[1]}, {cells[2]}",
                    f"drop {cells[3]} here, {cells[4]} there",
                    f"rank {cells[5]} here, {cells[6]} there",
                ],
                place,
            )
        )
    own_name, other_name = comparison.names
    words = {shape: word for word, shape in style.SHAPE_WORDS.items()}
    return PointChart(
        CHART,
        f"Drop of every layer in {own_name} against that in {other_name}",
        Axis(f"drop, {own_name}{_unit(comparison.study)}"),
        Axis(f"drop, {other_name}{_unit(comparison.other)}"),
        [
            Group(f"{kind}, {words[shape]}", style.kind_ink(kind), shape, marks)
            for (kind, shape), marks in sorted(groups.items())
        ],
        diagonal=comparison.study.unit == comparison.other.unit,
    )


def _rows(frame: pd.DataFrame) -> list[list[str]]:
    return [
        [
            str(row["name"]),
            str(row["kind"]),
            str(row["role"]),
            *(ABSENT if isnan(row[column]) else f"{row[column]:.2f}" for column in ("drop", "drop_other")),
            *(ABSENT if isnan(row[column]) else f"{row[column]:.0f}" for column in ("rank", "rank_other")),
        ]
        for _, row in frame.iterrows()
    ]


def _unit(study: StudyRecord) -> str:
    unit = unit_of_drops(study.unit)
    return f" ({unit})" if unit else ""
