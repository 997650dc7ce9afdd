"""The page of a verification: whether the engine computes what was simulated, layer by layer, and how fast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from sensitivity.markup.elements import Markup, described, joined
from sensitivity.records.results.verification import PASSING, LayerCheck, LayerStatus, VerificationRecord
from sensitivity.report import agreement, style
from sensitivity.report.page.document import Section, document
from sensitivity.report.page.points import Axis, Group, Level, Mark, PointChart
from sensitivity.report.page.sortable import line, sortable

CODES, TIMES = "codes", "times"
_NONE = 1e-8
_TICKS = ((1.0, "all"), (1e-2, "1 %"), (1e-4, "0.01 %"), (1e-6, "1 ppm"), (_NONE, "none"))
_NAMED_LAYERS = 70


def verification_page(record: VerificationRecord) -> str:
    """A whole HTML document that needs no other file and no network.

    Args:
        record: What was found.
    """
    sections = [*verification_sections(record), Section("made", "How it was made", _made(record))]
    return document(agreement.title(record), [verification_finding(record)], sections)


def verification_finding(record: VerificationRecord) -> str:
    """Whether the engine computes what was simulated, and what does not agree."""
    counts = Counter(check.status for check in record.layers)
    text = (
        f"{record.engine} {'computes' if record.passed else 'does not compute'} what was simulated of {record.model}: "
    )
    passing = sum(count for status, count in counts.items() if status in PASSING)
    text += f"{passing} of {len(record.layers)} layers are as planned"
    wrong = [check.layer for check in record.layers if check.status not in PASSING]
    text += f", not {', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}." if wrong else "."
    outside = [name for name, _, verdict in agreement.facts(record) if verdict is agreement.Outcome.OUTSIDE]
    text += f" Outside the thresholds: {', '.join(outside)}." if outside else ""
    if record.speedup is not None:
        text += f" Latency against float: {agreement.compared_with_float(record.speedup)}."
    return text


def verification_sections(record: VerificationRecord) -> list[Section]:
    """The parts about a verification, for its own page and for that of a study."""
    charts = verification_charts(record)
    content = joined(agreement.facts_list(record), *(chart.markup() for chart in charts[:1]), _table(record))
    sections = [Section("agreement", "Simulated against deployed", content, charts[:1])]
    return sections + [Section("latency", "Time of each layer", chart.markup(), [chart]) for chart in charts[1:]]


def verification_charts(record: VerificationRecord) -> list[PointChart]:
    """The share of each layer's codes that differ, and the time of each where the engine tells it."""
    if not record.layers:
        return []
    ticks = _layer_ticks(record)
    codes = PointChart(
        CODES,
        "Share of each layer's codes that differ between simulation and engine, layers in execution order",
        Axis("", ticks),
        Axis("codes that differ", _TICKS, logarithmic=True),
        _groups(record, _share),
        [Level("y", record.gates.code_share, f"threshold {100 * record.gates.code_share:g} %")],
    )
    if all(check.time_s is None for check in record.layers):
        return [codes]
    return [
        codes,
        PointChart(
            TIMES,
            "Time of the operation that holds each layer, in milliseconds, layers in execution order",
            Axis("", ticks),
            Axis("time (ms)"),
            _groups(record, lambda check: None if check.time_s is None else 1e3 * check.time_s),
        ),
    ]


def _share(check: LayerCheck) -> float:
    return max(check.code_share or 0.0, _NONE)


def _groups(record: VerificationRecord, height: Callable[[LayerCheck], float | None]) -> list[Group]:
    groups = []
    for status in LayerStatus:
        ink, shape = style.STATUS_LOOKS[status]
        marks = [
            Mark(float(place), height(check), _lines(check), place)
            for place, check in enumerate(record.layers)
            if check.status == status and height(check) is not None
        ]
        groups.append(Group(str(status), ink, shape, marks))
    return [group for group in groups if group.marks]


def _lines(check: LayerCheck) -> list[str]:
    share = "" if check.code_share is None else f"{check.code_share:.1e} of {check.codes:,} codes differ"
    steps = "" if not check.code_steps else f", by at most {check.code_steps}"
    return [
        check.layer,
        *filter(
            None,
            (
                check.module,
                f"{check.status}: planned {check.planned}, executed {check.executed or 'not known'}",
                share + steps,
                "" if check.time_s is None else f"{1e3 * check.time_s:.3g} ms",
                check.reason,
            ),
        ),
    ]


def _table(record: VerificationRecord) -> Markup:
    lines = [
        line(row, agreement.NUMERIC, class_=name, data_row=place)
        for place, (row, name) in enumerate(zip(agreement.rows(record), agreement.row_classes(record), strict=True))
    ]
    return sortable("check-table", agreement.COLUMNS, agreement.NUMERIC, lines, "layer, status ...", points=CODES)


def _layer_ticks(record: VerificationRecord) -> list[tuple[float, str]]:
    """The names of the layers, or of every so many of them where they are too many to read."""
    every = 1 + len(record.layers) // _NAMED_LAYERS
    return [(float(place), check.layer) for place, check in enumerate(record.layers) if place % every == 0]


def _made(record: VerificationRecord) -> Markup:
    info = record.info
    pairs = {
        "engine": f"{record.engine} {info.engine_version or ''}".strip(),
        "torch": info.torch or "",
        "task": record.task,
        "images": f"{record.images:,}" if record.images else "",
        "exported parts": ", ".join(info.parts or ()),
        "exporters": ", ".join(info.exporters or ()),
        "not exported": ", ".join(info.not_exported or ()),
        "not run by the task": ", ".join(info.not_reached or ()),
        "scheme": ", ".join(f"{pattern}: {recipe or 'float'}" for pattern, recipe in info.scheme or ()),
    }
    return described((name, text) for name, text in pairs.items() if text)
