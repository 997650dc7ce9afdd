"""The network by stage: how many layers each has, what became of them, and its largest drop."""

from __future__ import annotations

from sensitivity.markup.elements import Markup, element, joined
from sensitivity.records import Layer, Measurement
from sensitivity.records.verdict import Verdict
from sensitivity.report.dip import stage_runs
from sensitivity.report.reading import Reading
from sensitivity.report.rows import ABSENT

_HEADER = ("stage", "layers", "parameters", "dip", "harmless", "undecided", "largest drop", "")


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
    measurements = {m.layer: m for m in reading.study.of_recipe(recipe)}
    largest = max((m.drop or 0.0 for m in reading.worst_first[recipe]), default=0.0)
    layers = reading.study.layers
    lines = [
        _line(reading, recipe, layers[first : last + 1], (first, last), measurements, largest)
        for _, first, last in stage_runs(layers)
    ]
    heads = [element("th", name, scope="col", class_=None if name in ("stage", "") else "number") for name in _HEADER]
    table = element("table", element("thead", element("tr", *heads)), element("tbody", joined(*lines, between="\n")))
    return element(
        "div", table, class_="wide tall", tabindex=0, role="region", aria_label=f"Stages, recipe {number + 1}"
    )


def _line(
    reading: Reading,
    recipe: str,
    layers: tuple[Layer, ...],
    run: tuple[int, int],
    measurements: dict[str, Measurement],
    largest: float,
) -> Markup:
    verdicts = [reading.verdicts[recipe].get(layer.name) for layer in layers]
    measured = [measurements[layer.name] for layer in layers if layer.name in measurements]
    worst = max((m for m in measured if reading.drop(m)), key=lambda m: m.drop or 0.0, default=None)
    share = 0.0 if worst is None or largest <= 0.0 else max(0.0, (worst.drop or 0.0) / largest)
    button = element("button", layers[0].stage, type="button", data_first=run[0], data_last=run[1])
    counts = [str(verdicts.count(verdict) or ABSENT) for verdict in (Verdict.DIP, Verdict.HARMLESS, Verdict.UNDECIDED)]
    numbers = [str(len(layers)), f"{sum(layer.parameters for layer in layers):,}", *counts]
    numbers.append(ABSENT if worst is None else f"{reading.drop(worst)}{reading.drop_unit}")
    bar = element("span", class_="bar", style=f"width: {10 * min(share, 1.0):.2f}rem", aria_hidden="true")
    return element(
        "tr", element("th", button, scope="row"), *(element("td", text, class_="number") for text in numbers),
        element("td", bar),
    )  # fmt: skip
