"""The table of all layers that readers sort, search and pick layers from."""

from __future__ import annotations

from sensitivity.markup.elements import Markup
from sensitivity.records.diagnosis import DiagnosisRecord
from sensitivity.report.page.sortable import line, sortable
from sensitivity.report.page.study_data import causes_and_cures
from sensitivity.report.page.values import findings_with_values
from sensitivity.report.reading import Reading
from sensitivity.report.rows import ABSENT, rows
from sensitivity.report.spread import spread_of


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
    modules = [reading.study.layers[layer].module or ABSENT for layer, _ in places] + [ABSENT] * len(
        reading.study.skipped
    )
    header, numeric = (*header, "module"), (*numeric, False)
    body = [(*row, module) for row, module in zip(body, modules, strict=True)]
    if diagnosis is not None:
        causes = causes_and_cures(diagnosis)
        header, numeric = (*header, "cause and cure"), (*numeric, False)
        body = [
            (*row, causes.get(row[0], ABSENT) if recipes[place[1]] == diagnosis.recipe.name else ABSENT)
            for row, place in zip(body, [*places, *[(0, 0)] * len(reading.study.skipped)], strict=True)
        ]
    spread = {finding.layer: spread_of(finding) for finding in findings_with_values(diagnosis)}
    if spread:
        header, numeric = (*header, "inputs and weights"), (*numeric, False)
        body = [(*row, spread.get(row[0]) or ABSENT) for row in body]
    lines = [
        line(cells, numeric, data_layer=layer, data_recipe=recipe)
        for cells, (layer, recipe) in zip(body, places, strict=False)
    ]
    lines += [line(cells, numeric) for cells in body[len(places) :]]
    return sortable("layer-table", header, numeric, lines, "layer, kind, role, verdict, module ...")
