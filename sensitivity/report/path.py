"""The way of a search as a table, as text and as a page."""

from __future__ import annotations

from collections import Counter
from math import isfinite
from typing import TYPE_CHECKING

from sensitivity.markup.elements import element, html_table, listed
from sensitivity.markup.view import view
from sensitivity.records.results.tuned import Step, TunedRecord
from sensitivity.records.units import after_drop, after_score

if TYPE_CHECKING:
    import pandas as pd

NOT_KNOWN = "–"
SHOWN_LAYERS = 12
COLUMNS = ("step", "what", "score", "drop", "interval", "bought", "bytes", "in float", "passes", "result")
NUMERIC = (False, False, *[True] * 7, False)


def frame(record: TunedRecord) -> pd.DataFrame:
    """One row for each step: scores and drops in the unit people see."""
    import pandas as pd

    scale = record.scale
    rows = [
        {
            "kind": str(step.kind),
            "what": step.what,
            "layers": ", ".join(step.layers),
            "recipe": step.recipe,
            "score": _scaled(step.score, scale),
            "drop": _scaled(step.drop, scale),
            "drop_low": _scaled(step.drop_low, scale),
            "drop_high": _scaled(step.drop_high, scale),
            "images": step.images,
            "bought": _scaled(step.bought, scale),
            "size_bytes": step.size_bytes,
            "in_float": step.in_float,
            "meets": step.meets,
            "chosen": step.chosen,
            "passes": step.passes,
            "seconds": step.seconds,
            "predicted_db": step.predicted_db,
            "output_db": step.output_db,
            "reason": step.reason,
            "equalized": step.equalized,
        }
        for step in record.steps
    ]
    return pd.DataFrame(rows)


def summary(record: TunedRecord) -> str:
    """What was reached, and every step, in lines of text."""
    lines = [COLUMNS, *map(tuple, rows(record))]
    wide = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, wide, strict=True)).rstrip() for line in lines]
    return "\n".join([title(record), *(f"  {name}: {text}" for name, text in facts(record)), *table])


def fragment(record: TunedRecord) -> str:
    """The same as a part of a page."""
    return view(
        element("strong", title(record)),
        listed(f"{name}: {text}" for name, text in facts(record)),
        html_table(COLUMNS, rows(record), numeric=NUMERIC, row_classes=row_classes(record)),
    )


def row_classes(record: TunedRecord) -> list[str]:
    """A class for each step's row: ``chosen``, or none."""
    return ["chosen" if step.chosen else "" for step in record.steps]


def title(record: TunedRecord) -> str:
    """Whether the target was met, in one line."""
    verdict = "meets" if record.met else "does NOT meet"
    return f"{record.model} {verdict} {record.goal.text(record.unit)} on {record.task}"


def facts(record: TunedRecord) -> list[tuple[str, str]]:
    """Name and text of what matters."""
    unit, points = after_score(record.unit), after_drop(record.unit)
    drop = f"{shown(record.drop, record)}{points}"
    if record.drop_low is not None and record.drop_high is not None:
        drop += f" [{shown(record.drop_low, record)}, {shown(record.drop_high, record)}]"
    pairs = [
        (
            record.metric,
            f"{shown(record.score.value, record)}{unit}, fp32 {shown(record.baseline.value, record)}{unit}: a drop of "
            f"{drop} on {record.score.images} images",
        ),
        ("layers", _layers(record)),
        ("bytes of parameters", f"{record.size_bytes:,}"),
    ]
    if record.engine is not None:
        pairs.append((f"on {record.engine.engine}", engine_words(record)))
    schemes = f"{len(record.steps)} scheme{'s' if len(record.steps) != 1 else ''}"
    pairs.append(("cost", f"{schemes}, {record.passes:.1f} passes, {record.seconds:.3g} s"))
    return [*pairs, *(("note", note) for note in record.notes)]


def shown(stored: float, record: TunedRecord) -> str:
    """A score or drop in the unit people see: two decimals, more where two would show nothing."""
    value = stored * record.scale + 0.0
    if not isfinite(value):
        return str(value)
    return f"{value:.1g}" if 0.0 < abs(value) < 0.005 else f"{value:.2f}"


def _layers(record: TunedRecord) -> str:
    in_float = record.in_float
    counts = Counter(
        rule.recipe.name for rule in record.scheme.rules if rule.recipe is not None and rule.pattern != "*"
    )
    usual = next((rule.recipe.name for rule in record.scheme.rules if rule.pattern == "*" and rule.recipe), None)
    text = f"{record.quantized} of {len(record.layers)} quantized"
    if usual is not None:
        text += f", {record.quantized - sum(counts.values())} with {usual}"
    text += "".join(f", {count} with {name}" for name, count in counts.items())
    if record.equalized:
        text += ", on the equalized copy"
    if in_float:
        names = ", ".join(in_float[:SHOWN_LAYERS]) + (" ..." if len(in_float) > SHOWN_LAYERS else "")
        text += f"; in float: {names}"
    return text


def engine_words(record: TunedRecord) -> str:
    """What the engine made of the chosen scheme; there must be one."""
    engine = record.engine
    assert engine is not None
    unit = f" {record.unit}".rstrip()
    text = f"{record.metric} {shown(engine.score, record)}{unit}, {engine.quantized} layers quantized"
    if engine.latency_s is not None:
        text += f", {1e3 * engine.latency_s:.3g} ms a run"
    if engine.speedup is not None:
        text += f" ({engine.speedup:.2f} times as fast as in float)"
    return text


def rows(record: TunedRecord) -> list[list[str]]:
    """One row of text for each step."""
    return [
        [
            str(step.kind),
            described_step(step),
            NOT_KNOWN if step.score is None else shown(step.score, record),
            NOT_KNOWN if step.drop is None else shown(step.drop, record),
            _interval(step, record),
            NOT_KNOWN if step.bought is None else shown(step.bought, record),
            f"{step.size_bytes:,}",
            str(step.in_float),
            f"{step.passes:.1f}",
            "chosen" if step.chosen else "meets the target" if step.meets else step.reason,
        ]
        for step in record.steps
    ]


def described_step(step: Step) -> str:
    """What was tried, with the SQNR that was expected of it and the one that was measured, where there are both."""
    if step.predicted_db is None or step.output_db is None:
        return step.what
    return f"{step.what} (outputs {step.output_db:.1f} dB, expected {step.predicted_db:.1f})"


def _interval(step: Step, record: TunedRecord) -> str:
    if step.drop_low is None or step.drop_high is None:
        return ""
    return f"[{shown(step.drop_low, record)}, {shown(step.drop_high, record)}]"


def _scaled(stored: float | None, scale: float) -> float | None:
    return None if stored is None else stored * scale
