"""Intervals of drops by leaving groups of images out: for any metric, also one that is no mean, such as mAP.

The images are dealt into groups; baseline and perturbed model are scored without each group in turn, on the same
images, so that what makes an image hard cancels out. How much the drop moves says how much it would move on other
images.

That is the error by chance alone. A mean over kinds of objects, some of them rare, also depends on how many images
there are: AP of a category with two objects is not what it is with two hundred. For a task that says so,
``MeanOverKinds``, the images are halved a few times, too. How far the mean drop of two halves lies from the drop of the
whole, its shift, says how the drop goes on with more images.

Source: delete-a-group jackknife, Kott, "The delete-a-group jackknife", Journal of Official Statistics 17, 2001; for
statistics that are not smooth, Shao and Tu, "The Jackknife and Bootstrap", 1995, chapter 2.3. Halves: repeated
half-samples, McCarthy, "Pseudo-replication: half samples", Review of the International Statistical Institute 37, 1969;
bias from them, Quenouille, "Notes on bias in estimation", Biometrika 43, 1956. Quantiles of Student's t:
expansion of Fisher and Cornish, "The percentile points of distributions having known cumulants", 1960.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from sensitivity.contracts import LeavesOut, MeanOverKinds, Task
from sensitivity.records.results.resampled import total_error

GROUPS = 20
GROUPS_OF_A_STOP = 40  # more cost scores and save images: intervals are 12 % shorter at the levels that a stop needs
HALVINGS = 10  # of five, which ones they are moves the coverage by two points where most kinds are rare
FEWEST_IMAGES = 8  # below it, the spread of so few groups says nothing
FEW_OF_A_KIND = 8  # images: half of them hold too few objects of the kind to tell how its AP or IoU goes on
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


@dataclass(frozen=True, slots=True)
class Parts:
    """The images of a sample in groups, and halved.

    Attributes:
        groups: The images of each group.
        halves: (H,) pairs of halves, each of whole groups, that are the sample together.
    """

    groups: list[list[int]]
    halves: list[tuple[list[int], list[int]]]

    @classmethod
    def of(cls, images: Sequence[int], groups: int = GROUPS, halvings: int = 0) -> Parts:
        """So many groups as ``deal`` gives, and so many halvings of them at random, the same every time."""
        dealt, draw, halves = deal(images, groups), np.random.default_rng(0), []
        for _ in range(halvings):
            order = draw.permutation(len(dealt)).tolist()
            cut = len(order) // 2
            first, second = ([image for group in some for image in dealt[group]] for some in (order[:cut], order[cut:]))
            halves.append((first, second))
        return cls(dealt, halves)

    @property
    def left_out(self) -> list[Sequence[int]]:
        """What ``scores_without`` leaves out for ``read``: nothing, each group, each half."""
        return [(), *self.groups, *(half for pair in self.halves for half in pair)]

    def read(self, values: Sequence[float]) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
        """The value of all images, the values without each group, and the shifts.

        A shift is the mean of the values of two halves, weighed by their images, less the value of all. Halves on which
        the metric is no number, as they hold no object, tell nothing; if none tells anything, the shifts are (NaN,).

        Args:
            values: Of all images less each of ``left_out``, in that order.
        """
        whole, without, of_halves = values[0], values[1 : 1 + len(self.groups)], values[1 + len(self.groups) :]
        shifts = []
        for (first, second), without_first, without_second in zip(
            self.halves, of_halves[::2], of_halves[1::2], strict=True
        ):
            mean = (len(second) * without_first + len(first) * without_second) / (len(first) + len(second))
            shifts.append(mean - whole)
        finite = tuple(shift for shift in shifts if math.isfinite(shift))
        return whole, tuple(without), finite or ((math.nan,) if self.halves else ())


def scores_of_parts(task: Task, predictions: Mapping[int, Any], parts: Parts) -> list[float]:
    """The task's metric over the images predicted less each of ``parts.left_out``; NaN for halves that it fails on."""
    if isinstance(task, LeavesOut):
        return task.scores_without(predictions, parts.left_out)
    scores = scores_without(task, predictions, parts.left_out[: 1 + len(parts.groups)])
    for half in parts.left_out[1 + len(parts.groups) :]:
        try:
            scores += scores_without(task, predictions, [half])
        except Exception:  # noqa: BLE001 - a metric need not be defined on half the images; the groups tell what fails
            scores.append(math.nan)
    return scores


def growth(task: Task, predictions: Mapping[int, Any]) -> float:
    """How many times the shift of one halving may come on the way from a sample to the whole data set.

    A smooth metric's bias falls as one over the images: (1 - n / N) is left of it. That needs some images of each kind
    of object. A kind seen in fewer than ``FEW_OF_A_KIND`` is counted as if every doubling shifted it as much as the
    last one did, log2(N / n) times: where kinds are as many as in LVIS, each doubling brings others from one object to
    several. It is 0 for a task without such kinds.

    Args:
        task: Knows the kinds, and how many images there are.
        predictions: Of the sample.
    """
    counts = images_by_kind(task, predictions)
    if not counts:
        return 0.0
    few = sum(count < FEW_OF_A_KIND for count in counts) / len(counts)
    seen, whole = len(predictions), max(len(predictions), len(task))
    return (1 - few) * (1 - seen / whole) + few * math.log2(whole / seen)


def images_by_kind(task: Task, predictions: Mapping[int, Any]) -> Sequence[int]:
    """See ``MeanOverKinds``; empty for a task without such kinds."""
    return (task.images_by_kind(predictions) or ()) if isinstance(task, MeanOverKinds) else ()


def groups_and_halves(task: Task, predictions: Mapping[int, Any], groups: int = GROUPS) -> Parts:
    """The parts of the images predicted; halves only where the task has kinds that may be rare."""
    return Parts.of(list(predictions), groups, HALVINGS if images_by_kind(task, predictions) else 0)


def half_width(drops_without: Sequence[float], level: float, shifts: Sequence[float] = ()) -> float | None:
    """How far an interval reaches to either side of a drop, for other images of the same kind.

    Args:
        drops_without: (G,) what the drop is without each of the groups.
        level: Share of such intervals that hold the truth, below 1.
        shifts: Of the drop where the images are halved; see ``Parts.read``.

    Returns:
        The distance, NaN where the metric is no number without some group; None where no group moves the drop.
    """
    error = total_error(drops_without, shifts)
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
