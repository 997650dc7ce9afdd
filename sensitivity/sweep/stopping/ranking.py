"""Which layers are the worst: places that are known before the drops are.

The layers of the largest drops are told from the others at a cut halfway between the two groups, as far as they are
known. A layer is on the wrong side of the cut with some chance, and all chances together are the chance that the answer
is wrong. So a layer far from the cut needs few images whatever its drop is, and leaves its share of the error to those
beside the cut. Layers within the tolerance need not be told apart: a taken layer may lie half of it below the cut, and
one that is left out half of it above, so that no layer left out is worse than a taken one by more than the tolerance.

Source: a cut between the best m designs and the others, Chen, He, Fu and Lee, "Efficient simulation budget allocation
for selecting an optimal subset", INFORMS Journal on Computing 20, 2008; an indifference zone and the sum of the chances
of its single errors, Branke, Chick and Schmidt, "Selecting a selection procedure", Management Science 53, 2007.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Status = Literal["undecided", "below", "above", "narrow", "top", "not-top"]


class Reach(Protocol):
    """How far a drop may be from its estimate."""

    def chance(self, distance: float) -> float:
        """Chance that the drop lies further than this to one given side of its estimate, at any look so far.

        Args:
            distance: Not negative, in the unit of the drop.
        """


@dataclass(frozen=True, slots=True)
class StudentReach:
    """Of a drop with a standard error, looked at a number of times.

    Attributes:
        standard_error: In the unit of the drop.
        freedom: Degrees of freedom of Student's t.
        looks: Every look has its own chance to be wrong.
    """

    standard_error: float
    freedom: int
    looks: int

    def chance(self, distance: float) -> float:
        """See ``Reach``."""
        from scipy.special import stdtr

        return min(1.0, self.looks * float(stdtr(self.freedom, -distance / self.standard_error)))


@dataclass(frozen=True, slots=True)
class BoundaryReach:
    """Of a sum that a boundary for Brownian motion holds at every look from the first one on; see ``race.bounds``.

    Attributes:
        standard_error: In the unit of the drop.
        since_first: Time over the time of the first look, at least 1.
        unwatched: Standard errors that a sum which is looked at in steps overshoots the boundary by.
    """

    standard_error: float
    since_first: float
    unwatched: float

    def chance(self, distance: float) -> float:
        """See ``Reach``; of either side, which is more."""
        height = distance / self.standard_error + self.unwatched
        return chance_of_straying(math.sqrt(max(0.0, height**2 - math.log(self.since_first))))

    def half_width(self, error: float) -> float:
        """How far an interval reaches that excludes the drop at any look with this chance."""
        height = math.sqrt(boundary_at_first(error) ** 2 + math.log(self.since_first))
        return self.standard_error * (height - self.unwatched)


def chance_of_straying(height: float) -> float:
    """Chance that a Brownian motion W(t) is ever beyond sqrt(t (height^2 + log(t / t0))) after t0, to either side.

    Source: Robbins, "Statistical methods related to the law of the iterated logarithm", 1970.
    """
    density = math.exp(-(height**2) / 2) / math.sqrt(2 * math.pi)
    return math.erfc(height / math.sqrt(2)) + 2 * height * density


@functools.cache
def boundary_at_first(error: float) -> float:
    """The height at which ``chance_of_straying`` is the error, by bisection: it falls with the height."""
    low, high = 0.0, 40.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if chance_of_straying(middle) > error:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True, slots=True)
class Estimate:
    """A drop as far as it is known.

    Attributes:
        drop: Estimate, NaN before the first image; exact once all images are seen.
        low: Lower bound, minus infinity where nothing can be said yet.
        high: Upper bound, plus infinity where nothing can be said yet.
        images: Images it rests on.
        status: What `Confidence.verdict` says of it; ``undecided`` below the minimum of images; ``top`` or ``not-top``
            where its place among the others is known (see ``place_in_ranking``).
        without: The drop without each group of images, where the bounds come from leaving groups of all images out.
        shifts: The shifts of the drop where the images are halved, likewise; see ``jackknife.Parts.read``.
        reach: How far the drop may be from it; None where all images are seen, or nothing can be said yet.
    """

    drop: float
    low: float
    high: float
    images: int
    status: Status
    without: tuple[float, ...] = ()
    shifts: tuple[float, ...] = ()
    reach: Reach | None = None

    def chance_beyond(self, distance: float) -> float:
        """Chance that the drop lies further than this to one given side of the estimate."""
        if self.reach is not None:
            return self.reach.chance(distance)
        return 0.0 if self.low == self.high else 1.0


def place_in_ranking(estimates: Sequence[Estimate], top: int, *, tolerance: float, error: float) -> list[Estimate]:
    """The same estimates; those whose place is known say whether they are among the largest.

    Layers leave in the order of how sure their places are, as long as these are wrong with no more than their share of
    the error. What they do not use is left to the others. A layer that has left is among the largest, or is not, as the
    estimates of all layers say now. While the drop of one is not a number, no place is known.

    Args:
        estimates: Drops of all layers that are compared.
        top: How many are asked for.
        tolerance: A layer that is left out may be worse than one that is taken by so much, in the unit of the drops.
        error: Chance that the answer is wrong by more.
    """
    drops = np.array([estimate.drop for estimate in estimates])
    if np.isnan(drops).any():
        return list(estimates)
    taken = np.zeros(len(drops), bool)
    taken[np.argsort(-drops, kind="stable")[:top]] = True
    known = np.array([estimate.status != "undecided" for estimate in estimates])
    known |= _settled(_wrong(estimates, drops, taken, tolerance), error)
    return [
        replace(estimate, status=("top" if is_taken else "not-top") if is_known else "undecided")
        for estimate, is_taken, is_known in zip(estimates, taken.tolist(), known.tolist(), strict=True)
    ]


def _wrong(
    estimates: Sequence[Estimate], drops: NDArray[np.float64], taken: NDArray[np.bool_], tolerance: float
) -> NDArray[np.float64]:
    """(L,) chances that a layer is on the wrong side of the cut by more than half the tolerance."""
    if taken.all():
        return np.zeros(len(drops))
    cut = (drops[taken].min() + drops[~taken].max()) / 2
    distances = np.abs(drops - cut) + tolerance / 2
    pairs = zip(estimates, distances.tolist(), strict=True)
    return np.array([estimate.chance_beyond(distance) for estimate, distance in pairs])


def _settled(wrong: NDArray[np.float64], error: float) -> NDArray[np.bool_]:
    """(L,) which layers may leave: the surest ones, as many as stay within their share of the error together."""
    surest = np.argsort(wrong, kind="stable")
    within = np.cumsum(wrong[surest]) <= error * np.arange(1, len(wrong) + 1) / len(wrong)
    settled = np.zeros(len(wrong), bool)
    settled[surest[: np.flatnonzero(within).max(initial=-1) + 1]] = True
    return settled
