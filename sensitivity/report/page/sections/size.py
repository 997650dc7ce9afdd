"""Accuracy against size: what protecting the worst layers first is predicted to give, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sensitivity.records.results.tuned import TunedRecord
from sensitivity.report import style
from sensitivity.report.dip import sign_of
from sensitivity.report.page.document import Section
from sensitivity.report.page.points import Axis, Group, Mark, PointChart
from sensitivity.report.reading import Reading

CHART = "size"

Curves = Mapping[str, Sequence[tuple[float, float]]]
"""Recipe to bytes of all layers' parameters, and predicted drop, with more and more of the worst layers protected."""


def size_section(reading: Reading, curves: Curves, tuned: TunedRecord | None) -> Section:
    """The chart in a part of its own."""
    chart = size_chart(reading, curves, tuned)
    return Section("size", "Accuracy against size", chart.markup(), [chart])


def size_chart(reading: Reading, curves: Curves, tuned: TunedRecord | None) -> PointChart:
    """A predicted curve for each recipe, and a point for each step of the search.

    A share that is predicted to be below zero is left out: no score can be that low.

    Args:
        reading: What there is to show.
        curves: The predictions.
        tuned: A search of the same model and task; None for none.
    """
    groups = [
        Group(
            f"{name}, worst layers protected first (predicted by adding up single drops, which real models do not do)",
            style.SERIES_INKS[number % len(style.SERIES_INKS)],
            "circle",
            [
                mark
                for place, point in enumerate(curve)
                if (mark := _predicted(reading, name, place, *point)) is not None
            ],
            joined=True,
        )
        for number, (name, curve) in enumerate(curves.items())
    ]
    if tuned is not None:
        groups.append(Group("schemes that tune measured", style.ENGINE_INK, "diamond", _measured(tuned), large=True))
    metric = f"{reading.study.metric}{f' ({reading.study.unit})' if reading.study.unit else ''}"
    return PointChart(
        CHART,
        f"{metric} against the kilobytes of all layers' parameters",
        Axis("parameters (kB)"),
        Axis(metric, reversed=not reading.study.higher_is_better),
        groups,
    )


def _predicted(reading: Reading, recipe: str, protected: int, size: float, drop: float) -> Mark | None:
    study = reading.study
    score = study.baseline.value - sign_of(study) * drop
    if study.unit == "%" and study.higher_is_better and score < 0.0:
        return None
    return Mark(
        size / 1e3,
        score * study.scale,
        [
            f"{recipe}, {protected} layers protected",
            f"predicted drop {reading.shown(drop)}{reading.drop_unit}",
            _kb(size),
        ],
    )


def _measured(tuned: TunedRecord) -> list[Mark]:
    return [
        Mark(
            step.size_bytes / 1e3,
            step.score * tuned.scale,
            [step.what, f"{tuned.metric} {step.score * tuned.scale:.2f} {tuned.unit}".rstrip(), _kb(step.size_bytes)],
        )
        for step in tuned.steps
        if step.score is not None
    ]


def _kb(size: float) -> str:
    return f"{size / 1e3:,.1f} kB"
