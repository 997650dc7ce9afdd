"""A study as text: a few lines for the terminal, and tables in Markdown, LaTeX and reStructuredText."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from sensitivity.records import Status
from sensitivity.records.study import RecipeLike
from sensitivity.records.verdict import Verdict
from sensitivity.report.markdown import one_line, table
from sensitivity.report.metric_rows import metric_rows
from sensitivity.report.reading import Reading
from sensitivity.report.rows import Rows, rows

_RST = {character: f"\\{character}" for character in "\\*`|_"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def summary(reading: Reading, worst: int = 5) -> str:
    """A few lines: model, task, baseline, and for each recipe how much was measured and the worst layers.

    Args:
        reading: What there is to show.
        worst: How many layers to name for each recipe.
    """
    study = reading.study
    lines = [
        f"Study of {study.model} on {study.task} ({study.direction})",
        f"baseline {reading.baseline} on {study.baseline.images} images, {len(study.layers)} layers",
    ]
    for name in study.recipes:
        lines.append(f"{name}: {counts(reading, name)}")
        ranked = reading.worst_first[name][:worst]
        width = max((len(m.layer) for m in ranked), default=0)
        for measurement in ranked:
            drop = f"drop {reading.drop(measurement)}{reading.drop_unit} {reading.interval(measurement)}".rstrip()
            traits = sorted(reading.flags[name][measurement.layer] - {Verdict.DIP})
            words = ", ".join([*filter(None, [reading.verdict(name, measurement.layer)]), *traits])
            lines.append(f"  {measurement.layer:<{width}}  {drop}  {words}".rstrip())
        if reading.agreement_of(name):
            lines.append(f"  rank correlation with the drops: {reading.agreement_of(name)}")
    lines += [reading.intervals] if reading.intervals else []
    lines += [f"note: {note}" for note in study.notes]
    return "\n".join(lines)


def counts(reading: Reading, recipe: str) -> str:
    """How many layers have which status and verdict, e.g. ``65 measured, 1 failed; 2 dip, 63 harmless at ...``."""
    measurements = reading.study.of_recipe(recipe)
    statuses = [m.status for m in measurements]
    different = sorted(dict.fromkeys(statuses), key=lambda status: status != Status.MEASURED)
    parts = [f"{statuses.count(status)} {status}" for status in different or [Status.MEASURED]]
    missing = len(reading.study.layers) - len(measurements)
    text = ", ".join([*parts, *([f"{missing} not analysed"] if missing else [])])
    verdicts = reading.verdict_counts(recipe)
    return f"{text}; {verdicts} at a tolerance of {reading.shown_tolerance}" if verdicts else text


def markdown(reading: Reading, recipe: RecipeLike | None = None, *, metrics: bool = False) -> str:
    """The layers as a table in GitHub's markdown.

    Raises:
        StudyError: If the recipe is unknown.
    """
    layers = _rows(reading, recipe, metrics=metrics)
    return table(layers.header, layers.body, numeric=layers.numeric)


def latex(reading: Reading, recipe: RecipeLike | None = None, *, metrics: bool = False) -> str:
    """The layers as a LaTeX ``longtable``; needs the packages ``longtable`` and ``booktabs``.

    Raises:
        StudyError: If the recipe is unknown.
    """
    table = _escaped(_rows(reading, recipe, metrics=metrics), _LATEX, str)
    header, *body = (" & ".join((_guard_latex(row[0]), *row[1:])) + r" \\" for row in (table.header, *table.body))
    columns = "".join("r" if right else "l" for right in table.numeric)
    start = [r"% needs \usepackage{longtable,booktabs}", rf"\begin{{longtable}}{{{columns}}}"]
    head = [r"\toprule", header, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot"]
    return "\n".join([*start, *head, *body, r"\end{longtable}"])


def rst(reading: Reading, recipe: RecipeLike | None = None, *, metrics: bool = False) -> str:
    """The layers as a reStructuredText ``list-table``.

    Raises:
        StudyError: If the recipe is unknown.
    """
    table = _escaped(_rows(reading, recipe, metrics=metrics), _RST, _guard_rst)
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (table.header, *table.body):
        lines += [f"   {'  -' if position else '* -'} {cell}" for position, cell in enumerate(row)]
    return "\n".join(lines)


def _rows(reading: Reading, recipe: RecipeLike | None, *, metrics: bool) -> Rows:
    return metric_rows(reading, recipe) if metrics else rows(reading, recipe)


def _escaped(table: Rows, replacements: Mapping[str, str], guard: Callable[[str], str]) -> Rows:
    """Every cell on one line, with what the format would read as markup replaced.

    Args:
        table: The table.
        replacements: Single characters and what stands for them.
        guard: Changes a cell in which several characters together, or those at its ends, would be read as markup.
    """
    codes = {ord(character): text for character, text in replacements.items()}

    def escaped(cells: Iterable[str]) -> tuple[str, ...]:
        return tuple(guard(one_line(cell).translate(codes)) for cell in cells)

    return Rows(escaped(table.header), table.numeric, tuple(map(escaped, table.body)))


def _guard_latex(cell: str) -> str:
    """A cell that the line end before it does not take for an argument of its own."""
    return f"{{{cell[0]}}}{cell[1:]}" if cell[:1] in ("[", "*") else cell


def _guard_rst(cell: str) -> str:
    """A cell that is a paragraph: no directive such as ``.. include::``, list, field, title or literal block."""
    if cell.endswith("::"):
        cell = f"{cell[:-1]}\\:"
    is_number = re.match(r"[-+]?\d+(\.\d+)?( |$)", cell)
    starts_list = re.match(r"\(?(\w{1,8}|#)[.)]( |$)", cell)
    starts_markup = bool(cell) and not (cell[0].isalnum() or cell[0] in "–[<" or cell[0] == "\\")
    return f"\\ {cell}" if not is_number and (starts_list or starts_markup) else cell
