"""Stop measuring a layer once its drop is known: intervals that hold whenever one stops.

A drop is a mean over instances: what each instance loses when the layer is perturbed, baseline minus perturbed. A
`Race` is fed these losses image by image, in an order of its own, and says for every layer what its drop is, between
which bounds, and whether that settles the question that `Confidence` asks. Drops are those of the data set at hand:
the bounds are about the number that a sweep over all images would print, and meet it when all images are seen.

The bounds are asymptotic confidence sequences: valid at every look at once, and for all layers together, in the limit
of many images. No bound without that limit can stop early enough to be of use; ``docs/concepts/intervals.md`` says
why, what the limit costs, and what a simulation with known truth finds. Metrics that are no mean, such as mAP, cannot
race: see ``jackknife.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sensitivity.errors import StudyError
from sensitivity.records.arguments import checked
from sensitivity.sweep.stopping.ranking import BoundaryReach, Estimate, Status, place_in_ranking

VIRTUAL_LOSS = 5  # in tolerances: the loss of one imagined image, so that no variance is estimated as zero
BETWEEN_LOOKS = 0.5826  # standard deviations that a random walk overshoots: -zeta(1/2) / sqrt(2 pi)
LARGEST_STEP = 10.0  # weight of the last images over the first: beyond it, a handful would carry the estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Confidence:
    """When a sweep may stop measuring a layer: how narrow its interval must be, and with which confidence.

    Attributes:
        tolerance: The drop that matters and the precision that suffices, in the unit people see: for ``analyze``, 0.5
            is half a point of a metric in percent. A ``Race`` by itself takes it in the unit of its losses.
        level: Chance that the intervals of **all** layers contain the drops at once, from 0.5 on.
        relative: Also measure drops beyond the tolerance, to this share of themselves: 0.2 is 20 %. None stops as soon
            as a drop is known to be beyond the tolerance.
        minimum_images: Say nothing on fewer images; more of them guard against rare heavy losses.
        seed: Of the order of the images.
        top: Ask which so many layers are the worst, instead of how large every drop is. A layer then stops when it is
            known to be one of them, or not to be. The tolerance is the indifference zone: with a chance of ``level``,
            no layer that is left out is worse than one that is taken by more than it. Each recipe has its own worst
            layers. Where a recipe has no more layers than that, they stop by their drops, as without it.

    Raises:
        StudyError: If a setting is out of range.
    """

    tolerance: float
    level: float = 0.95
    relative: float | None = None
    minimum_images: int = 64
    seed: int = 0
    top: int | None = None

    def __post_init__(self) -> None:
        level, relative, images = self.level, self.relative, self.minimum_images
        self._demand(is_number(level) and 0 < level < 1, "level", "a number between 0 and 1, e.g. 0.95")
        self._demand(
            level >= 0.5,
            "level",
            f"the chance that the intervals are right, e.g. 0.95; a chance of {level:g} that one is wrong is "
            f"level={1 - level:g}",
        )
        tolerates = is_number(self.tolerance) and 0 < self.tolerance < math.inf
        self._demand(tolerates, "tolerance", "a positive number, e.g. 0.5 for half a point")
        shares = relative is None or (is_number(relative) and 0 < relative < 1)
        self._demand(shares, "relative", "None or between 0 and 1, e.g. 0.2")
        self._demand(
            is_whole(images) and images >= 2, "minimum_images", "a whole number from 2 on: one image has no variance"
        )
        self._demand(is_whole(self.seed) and self.seed >= 0, "seed", "a whole number from 0")
        counted = self.top is None or (is_whole(self.top) and self.top >= 1)
        self._demand(counted, "top", "None or a whole number of layers from 1 on")

    def _demand(self, holds: bool, setting: str, expected: str) -> None:
        if not holds:
            raise StudyError(f"Confidence cannot use {setting}={getattr(self, setting)!r}. Give {expected}.")

    @checked(StudyError)
    def verdict(self, drop: float, low: float, high: float) -> Status:
        """What an interval settles.

        Args:
            drop: The estimate, in the unit of the tolerance: points of a metric in percent.
            low: Lower bound of the drop.
            high: Upper bound.

        Returns:
            ``below`` (drop at most the tolerance), ``above`` (beyond it), ``narrow`` (neither, but the interval reaches
            no further than the tolerance, or ``relative`` of the drop, to either side), or ``undecided``. Where the
            ``top`` layers are asked for, always the last: which these are, no interval tells by itself.
        """
        if self.top is not None:
            return "undecided"
        near = (high - low) / 2 <= max(self.tolerance, (self.relative or 0.0) * abs(drop))
        if self.relative is None or near:
            if high <= self.tolerance:
                return "below"
            if low > self.tolerance:
                return "above"
        return "narrow" if near else "undecided"


def with_places(stop: Confidence, estimates: Sequence[Estimate]) -> list[Estimate]:
    """The same estimates of layers that are compared, those decided whose places among the ``top`` are known."""
    if stop.top is None:
        return list(estimates)
    if len(estimates) <= stop.top:  # all of them are the worst: what is left to ask is how large their drops are
        sizes = replace(stop, top=None)
        return [
            replace(estimate, status=sizes.verdict(estimate.drop, estimate.low, estimate.high))
            if estimate.status == "undecided"
            else estimate
            for estimate in estimates
        ]
    return place_in_ranking(estimates, stop.top, tolerance=stop.tolerance, error=1 - stop.level)


def is_number(value: object) -> bool:
    """Whether a value is a real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


class Race:
    """Layers run until their drop is decided.

    Images are visited in a seeded random order in which, at each step, an image's chance to be next is its share of the
    instances that are left (sampling without replacement, proportional to size). So the mean loss within the next image
    is an unbiased guess of the mean loss of what is left, and images of many instances, which say more, come early.
    Images without instances are never visited.

    Args:
        layers: Names of the layers that race.
        counts: (N,) number of instances in each image of the data set; ones where the metric is a mean over images.
        confidence: When to stop.

    Attributes:
        confidence: When to stop.
        order: (V,) positions of the images to visit, in this order.

    Raises:
        StudyError: If there are no layers, two bear one name, counts are no whole numbers, or there is no instance.
    """

    def __init__(self, layers: Sequence[str], counts: ArrayLike, confidence: Confidence) -> None:
        if not layers or len(set(layers)) != len(layers):
            raise StudyError(f"a race needs layers of different names, given: {', '.join(layers) or 'none'}.")
        sizes = np.asarray(counts, dtype=np.float64)
        if sizes.ndim != 1 or not np.all((sizes >= 0) & (sizes == np.round(sizes))) or not sizes.any():
            raise StudyError(
                f"counts of shape {sizes.shape} cannot be raced over. Give one whole number of instances for each image"
                " of the data set, not all of them zero."
            )
        self.confidence = confidence
        self.order = weighted_shuffle(sizes, confidence.seed)
        self._sizes = sizes[self.order]
        self._first = min(confidence.minimum_images, len(self.order))
        self._error = (1 - confidence.level) / len(layers)
        self._losses = {layer: np.empty(0) for layer in layers}
        self._estimates = {layer: Estimate(math.nan, -math.inf, math.inf, 0, "undecided") for layer in layers}

    @property
    def running(self) -> tuple[str, ...]:
        """Layers that are not decided yet, in the order given."""
        return tuple(layer for layer, estimate in self._estimates.items() if estimate.status == "undecided")

    def add(self, layer: str, images: Sequence[int], losses: ArrayLike) -> Estimate:
        """Take in what a layer loses on its next images.

        Args:
            layer: Name of a layer that is still running.
            images: (B,) positions of the images: the next ones of ``order`` that this layer has not had.
            losses: (B,) for each image the **sum** over its instances of baseline minus perturbed.

        Returns:
            What is known of the layer's drop now.

        Raises:
            StudyError: If the layer is unknown or decided, the images are not the next ones, or a loss is not finite.
        """
        before = self.estimate(layer)
        if before.status != "undecided":
            raise StudyError(f"{layer} is decided ({before.status}) and takes no more images: feed race.running only.")
        new = np.asarray(losses, dtype=np.float64)
        looked_at = before.images + len(images)
        if not np.array_equal(self.order[before.images : looked_at], images):
            raise StudyError(
                f"{layer} was given the images {list(images)[:5]} after {before.images} others. The bounds hold in the"
                f" order of race.order alone; next are {self.order[before.images :][:5].tolist()}."
            )
        if new.shape != (len(images),) or not np.all(np.isfinite(new)):
            raise StudyError(
                f"{layer} has losses of shape {new.shape} for {len(images)} images, or one that is not finite. Give one"
                " finite sum for each image, and take a layer that fails out of the sweep."
            )
        self._losses[layer] = np.concatenate([self._losses[layer], new])
        self._estimates[layer] = self._judge(layer, len(new))
        return self._estimates[layer]

    def estimate(self, layer: str) -> Estimate:
        """What is known of a layer's drop.

        Raises:
            StudyError: If the layer is not in the race.
        """
        if layer not in self._estimates:
            raise StudyError(f"no layer {layer!r} in this race. It has: {', '.join(self._estimates)}.")
        return self._estimates[layer]

    def place(self, groups: Sequence[Sequence[str]] | None = None) -> None:
        """Stop the layers that are known to be among the ``top`` worst ones, or not to be; call it after a batch.

        Args:
            groups: Layers that are compared with each other; None compares all.
        """
        if self.confidence.top is None:
            return
        for group in groups or [list(self._estimates)]:
            estimates = [self._estimates[layer] for layer in group]
            self._estimates |= zip(group, with_places(self.confidence, estimates), strict=True)

    def _judge(self, layer: str, new: int) -> Estimate:
        losses, sizes = self._losses[layer], self._sizes[: len(self._losses[layer])]
        if len(losses) < self._first:
            drop = float(losses.sum() / sizes.sum()) if len(losses) else math.nan
            return Estimate(drop, -math.inf, math.inf, len(losses), "undecided")
        drop, reach = drop_and_reach(
            losses,
            sizes,
            float(self._sizes.sum()),
            first=self._first,
            last=new,
            virtual_loss=VIRTUAL_LOSS * self.confidence.tolerance,
        )
        half = reach.half_width(self._error) if reach else 0.0
        status = self.confidence.verdict(drop, drop - half, drop + half)
        return Estimate(drop, drop - half, drop + half, len(losses), status, reach=reach)


def weighted_shuffle(sizes: NDArray[np.float64], seed: int) -> NDArray[np.intp]:
    """Positions in random order, each step drawing among those left with chances proportional to size.

    Args:
        sizes: (N,) not negative; positions of size zero are left out.
        seed: The same seed gives the same order.

    Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006: ascending exponential/size.
    """
    keys = np.random.default_rng(seed).exponential(size=len(sizes))
    drawn = np.flatnonzero(sizes)
    return drawn[np.argsort(keys[drawn] / sizes[drawn], kind="stable")]


def drop_and_reach(
    losses: NDArray[np.float64],
    sizes: NDArray[np.float64],
    total: float,
    *,
    first: int,
    last: int,
    virtual_loss: float,
) -> tuple[float, BoundaryReach | None]:
    """Estimate of a mean loss per instance at one look of many, and how far the mean may be from it.

    Before image s, let W be the instances left and C the losses summed so far. The mean loss Z of the next image, loss
    over size, has the mean of what is left as its expectation, (total * drop - C) / W. So at the true drop the sums of
    step * (Z - (total * drop - C) / W) are a martingale, if each step is chosen before its image; the drop at which the
    sum is zero is the estimate, and a boundary for Brownian motion says how far a martingale strays.

    Args:
        losses: (t,) sums over the instances of the images seen, in the order of `weighted_shuffle`.
        sizes: (t,) their numbers of instances.
        total: Instances of the whole data set.
        first: Images at the first look, at most t.
        last: Images since the look before this one, at most t.
        virtual_loss: Mean loss of one imagined image that is added to the variance.

    Returns:
        The estimate, and its reach; None once every instance is seen, when it is exact.

    Source: estimator, Raj, "Some estimators in sampling with varying probabilities without replacement", 1956;
    estimated variance in a boundary for Brownian motion, Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
    "Time-uniform central limit theory and asymptotic confidence sequences", 2024; looks that are apart, Siegmund,
    "Corrected diffusion approximations in certain random walk problems", 1979.
    """
    if sizes.sum() == total:
        return float(losses.sum() / total), None
    left = total - np.concatenate([[0.0], np.cumsum(sizes)[:-1]])
    before = np.concatenate([[0.0], np.cumsum(losses)[:-1]])
    means = losses / sizes
    steps = np.minimum(total / left, LARGEST_STEP)
    slope = float((steps * total / left).sum())
    drop = float((steps * (means + before / left)).sum()) / slope
    time = float((steps**2).sum())
    spread = float((steps**2 * (means - drop) ** 2).sum()) / time * len(losses) / (len(losses) - 1)
    variance = spread + virtual_loss**2 / len(losses)
    return drop, BoundaryReach(
        standard_error=math.sqrt(variance * time) / slope,
        since_first=time / float((steps[:first] ** 2).sum()),
        unwatched=BETWEEN_LOOKS * math.sqrt(float((steps[-last:] ** 2).sum()) / time),
    )
