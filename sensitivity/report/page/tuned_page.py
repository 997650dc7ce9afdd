"""The page of a search: whether the target was met, every scheme that was measured, and what each bought."""

from __future__ import annotations

from collections.abc import Sequence

from sensitivity.markup.elements import Markup, described, element, joined
from sensitivity.records.results.changed_images import ChangedImagesRecord
from sensitivity.records.results.tuned import StepKind, TunedRecord
from sensitivity.records.units import after_drop, after_score
from sensitivity.report import path, style
from sensitivity.report.page.document import Section, document
from sensitivity.report.page.images_page import images_section
from sensitivity.report.page.points import Axis, Group, Level, Mark, PointChart
from sensitivity.report.page.sortable import line, sortable

CHART = "path"
NAMED = 6
"""So many of a step's layers are named."""


def tuned_page(record: TunedRecord, changed_images: ChangedImagesRecord | None = None) -> str:
    """A whole HTML document that needs no other file and no network.

    Args:
        record: What the search found.
        changed_images: The images that its scheme changes most; None for a page without.
    """
    sections = [tuned_section(record), Section("scheme", "The scheme", _scheme(record))]
    if changed_images is not None:
        sections.append(images_section(changed_images))
    return document(path.title(record), [tuned_finding(record)], sections)


def tuned_section(record: TunedRecord) -> Section:
    """The part about a search, for its own page and for that of a study."""
    chart = tuned_chart(record)
    content = joined(described(path.facts(record)), chart.markup(), _table(record))
    return Section("search", "The path of the search", content, [chart])


def tuned_finding(record: TunedRecord) -> str:
    """What the search ended with, in a paragraph."""
    unit, points = after_score(record.unit), after_drop(record.unit)
    text = f"{path.title(record)}: {record.metric} {path.shown(record.score.value, record)}{unit} instead of "
    text += f"{path.shown(record.baseline.value, record)}{unit}, a drop of {path.shown(record.drop, record)}{points}"
    if record.drop_low is not None and record.drop_high is not None:
        text += f" [{path.shown(record.drop_low, record)}, {path.shown(record.drop_high, record)}]"
    text += f". {record.quantized} of {len(record.layers)} layers are quantized"
    text += f"; {len(record.steps)} schemes were measured in {record.passes:.1f} passes."
    bought = [step for step in record.steps if step.chosen and (step.bought or 0.0) > 0.0]
    if bought:
        best = max(bought, key=lambda step: step.bought or 0.0)
        text += f" The step that gave most back is: {best.what} ({path.shown(best.bought or 0.0, record)}{points})."
    if record.engine is not None and record.engine.speedup is not None:
        text += f" On {record.engine.engine} it runs {record.engine.speedup:.2f} times as fast as in float."
    return text


def tuned_chart(record: TunedRecord) -> PointChart:
    """The score of every step, the first on top, against fp32 and the target."""
    sign = 1.0 if record.higher_is_better else -1.0
    baseline = record.baseline.value * record.scale
    levels = [Level("x", baseline, f"fp32 {path.shown(record.baseline.value, record)}", dashed=False)]
    if record.goal.max_drop is not None:
        levels.append(Level("x", baseline - sign * record.goal.max_drop, "target"))
    groups = [_group(record, kind, chosen=chosen) for kind in StepKind for chosen in (False, True)]
    ticks = [
        (float(number), f"{number + 1}  {_short(path.described_step(step))}")
        for number, step in enumerate(record.steps)
    ]
    if record.engine is not None:
        place = len(record.steps)
        lines = [f"on {record.engine.engine}", path.engine_words(record)]
        mark = Mark(record.engine.score * record.scale, place, lines)
        groups.append(Group(f"on {record.engine.engine}", style.ENGINE_INK, "star", [mark], large=True))
        ticks.append((float(place), f"on {record.engine.engine}"))
    unit = f" ({record.unit})" if record.unit else ""
    return PointChart(
        CHART,
        f"{record.metric} of every scheme that was measured, the first one on top",
        Axis(f"{record.metric}{unit}", reversed=not record.higher_is_better),
        Axis("", ticks, reversed=True),
        [group for group in groups if group.marks],
        levels,
        rows=len(ticks),
    )


def _group(record: TunedRecord, kind: StepKind, *, chosen: bool) -> Group:
    """The steps of one kind that were chosen, or those that were not."""
    rows = path.rows(record)
    marks = [
        _mark(record, place, rows[place])
        for place, step in enumerate(record.steps)
        if (step.kind, step.chosen) == (kind, chosen)
    ]
    words = f"{style.STEP_WORDS[kind]} (large: chosen)"
    return Group(words, style.STEP_INKS[kind], style.STEP_SHAPES[kind], marks, large=chosen)


def _mark(record: TunedRecord, number: int, row: Sequence[str]) -> Mark:
    step, sign = record.steps[number], 1.0 if record.higher_is_better else -1.0
    ends = None
    if step.drop_low is not None and step.drop_high is not None:
        low, high = ((record.baseline.value - sign * drop) * record.scale for drop in (step.drop_high, step.drop_low))
        ends = (low, high)
    score = None if step.score is None else step.score * record.scale
    return Mark(score, float(number), _lines(record, number, row), number, ends)


def _lines(record: TunedRecord, number: int, row: Sequence[str]) -> list[str]:
    cells, layers = dict(zip(path.COLUMNS, row, strict=True)), record.steps[number].layers
    names = ", ".join(layers[:NAMED]) + (f" and {len(layers) - NAMED} more" if len(layers) > NAMED else "")
    return [
        f"{number + 1}  {cells['what']}",
        f"{record.metric} {cells['score']}, drop {cells['drop']} {cells['interval']}".rstrip(),
        f"bought {cells['bought']}; {cells['bytes']} bytes, {cells['in float']} in float, {cells['passes']} passes",
        *([f"layers: {names}"] if names else []),
        *([cells["result"]] if cells["result"] else []),
    ]


def _table(record: TunedRecord) -> Markup:
    rows = path.rows(record)
    lines = [
        line(
            [f"{number + 1} {row[0]}", *row[1:]],
            path.NUMERIC,
            class_=name,
            data_row=None if step.score is None else number,
        )
        for number, (row, name, step) in enumerate(zip(rows, path.row_classes(record), record.steps, strict=True))
    ]
    return sortable("step-table", path.COLUMNS, path.NUMERIC, lines, "step, recipe ...", points=CHART)


def _scheme(record: TunedRecord) -> Markup:
    rules = [
        (rule.pattern, "float" if rule.recipe is None else rule.recipe.name)
        for rule in record.scheme.rules
    ]  # fmt: skip
    return element("div", described(rules))


def _short(text: str) -> str:
    return text if len(text) <= 48 else f"{text[:47]}…"
