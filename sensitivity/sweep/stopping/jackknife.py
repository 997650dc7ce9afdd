"""Intervals of drops by leaving groups of images out: for any metric, also one that is no mean, such as mAP.

The images are dealt into groups; baseline and perturbed model are scored without each group in turn, on the same
images, so that what makes an image hard cancels out. How much the drop moves says how much it would move on other
images.

Source: delete-a-group jackknife, Kott, "The delete-a-group jackknife", Journal of Official Statistics 17, 2001; for
statistics that are not smooth, Shao and Tu, "The Jackknife and Bootstrap", 1995, chapter 2.3. Quantiles of Student's t:
expansion of Fisher and Cornish, "The percentile points of distributions having known cumulants", 1960.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sensitivity.contracts import LeavesOut, Task

GROUPS = 20
GROUPS_OF_A_STOP = 40  # more cost scores and save images: intervals are 12 % shorter at the levels that a stop needs
FEWEST_IMAGES = 8  # below it, the spread of so few groups says nothing
ROUNDING = 1e-12  # a spread below it is that of last bits: nothing seen has moved the drop, and nothing is known of it


def deal(images: Sequence[int], groups: int = GROUPS) -> list[list[int]]:
    """Images dealt in turn into so many groups, or as many as there are images."""
    count = min(groups, len(images))
    return [list(images[start::count]) for start in range(count)]


def scores_without(task: Task, predictions: Mapping[int, Any], groups: Sequence[Sequence[int]]) -> list[float]:
    """The task's metric over the images predicted less each group of them."""
    if isinstance(task, LeavesOut):
        return task.scores_without(predictions, groups)
    scores = []
    for group in map(set, groups):
        remaining = {image: prediction for image, prediction in predictions.items() if image not in group}
        scores.append(task.score(remaining)[task.metric])
    return scores


def standard_error(drops: ArrayLike) -> float:
    """Standard error of a drop from what it is without each group.

    Args:
        drops: (G,) drops, each without one of the groups. NaN if one of them is.
    """
    values = np.asarray(drops, np.float64)
    count = len(values)
    return float(np.sqrt((count - 1) / count * np.square(values - values.mean()).sum()))


def half_width(drops_without: Sequence[float], level: float) -> float | None:
    """How far an interval reaches to either side of a drop, for other images of the same kind.

    Args:
        drops_without: (G,) what the drop is without each of the groups.
        level: Share of such intervals that hold the truth, below 1.

    Returns:
        The distance, NaN where the metric is no number without some group; None where no group moves the drop.
    """
    error = standard_error(drops_without)
    return None if error <= ROUNDING else error * student_quantile(level, len(drops_without) - 1)


def student_quantile(level: float, freedom: int) -> float:
    """How many standard errors an interval reaches to either side.

    Args:
        level: Share of such intervals that hold the truth, below 1.
        freedom: Degrees of freedom, at least 7. Within 2 % of the exact value there, for levels up to 0.9999.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom ** (power + 1) for power, term in enumerate(terms))
