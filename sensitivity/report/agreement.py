"""A verification as a table, as text and as a page."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields
from enum import StrEnum
from typing import TYPE_CHECKING

from sensitivity.markup import elements
from sensitivity.markup.view import view
from sensitivity.records.results.verification import (
    PASSING,
    Cause,
    LayerCheck,
    LayerStatus,
    OutputCheck,
    VerificationRecord,
)
from sensitivity.records.units import after_drop, after_score, scale_of
from sensitivity.report.markdown import escaped_markdown, markdown_table

if TYPE_CHECKING:
    import pandas as pd

NOT_KNOWN = "–"

COLUMNS = ("layer", "module", "planned", "executed", "status", "codes differ", "largest step", "time (ms)", "reason")
NUMERIC = (*[False] * 5, *[True] * 3, False)


class Outcome(StrEnum):
    """Where a fact stands to its threshold, as a reader is told."""

    WITHIN = "(within the threshold)"
    OUTSIDE = "(outside the threshold)"
    UNCERTAIN = "(outside the threshold, within the prediction's own uncertainty)"
    NOT_COMPARED = "(not compared)"
    NONE = ""


Fact = tuple[str, str, Outcome]
"""Name and text of what was compared, and where it stands to its threshold."""


def frame(record: VerificationRecord) -> pd.DataFrame:
    """One row for each layer in execution order; what was not measured is NaN or None."""
    import pandas as pd

    rows = [asdict(check) for check in record.layers]
    return pd.DataFrame(rows, columns=[field.name for field in fields(LayerCheck)])


def title(record: VerificationRecord) -> str:
    """Whether the engine computes what was simulated, in one line."""
    return f"{record.model} on {record.engine}: {'as simulated' if record.passed else 'not as simulated'}"


def summary(record: VerificationRecord) -> str:
    """What was found, in a few lines."""
    lines = [f"{record.model} on {record.engine}: {'as simulated' if record.passed else 'NOT as simulated'}"]
    lines += [f"  {name}: {text} {verdict}".rstrip() for name, text, verdict in facts(record)]
    lines += [f"  {check.layer} ({check.module}): {check.status}: {check.reason}" for check in _wrong(record)[:10]]
    return "\n".join(lines)


def markdown(record: VerificationRecord) -> str:
    """The facts as a list and the layers as a table in GitHub's Markdown."""
    lines = [f"**{escaped_markdown(title(record))}**", ""]
    lines += [f"- {escaped_markdown(f'{name}: {text} {verdict}'.strip())}" for name, text, verdict in facts(record)]
    return "\n".join([*lines, "", markdown_table(COLUMNS, rows(record), numeric=NUMERIC)]) + "\n"


def fragment(record: VerificationRecord, picture: str = "") -> str:
    """The same as a part of a page.

    Args:
        record: What was found.
        picture: An ``<svg>`` element to show above the table.
    """
    shown = len(COLUMNS) if any(check.reason for check in record.layers) else COLUMNS.index("reason")
    cells = [(name, elements.breakable(module), *others)[:shown] for name, module, *others in rows(record)]
    return view(
        elements.element("strong", title(record)),
        facts_list(record),
        elements.Markup(picture),
        elements.html_table(COLUMNS[:shown], cells, numeric=NUMERIC[:shown], row_classes=row_classes(record)),
    )


def facts_list(record: VerificationRecord) -> elements.Markup:
    """What was compared beside the layers, as a list in which what fails stands out."""
    return elements.element(
        "ul",
        *(
            elements.element("li", f"{name}: {text} {verdict}".strip(), class_=_class(verdict))
            for name, text, verdict in facts(record)
        ),
    )


def row_classes(record: VerificationRecord) -> list[str]:
    """A class for each layer's row: ``fails``, or none."""
    return ["" if check.status in PASSING else "fails" for check in record.layers]


def _class(verdict: Outcome) -> str | None:
    return "fails" if verdict is Outcome.OUTSIDE else None


def _counted(status: LayerStatus, count: int) -> str:
    """A status as it is said of so many layers."""
    plural = {LayerStatus.DISAGREES: "disagree", LayerStatus.AGREES_IN_FLOAT: "agree in float"}
    return str(status) if count == 1 else plural.get(status, str(status))


def facts(record: VerificationRecord) -> list[Fact]:
    """Name, text and verdict of what was compared beside the layers."""
    counts = Counter(check.status for check in record.layers)
    pairs = [
        ("layers", ", ".join(f"{count} {_counted(status, count)}" for status, count in counts.items()), Outcome.NONE)
    ]
    compared = [check for check in record.layers if check.code_share is not None]
    if compared:
        worst = max(check.code_share or 0.0 for check in compared)
        steps = max(check.code_steps or 0 for check in compared)
        difference = f"at most {worst:.1e} of a layer's differ, by at most {steps}" if worst else "none differs"
        total = sum(check.codes for check in compared)
        pairs.append(("codes from the same input codes", f"{total:,} compared, {difference}", Outcome.NONE))
    pairs += _saturation_facts(record)
    pairs += _output_facts(record)
    pairs += [
        (f"inside {difference.part or 'the graph'}", difference.reason, _verdict(False))
        for difference in record.first_differences
    ]
    pairs += [("not compared inside the graph", text, Outcome.NONE) for text in record.info.not_inside or ()]
    if record.metric_deployed is not None:
        pairs += _metric_facts(record)
    if record.latency_int8_s is not None:
        pairs.append(("latency", _latency(record), Outcome.NONE))
    return pairs


def _saturation_facts(record: VerificationRecord) -> list[Fact]:
    """How many layers the engine's sums of 8-bit products are to blame for, and what to do."""
    saturated = sum(check.cause is Cause.SATURATION for check in record.layers)
    if not saturated:
        return []
    layers = "1 layer disagrees" if saturated == 1 else f"{saturated} layers disagree"
    text = (
        f"explains why {layers}: on this machine the engine "
        "cuts large sums of 8-bit products off. Weights in 7 bits are exact on every CPU, and the recipe that "
        "sv.recipe_for gives for this engine has them"
    )
    return [("saturation", text, Outcome.NONE)]


def _latency(record: VerificationRecord) -> str:
    """Both times with their spreads, and which is faster, where the runs tell."""
    planned = _time(record.latency_int8_s, record.latency_int8_spread_s)
    if record.speedup is None:
        return planned
    spreads = (record.latency_int8_spread_s or 0.0, record.latency_fp32_spread_s or 0.0)
    difference = abs((record.latency_fp32_s or 0.0) - (record.latency_int8_s or 0.0))
    ratio = compared_with_float(record.speedup)
    words = ratio if difference > max(spreads) else f"{ratio}, which is within the spread of these runs"
    return f"{planned}, fp32 {_time(record.latency_fp32_s, record.latency_fp32_spread_s)}: {words}"


def _time(seconds: float | None, spread_s: float | None) -> str:
    spread = "" if spread_s is None else f" (spread {1e3 * spread_s:.2g})"
    return f"{1e3 * (seconds or 0.0):.3g} ms{spread}"


def compared_with_float(speedup: float) -> str:
    """How fast int8 is, in words that say which of the two is faster."""
    if speedup >= 1.0:
        return f"{speedup:.2f} times as fast"
    return f"int8 is slower than float here, it takes {1.0 / speedup:.2f} times as long"


def _output_facts(record: VerificationRecord) -> list[Fact]:
    """The only output, or the worst float one and every one that fails or could not be compared."""
    text = ""
    if len(record.outputs) == 1:
        verdict = record.outputs_pass
        shown = _output(record.outputs[0])
        return [("outputs", shown if verdict is not None else f"not compared: {shown}", _verdict(verdict))]
    if record.output_sqnr_db is not None and record.simulation_sqnr_db is not None:
        text = f"SQNR {record.output_sqnr_db:.1f} dB to the simulation, which has {record.simulation_sqnr_db:.1f} dB"
        text += " to fp32" + (", the worst of the float ones" if len(record.outputs) > 1 else "")
    elif any(check.share is not None for check in record.outputs):
        text = f"{len(record.outputs)} compared, none in float"
    facts = [("outputs", text or "not compared", _verdict(record.outputs_pass))]
    return facts + [
        (f"output {check.name}".rstrip(), _output(check), _verdict(check.passes(record.gates)) or Outcome.NOT_COMPARED)
        for check in record.outputs
        if check.passes(record.gates) is not True
    ]


def _output(check: OutputCheck) -> str:
    parts = []
    if check.sqnr_db is not None:
        simulation = (
            "" if check.simulation_sqnr_db is None else f", which has {check.simulation_sqnr_db:.1f} dB to fp32"
        )
        parts.append(f"SQNR {check.sqnr_db:.1f} dB to the simulation{simulation}")
    if check.share is not None:
        simulation = "" if check.simulation_share is None else f", simulation and fp32 in {check.simulation_share:.2%}"
        parts.append(f"{check.share:.2%} of {check.elements:,} elements differ{simulation}")
    return "; ".join([*parts, *([check.reason] if check.reason else [])]) or "no elements"


def _metric_facts(record: VerificationRecord) -> list[Fact]:
    scale, points = scale_of(record.unit), after_drop(record.unit)
    numbers = (record.metric_fp32, record.metric_simulated, record.metric_deployed)
    fp32, simulated, deployed = (f"{scale * (number or 0.0):.3f}" for number in numbers)
    text = (
        f"fp32 {fp32}, simulated {simulated}, deployed {deployed}{after_score(record.unit)} on {record.images} images"
    )
    tolerance = f"{scale * (record.metric_tolerance or 0.0):.3f}"
    verdict = Outcome.UNCERTAIN if record.metric_uncertain else _verdict(record.metric_pass)
    facts = [(record.metric, f"{text}; {tolerance}{points} may differ", verdict)]
    if record.metric_spread is not None:
        text = f"{scale * record.metric_spread:.3f}{points} between roundings of the same simulation"
        facts.append(("the prediction's own uncertainty", text, Outcome.NONE))
    return facts


def _verdict(passes: bool | None) -> Outcome:
    return Outcome.NONE if passes is None else Outcome.WITHIN if passes else Outcome.OUTSIDE


def _wrong(record: VerificationRecord) -> list[LayerCheck]:
    return [check for check in record.layers if check.status not in PASSING]


def rows(record: VerificationRecord) -> list[tuple[str, ...]]:
    """One row of text for each layer."""
    return [
        (
            check.layer,
            check.module,
            check.planned,
            check.executed or NOT_KNOWN,
            check.status,
            NOT_KNOWN if check.code_share is None else f"{check.code_share:.1e}" if check.code_share else "0",
            NOT_KNOWN if check.code_steps is None else str(check.code_steps),
            NOT_KNOWN if check.time_s is None else f"{1e3 * check.time_s:.3f}",
            check.reason,
        )
        for check in record.layers
    ]
