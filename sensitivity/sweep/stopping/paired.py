"""The interval of one drop, from the predictions of two models on the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sensitivity.contracts import Task
from sensitivity.sweep.stopping.jackknife import FEWEST_IMAGES, groups_and_halves, half_width, scores_of_parts


def drop_interval(
    task: Task, baseline: Mapping[int, Any], predictions: Mapping[int, Any], *, drop: float, level: float = 0.95
) -> tuple[float, float] | None:
    """Ends of the interval of a drop for other images of the same kind.

    Args:
        task: What scores the predictions.
        baseline: Predictions of the float model by image.
        predictions: Those of the quantized model, on the same images.
        drop: The drop over all images.
        level: Share of such intervals that hold the truth.

    Returns:
        Lower and upper end; None where there are fewer than 8 images, or none of them moves the drop, or the metric is
        no number without some of them.
    """
    if len(baseline) < FEWEST_IMAGES:
        return None
    parts = groups_and_halves(task, baseline)
    before, after = (scores_of_parts(task, each, parts) for each in (baseline, predictions))
    # as wide for either sign: which direction is better does not matter
    _, without, shifts = parts.read([b - a for b, a in zip(before, after, strict=True)])
    half = half_width(without, level, shifts)
    return None if half is None or math.isnan(half) else (drop - half, drop + half)
