"""A study as one self-contained page: the picture, the worst layers, every layer, and what was left out."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from sensitivity.records.study import RecipeLike
from sensitivity.report.figures.dips import dips
from sensitivity.report.reading import Reading
from sensitivity.report.rows import Rows, rows
from sensitivity.report.text import counts

WORST = 10

_STYLE = """
.sensitivity { font: 14px/1.5 system-ui, sans-serif; color: #1d1d1f; background: #fff; max-width: 100rem;
  margin: 0 auto; padding: 1.5rem; }
.sensitivity h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
.sensitivity h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.sensitivity dl { display: grid; grid-template-columns: max-content auto; gap: .1rem 1.25rem; margin: .75rem 0; }
.sensitivity dt { color: #6b6b70; }
.sensitivity dd { margin: 0; }
.sensitivity .wide { overflow-x: auto; }
.sensitivity .wide svg { min-width: 60rem; max-width: 100%; height: auto; display: block; }
.sensitivity table { border-collapse: collapse; font-size: 13px; }
.sensitivity th, .sensitivity td { padding: .2rem .7rem; border-bottom: 1px solid #e6e6e9; text-align: left;
  vertical-align: top; color: inherit; background: none; }
.sensitivity th { border-bottom: 2px solid #b9b9c0; white-space: nowrap; }
.sensitivity tbody tr:nth-child(even) { background: #f7f7f9; }
.sensitivity .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


def page(reading: Reading, recipe: RecipeLike | None = None) -> str:
    """A whole HTML document that needs no other file and no network.

    Args:
        reading: What there is to show.
        recipe: One recipe; None shows all.

    Raises:
        StudyError: If the recipe is unknown, or nothing was measured.
    """
    study, names = reading.study, reading.recipes(recipe)
    title = f"{study.model} on {study.task}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _facts(reading, names),
        f'<div class="wide">{dips(reading, recipe=recipe).to_svg()}</div>',
    ]
    for name in names:
        parts += [f"<h2>Worst layers, {escape(name)}</h2>", _worst(reading, name)]
    parts += ["<h2>All layers</h2>", _table(rows(reading, recipe))]
    if study.notes:
        parts += ["<h2>Notes</h2>", f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in study.notes)}</ul>"]
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n"
        f'<body style="margin: 0; background: #fff">\n<main class="sensitivity">\n{body}\n</main>\n</body>\n</html>\n'
    )


def fragment(reading: Reading) -> str:
    """What a notebook shows for a study: its facts and the worst layers of each recipe."""
    study = reading.study
    parts = [f"<strong>{escape(f'{study.model} on {study.task}')}</strong>", _facts(reading, tuple(study.recipes))]
    for name in study.recipes:
        parts += [f"<div>Worst layers, {escape(name)}</div>", _worst(reading, name)]
    return f'<style>{_STYLE}</style><div class="sensitivity">{"".join(parts)}</div>'


def _facts(reading: Reading, recipes: Iterable[str]) -> str:
    study = reading.study
    facts = {
        "baseline": reading.baseline,
        "images": f"{study.baseline.images:,}",
        "direction": study.direction,
        "layers": f"{len(study.layers)}",
        **{f"recipe {name}": counts(reading, name) for name in recipes},
        **({"intervals": reading.intervals} if reading.intervals else {}),
        **{
            f"rank correlation with the drops, {n}": agreement
            for n in recipes
            if (agreement := reading.agreement_of(n))
        },
    }
    return f"<dl>{''.join(f'<dt>{escape(key)}</dt><dd>{escape(value)}</dd>' for key, value in facts.items())}</dl>"


def _worst(reading: Reading, recipe: str) -> str:
    """The table's rows of the worst layers, worst first."""
    table = rows(reading, recipe)
    by_layer = {row[0]: row for row in table.body}
    ranked = reading.worst_first[recipe][:WORST]
    return _table(Rows(table.header, table.numeric, tuple(by_layer[m.layer] for m in ranked)))


def _table(table: Rows) -> str:
    head = _cells("th", table.header, table.numeric)
    body = "\n".join(f"<tr>{_cells('td', row, table.numeric)}</tr>" for row in table.body)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _cells(tag: str, cells: Iterable[str], numeric: Iterable[bool]) -> str:
    return "".join(
        f'<{tag} class="number">{escape(cell)}</{tag}>' if right else f"<{tag}>{escape(cell)}</{tag}>"
        for cell, right in zip(cells, numeric, strict=True)
    )
