"""What a notebook shows of a study: its facts and the worst layers of each recipe."""

from __future__ import annotations

from sensitivity.markup.elements import Markup, described, element, html_table
from sensitivity.markup.view import view
from sensitivity.report.facts import study_facts
from sensitivity.report.reading import Reading
from sensitivity.report.tables.rows import rows

WORST = 10


def fragment(reading: Reading) -> str:
    """Facts and the worst layers of each recipe, as a part of a page."""
    study = reading.study
    parts = [
        element("strong", f"{study.model} on {study.task}"),
        described(study_facts(reading, study.recipes).items()),
    ]
    for name in study.recipes:
        parts += [element("div", f"Worst layers, {name}"), _worst(reading, name)]
    return view(*parts)


def _worst(reading: Reading, recipe: str) -> Markup:
    """The table's rows of the worst layers, worst first."""
    layers = rows(reading, recipe)
    by_layer = {row[0]: row for row in layers.body}
    ranked = reading.worst_first[recipe][:WORST]
    return html_table(layers.header, [by_layer[m.layer] for m in ranked], numeric=layers.numeric)
