"""The network by stage: how many layers each has, what became of them, and its largest drop."""

from __future__ import annotations

from math import inf

from sensitivity.markup.elements import Markup, element, joined
from sensitivity.records import Measurement
from sensitivity.records.results.verdict import Verdict
from sensitivity.records.units import ABSENT
from sensitivity.report.dip import stage_runs
from sensitivity.report.reading import Reading

_HEADER = ("stage", "layers", "parameters", "dip", "harmless", "undecided")


def stage_table(reading: Reading, recipes: tuple[str, ...]) -> Markup:
    """One table for each recipe, with a bar for the largest drop of each stage; a stage's button selects its layers.

    Args:
        reading: What there is to show.
        recipes: Names of the recipes to show.
    """
    tables = [_table(reading, name, number) for number, name in enumerate(recipes)]
    if len(recipes) == 1:
        return tables[0]
    return joined(
        *(
            element("div", element("h3", name), table, data_only_recipe=number)
            for number, (name, table) in enumerate(zip(recipes, tables, strict=True))
        )
    )


def _table(reading: Reading, recipe: str, number: int) -> Markup:
    header = (*_HEADER, "largest drop" if reading.one_at_a_time else "smallest drop", "")
    lines = [_line(reading, recipe, first, last) for _, first, last in stage_runs(reading.study.layers)]
    heads = [element("th", name, scope="col", class_=None if name in ("stage", "") else "number") for name in header]
    table = element("table", element("thead", element("tr", *heads)), element("tbody", joined(*lines, between="\n")))
    return element(
        "div", table, class_="wide tall", tabindex=0, role="region", aria_label=f"Stages, recipe {number + 1}"
    )


def _line(reading: Reading, recipe: str, first: int, last: int) -> Markup:
    """One stage; its worst layer is the one that hurts most, or without which all others lose least."""
    layers, ranked = reading.study.layers[first : last + 1], reading.worst_first[recipe]
    names = {layer.name for layer in layers}
    worst = next((m for m in ranked if m.layer in names), None)
    verdicts = [reading.verdicts[recipe].get(layer.name) for layer in layers]
    counts = [str(verdicts.count(verdict) or ABSENT) for verdict in (Verdict.DIP, Verdict.HARMLESS, Verdict.UNDECIDED)]
    numbers = [str(len(layers)), f"{sum(layer.parameters for layer in layers):,}", *counts]
    numbers.append(ABSENT if worst is None else f"{reading.drop(worst)}{reading.drop_unit}")
    button = element("button", layers[0].stage, type="button", data_first=first, data_last=last)
    return element(
        "tr",
        element("th", button, scope="row"),
        *(element("td", text, class_="number") for text in numbers),
        element("td", _bar(worst, ranked[0]) if worst is not None and reading.one_at_a_time else ""),
    )


def _bar(worst: Measurement, largest: Measurement) -> Markup:
    """How the drop of a stage's worst layer compares with the largest one."""
    drop, most = worst.drop or 0.0, largest.drop or 0.0
    share = min(1.0, max(0.0, drop / most)) if 0.0 < most < inf else 0.0
    return element("span", class_="bar", style=f"width: {10 * share:.2f}rem", aria_hidden="true")
