"""The table of all layers that readers sort, search and pick layers from."""

from __future__ import annotations

from sensitivity.markup.elements import Markup
from sensitivity.records.results.diagnosis import DiagnosisRecord
from sensitivity.records.units import ABSENT
from sensitivity.report.page.sections.study_data import causes_and_cures
from sensitivity.report.page.sections.values import findings_with_values
from sensitivity.report.page.sortable import line, sortable
from sensitivity.report.reading import Reading
from sensitivity.report.spread import spread_of
from sensitivity.report.tables.rows import rows


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
        spread = {finding.layer: spread_of(finding) for finding in findings_with_values(diagnosis)}
        columns = {"cause and cure": causes_and_cures(diagnosis), **({"inputs and weights": spread} if spread else {})}
        header, numeric = (*header, *columns), (*numeric, *[False] * len(columns))
        of_recipe = [recipes[recipe] == diagnosis.recipe.name for _, recipe in places]
        of_recipe += [False] * len(reading.study.skipped)
        body = [
            (*row, *(texts.get(row[0], ABSENT) if is_diagnosed else ABSENT for texts in columns.values()))
            for row, is_diagnosed in zip(body, of_recipe, strict=True)
        ]
    lines = [
        line(cells, numeric, data_layer=layer, data_recipe=recipe)
        for cells, (layer, recipe) in zip(body, places, strict=False)
    ]
    lines += [line(cells, numeric) for cells in body[len(places) :]]
    return sortable("layer-table", header, numeric, lines, "layer, kind, role, verdict, module ...")
