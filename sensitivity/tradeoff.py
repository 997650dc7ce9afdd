"""Accuracy against size or latency, predicted and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sensitivity.advise.frontier import FrontierPoint, frontier, spread_out
from sensitivity.errors import StudyError
from sensitivity.records import Scheme, Score, StudyRecord
from sensitivity.records.arguments import checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@checked(StudyError)
def pareto(
    study: StudyRecord,
    *,
    against: Literal["size", "latency"] = "size",
    measured: Iterable[tuple[str, float, float | Score]] = (),
    measure: Callable[[Scheme], Score] | None = None,
    schemes: int = 5,
    max_drop: float | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Accuracy against size or latency: what is predicted, and what was measured; see ``report.figures.pareto``.

    The prediction adds up single drops, which is **not** true of real models: errors of several layers can cancel or
    amplify each other. ``measure`` tells how far off it is.

    Args:
        study: What was measured, one layer at a time.
        against: ``size``, or ``latency`` where ``Study.with_latency`` added times.
        measured: Label, bytes (or seconds) and score of each measured scheme; the score as ``wrapped.evaluate``
            returned it, or as a number in percent where the unit is ``%``.
        measure: Scores a scheme, e.g. ``lambda scheme: wrapped.evaluate(task, scheme)``; some of the best schemes of
            every recipe are then measured and drawn.
        schemes: How many of each recipe ``measure`` is called with.
        max_drop: The drop that is aimed at, in points where the unit is ``%``: drawn, and in the table the chance that
            a scheme misses it.
        path: Where to save it, ``.png``, ``.svg`` or ``.pdf``; None does not save.

    Returns:
        The figure. Its ``table`` is a DataFrame with a row for the best scheme at each cost: what is protected, the
        predicted score and drop with their interval, and what was measured.

    Raises:
        StudyError: If the study is ``all-but-one``, has no times where they are asked for, a number is not finite or
            out of range, or the file's ending is unknown.
    """
    from sensitivity.report.figures.pareto import pareto as draw
    from sensitivity.report.tables.frontier import frame

    if schemes < 1:
        raise StudyError(f"schemes={schemes}: measure 1 or more of each recipe.")
    if max_drop is not None and not 0.0 <= max_drop < inf:
        raise StudyError(f"max_drop={max_drop:g}: give a finite number, zero or more, e.g. 0.5.")
    of_recipes = {name: frontier(study, name, against, max_drop=max_drop) for name in study.recipes}
    chosen = [point for points in of_recipes.values() for point in spread_out(points, schemes)] if measure else []
    scores = {point.key: measure(point.scheme) for point in chosen} if measure else {}
    drawn = [(f"{point.recipe}, {len(point.protected)} protected", point.cost, scores[point.key]) for point in chosen]
    curves = {name: [(p.cost, p.drop, p.error) for p in points] for name, points in of_recipes.items() if points}
    picture = draw(study, curves, against, measured=[*measured, *drawn], max_drop=max_drop)
    every_point: list[FrontierPoint] = [point for points in of_recipes.values() for point in points]
    rows = [(point.scheme, point.cost, point.error, scores.get(point.key)) for point in every_point]
    picture.table = frame(study, rows, against)
    if path is not None:
        picture.write(path)
    return picture
