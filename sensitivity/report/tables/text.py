"""A study as text: a few lines for the terminal, and tables in Markdown, LaTeX and reStructuredText."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sensitivity.records import Status
from sensitivity.records.results.study import RecipeLike
from sensitivity.records.results.verdict import Verdict
from sensitivity.report.markdown import escaped_markdown, markdown_table, one_line
from sensitivity.report.reading import Reading
from sensitivity.report.tables.metric_rows import metric_rows
from sensitivity.report.tables.rows import Rows, rows

_RST = {character: f"\\{character}" for character in "\\*`|_"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
# a colon after what may be a scheme such as mailto, and the sign in a mail address
_ADDRESS = re.compile(r"(?i)(?<=[a-z]):(?=\S)|:(?=//)|@")


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


@dataclass(frozen=True, slots=True)
class Extract:
    """What of a study a table shows.

    Attributes:
        recipe: One recipe; None for all, told apart by a column of their own.
        metrics: Show every metric of the task, as papers on detectors do.
        top: So many layers with the largest drops, the worst first; None for all in execution order.
        caption: Text above the table; True for one that says what was measured, False for none.
    """

    recipe: RecipeLike | None = None
    metrics: bool = False
    top: int | None = None
    caption: str | bool = False


WHOLE = Extract()


def caption_of(reading: Reading, extract: Extract) -> str:
    """The caption that was asked for; empty where none was."""
    if not isinstance(extract.caption, bool):
        return one_line(extract.caption)
    if not extract.caption:
        return ""
    study = reading.study
    recipes = " and ".join(reading.recipes(extract.recipe))
    layers = "every layer" if extract.top is None else f"the {extract.top} layers with the largest drops"
    return (
        f"{study.model} on {study.task}, {recipes}: {layers}. Baseline {reading.baseline} on "
        f"{study.baseline.images} images."
    )


def markdown(reading: Reading, extract: Extract = WHOLE) -> str:
    """The layers as a table in GitHub's markdown, a caption as a paragraph above.

    Raises:
        StudyError: If the recipe is unknown.
    """
    layers = _rows(reading, extract)
    text = markdown_table(layers.header, layers.body, numeric=layers.numeric)
    caption = caption_of(reading, extract)
    return f"{escaped_markdown(caption)}\n\n{text}" if caption else text


def latex(reading: Reading, extract: Extract = WHOLE) -> str:
    """The layers as a LaTeX ``longtable``; needs the packages ``longtable`` and ``booktabs``.

    Raises:
        StudyError: If the recipe is unknown.
    """
    table = _escaped(_rows(reading, extract), _LATEX, str)
    header, *body = (" & ".join((_guard_latex(row[0]), *row[1:])) + r" \\" for row in (table.header, *table.body))
    columns = "".join("r" if right else "l" for right in table.numeric)
    caption = caption_of(reading, extract).translate(_codes(_LATEX))
    start = [r"% needs \usepackage{longtable,booktabs}", rf"\begin{{longtable}}{{{columns}}}"]
    start += [rf"\caption{{{caption}}} \\"] if caption else []
    head = [r"\toprule", header, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot"]
    return "\n".join([*start, *head, *body, r"\end{longtable}"])


def rst(reading: Reading, extract: Extract = WHOLE) -> str:
    """The layers as a reStructuredText ``list-table``.

    Raises:
        StudyError: If the recipe is unknown.
    """
    table = _escaped(_rows(reading, extract), _RST, _guard_rst)
    caption = caption_of(reading, extract).translate(_codes(_RST))
    lines = [f".. list-table:: {caption}".rstrip(), "   :header-rows: 1", ""]
    for row in (table.header, *table.body):
        lines += [f"   {'  -' if position else '* -'} {cell}" for position, cell in enumerate(row)]
    return "\n".join(lines)


def _rows(reading: Reading, extract: Extract) -> Rows:
    if extract.top is not None:
        reading = reading.worst(extract.top, extract.recipe)
    return metric_rows(reading, extract.recipe) if extract.metrics else rows(reading, extract.recipe)


def _codes(replacements: Mapping[str, str]) -> dict[int, str]:
    return {ord(character): text for character, text in replacements.items()}


def _escaped(table: Rows, replacements: Mapping[str, str], guard: Callable[[str], str]) -> Rows:
    """Every cell on one line, with what the format would read as markup replaced.

    Args:
        table: The table.
        replacements: Single characters and what stands for them.
        guard: Changes a cell in which several characters together, or those at its ends, would be read as markup.
    """
    codes = _codes(replacements)

    def escaped(cells: Iterable[str]) -> tuple[str, ...]:
        return tuple(guard(one_line(cell).translate(codes)) for cell in cells)

    return Rows(
        escaped(table.header),
        table.numeric,
        tuple(map(escaped, table.body)),
    )


def _guard_latex(cell: str) -> str:
    """A cell that the line end before it does not take for an argument of its own."""
    return f"{{{cell[0]}}}{cell[1:]}" if cell[:1] in ("[", "*") else cell


def _guard_rst(cell: str) -> str:
    """A cell that is a paragraph without an address that a reader makes a link of.

    It is no directive such as ``.. include::``, list, field, title or literal block either.
    """
    cell = _ADDRESS.sub(r"\\\g<0>", cell)
    if cell.endswith("::"):
        cell = f"{cell[:-1]}\\:"
    is_number = re.match(r"[-+]?\d+(\.\d+)?( |$)", cell)
    starts_list = re.match(r"\(?(\w{1,8}|#)[.)]( |$)", cell)
    in_words = any(character.isalnum() for character in cell) and (cell[0].isalnum() or cell[0] in "[<\\")
    starts_markup = bool(cell) and not (in_words or cell[0] == "–")
    return f"\\ {cell}" if not is_number and (starts_list or starts_markup) else cell
