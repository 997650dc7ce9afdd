"""The table of all layers that readers sort, search and pick layers from."""

from __future__ import annotations

from sensitivity.records.diagnosis import DiagnosisRecord
from sensitivity.records.markup import Markup, element, joined
from sensitivity.report.page.study_data import causes_and_cures
from sensitivity.report.reading import Reading
from sensitivity.report.rows import ABSENT, rows

LONG = 60
"""Letters of a cell from which on it is broken into lines."""


def layer_table(reading: Reading, recipes: tuple[str, ...], diagnosis: DiagnosisRecord | None = None) -> Markup:
    """One row for each layer and recipe, then one for each module that is in no layer, below a field to search in.

    Args:
        reading: What there is to show.
        recipes: Names of the recipes to show.
        diagnosis: Causes and cures of layers; None where there is no diagnosis.
    """
    table = rows(reading, recipes[0] if len(recipes) == 1 else None)
    header, numeric, body = table.header, table.numeric, [*table.body]
    places = [(layer, recipe) for recipe in range(len(recipes)) for layer in range(len(reading.study.layers))]
    modules = [reading.study.layers[layer].module for layer, _ in places] + [ABSENT] * len(reading.study.skipped)
    header, numeric = (*header, "module"), (*numeric, False)
    body = [(*row, module) for row, module in zip(body, modules, strict=True)]
    if diagnosis is not None:
        causes = causes_and_cures(diagnosis)
        header, numeric = (*header, "cause and cure"), (*numeric, False)
        body = [
            (*row, causes.get(row[0], ABSENT) if recipes[place[1]] == diagnosis.recipe.name else ABSENT)
            for row, place in zip(body, [*places, *[(0, 0)] * len(reading.study.skipped)], strict=True)
        ]
    lines = [_row(cells, numeric, place) for cells, place in zip(body, places, strict=False)]
    lines += [_row(cells, numeric, None) for cells in body[len(places) :]]
    return sortable("layer-table", header, numeric, lines, "layer, kind, role, verdict, module ...")


def sortable(
    anchor: str, header: tuple[str, ...], numeric: tuple[bool, ...], lines: list[Markup], searched: str
) -> Markup:
    """A table whose headings sort it, with a field to search in it.

    Args:
        anchor: Its name in the page.
        header: Column headings.
        numeric: For each column, whether it holds numbers and is set flush right.
        lines: Its rows.
        searched: What people may search for.
    """
    heads = [
        element(
            "th",
            element("button", name, type="button"),
            scope="col",
            aria_sort="none",
            class_="number" if flush else None,
        )
        for name, flush in zip(header, numeric, strict=True)
    ]
    search = element("input", type="search", placeholder=searched, class_="search")
    return joined(
        element(
            "div",
            element("label", "search ", search),
            element("span", class_="count quiet", aria_live="polite"),
            class_="controls",
        ),
        element(
            "div",
            element(
                "table",
                element("thead", element("tr", *heads)),
                element("tbody", "\n", joined(*lines, between="\n"), "\n"),
                id=anchor,
                class_="sortable",
            ),
            class_="wide tall",
            tabindex=0,
            role="region",
            aria_label="Table, scrolls",
        ),
    )


def _row(cells: tuple[str, ...], numeric: tuple[bool, ...], place: tuple[int, int] | None) -> Markup:
    """One row; the name of a layer that is drawn is a button that points it out in the chart."""
    name, *others = cells
    first = name if place is None else element("button", name, type="button", class_="pick", tabindex=-1)
    return element(
        "tr",
        *(
            element("td", cell, class_="number" if flush else "long" if len(cell) > LONG else None)
            for cell, flush in zip((first, *others), numeric, strict=True)
        ),
        data_layer=None if place is None else place[0],
        data_recipe=None if place is None else place[1],
    )
