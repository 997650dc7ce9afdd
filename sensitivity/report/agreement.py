"""A verification as a table, as text and as a page."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields
from html import escape
from typing import TYPE_CHECKING

from sensitivity.records.verification import PASSING, LayerCheck, LayerStatus, OutputCheck, VerificationRecord
from sensitivity.report.text import markdown_cell

if TYPE_CHECKING:
    import pandas as pd

NOT_KNOWN = "–"

_STYLE = """
.verification { font: 14px/1.5 system-ui, sans-serif; color: #1d1d1f; background: #fff; padding: 1rem; }
.verification table { border-collapse: collapse; font-size: 13px; margin: .5rem 0; }
.verification th, .verification td { padding: .2rem .7rem; border-bottom: 1px solid #e6e6e9; text-align: left; }
.verification .fails { color: #b3261e; font-weight: 600; }
"""

_COLUMNS = ("layer", "module", "planned", "executed", "status", "codes differ", "largest step", "time (ms)", "reason")


def frame(record: VerificationRecord) -> pd.DataFrame:
    """One row for each layer in execution order; what was not measured is NaN or None."""
    import pandas as pd

    rows = [asdict(check) for check in record.layers]
    return pd.DataFrame(rows, columns=[field.name for field in fields(LayerCheck)])


def summary(record: VerificationRecord) -> str:
    """What was found, in a few lines."""
    counts = Counter(check.status for check in record.layers)
    lines = [f"{record.model} on {record.engine}: {'as simulated' if record.passed else 'NOT as simulated'}"]
    lines += [f"  {name}: {text} {verdict}".rstrip() for name, text, verdict in _facts(record, counts)]
    lines += [f"  {check.layer} ({check.module}): {check.status}: {check.reason}" for check in _wrong(record)[:10]]
    return "\n".join(lines)


def markdown(record: VerificationRecord) -> str:
    """The facts as a list and the layers as a table in GitHub's markdown."""
    counts = Counter(check.status for check in record.layers)
    title = f"{record.model} on {record.engine}: {'as simulated' if record.passed else 'not as simulated'}"
    lines = [f"**{markdown_cell(title)}**", ""]
    lines += [
        f"- {markdown_cell(f'{name}: {text} {verdict}')}".rstrip() for name, text, verdict in _facts(record, counts)
    ]
    lines += ["", f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    lines += [f"| {' | '.join(map(markdown_cell, row))} |" for row in _rows(record)]
    return "\n".join(lines) + "\n"


def html(record: VerificationRecord, picture: str = "") -> str:
    """The same as a fragment of HTML.

    Args:
        record: What was found.
        picture: An ``<svg>`` element to show above the table.
    """
    counts = Counter(check.status for check in record.layers)
    title = f"{record.model} on {record.engine}: {'as simulated' if record.passed else 'not as simulated'}"
    facts = "".join(
        f"<li{_class(verdict)}>{escape(f'{name}: {text} {verdict}'.strip())}</li>"
        for name, text, verdict in _facts(record, counts)
    )
    head = "".join(f"<th>{escape(column)}</th>" for column in _COLUMNS)
    body = "\n".join(
        f"<tr{'' if row[4] in PASSING else ' class=' + chr(34) + 'fails' + chr(34)}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in _rows(record)
    )
    return (
        f'<style>{_STYLE}</style><div class="verification"><strong>{escape(title)}</strong><ul>{facts}</ul>{picture}\n'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
    )


def _class(verdict: str) -> str:
    return ' class="fails"' if verdict == "(outside the threshold)" else ""


def _facts(record: VerificationRecord, counts: Counter[LayerStatus]) -> list[tuple[str, str, str]]:
    facts = [("layers", ", ".join(f"{count} {status}" for status, count in counts.items()), "")]
    compared = [check for check in record.layers if check.code_share is not None]
    if compared:
        worst = max(check.code_share or 0.0 for check in compared)
        steps = max(check.code_steps or 0 for check in compared)
        difference = f"at most {worst:.1e} of a layer's differ, by at most {steps}" if worst else "none differs"
        total = sum(check.codes for check in compared)
        facts.append(("codes from the same input codes", f"{total:,} compared, {difference}", ""))
    facts += _output_facts(record)
    facts += [
        (f"inside {difference.part or 'the graph'}", difference.reason, _verdict(False))
        for difference in record.first_differences
    ]
    if record.metric_deployed is not None:
        facts += _metric_facts(record)
    if record.latency_int8_s is not None:
        speed = "" if record.speedup is None else f", fp32 {1e3 * (record.latency_fp32_s or 0):.3g} ms"
        ratio = "" if record.speedup is None else f": {_compared_with_float(record.speedup)}"
        facts.append(("latency", f"{1e3 * record.latency_int8_s:.3g} ms{speed}{ratio}", ""))
    return facts


def _compared_with_float(speedup: float) -> str:
    """How fast int8 is, in words that say which of the two is faster."""
    if speedup >= 1.0:
        return f"{speedup:.2f} times as fast"
    return f"int8 is slower than float here, it takes {1.0 / speedup:.2f} times as long"


def _output_facts(record: VerificationRecord) -> list[tuple[str, str, str]]:
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
        (f"output {check.name}".rstrip(), _output(check), _verdict(check.passes(record.gates)) or "(not compared)")
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


def _metric_facts(record: VerificationRecord) -> list[tuple[str, str, str]]:
    scale = 100.0 if record.unit == "%" else 1.0
    numbers = (record.metric_fp32, record.metric_simulated, record.metric_deployed)
    fp32, simulated, deployed = (f"{scale * (number or 0.0):.3f}" for number in numbers)
    text = f"fp32 {fp32}, simulated {simulated}, deployed {deployed} {record.unit} on {record.images} images"
    tolerance = f"{scale * (record.metric_tolerance or 0.0):.3f}"
    verdict = "(outside the threshold, within the prediction's own uncertainty)" if record.metric_uncertain else ""
    facts = [(record.metric, f"{text}; {tolerance} may differ", verdict or _verdict(record.metric_pass))]
    if record.metric_spread is not None:
        text = f"{scale * record.metric_spread:.3f} {record.unit} between roundings of the same simulation"
        facts.append(("the prediction's own uncertainty", text, ""))
    return facts


def _verdict(passes: bool | None) -> str:
    return "" if passes is None else "(within the threshold)" if passes else "(outside the threshold)"


def _wrong(record: VerificationRecord) -> list[LayerCheck]:
    return [check for check in record.layers if check.status not in PASSING]


def _rows(record: VerificationRecord) -> list[tuple[str, ...]]:
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
