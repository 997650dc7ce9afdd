"""A made-up detector on kinds of objects that are as rare as LVIS's: AP, and a sweep of which some images are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sensitivity.contracts import Batch

NEVER = -np.inf


class RareKinds:
    """AP, the mean over kinds that the images show; how often a kind is shown falls as one over its rank (Zipf's law).

    A prediction is the number of a layer, 0 for none perturbed: what the network finds then is known beforehand.
    """

    name, metric, unit, higher_is_better = "rare kinds", "AP", "%", True

    def __init__(self, *, images: int, kinds: int, layers: int) -> None:
        draw = np.random.default_rng(0)
        self.images, self.kinds = images, kinds
        chance = 1 / np.arange(1, kinds + 1)
        shown = np.repeat(np.arange(images), 1 + draw.poisson(6, images))
        of_kind = draw.choice(kinds, len(shown), p=chance / chance.sum())
        pairs = np.unique(shown * kinds + of_kind)
        self.shown, self.of_kind = pairs // kinds, pairs % kinds
        counts = draw.geometric(0.5, len(pairs))
        self.object_images, self.object_kinds = np.repeat(self.shown, counts), np.repeat(self.of_kind, counts)
        is_found = draw.random(len(self.object_images)) < 0.8
        wrong = draw.random(3 * images) < 0.7
        self.found_images = np.concatenate(
            [self.object_images[is_found], *[self.shown] * 2, np.arange(3 * images) // 3]
        )
        self.found_kinds = np.concatenate(
            [self.object_kinds[is_found], *[self.of_kind] * 2, draw.integers(0, kinds, 3 * images)]
        )
        self.right = np.arange(len(self.found_images)) < is_found.sum()
        harder = draw.normal(0, 0.6, kinds)
        scores = np.where(self.right, 1.2 - harder[self.found_kinds], 0) + draw.standard_normal(len(self.right))
        scores[len(scores) - len(wrong) :][~wrong] = NEVER
        self.scores = [scores]
        for layer in range(layers):
            damages = 0.5 * (layer + 1) / layers * draw.gamma(0.5, 2.0, images)[self.found_images]
            moved = scores + 2 * damages * draw.standard_normal(len(scores))
            self.scores.append(np.where(draw.random(len(scores)) < 0.3 * damages, NEVER, moved))
        self.orders = [np.lexsort((-scores, self.found_kinds)) for scores in self.scores]

    def __len__(self) -> int:
        return self.images

    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        raise NotImplementedError

    def predict(self, model: Any, batch: Batch) -> list[Any]:
        raise NotImplementedError

    def digest(self) -> str:
        return "rare kinds"

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        return {"AP": self.scores_without(predictions, [()])[0]}

    def scores_without(self, predictions: Mapping[int, Any], groups: Sequence[Sequence[int]]) -> list[float]:
        (layer,) = set(predictions.values())
        images = np.isin(np.arange(self.images), list(predictions))
        order = self.orders[layer]
        order = order[images[self.found_images[order]] & (self.scores[layer][order] > NEVER)]
        objects = images[self.object_images]
        of_objects = self.object_images[objects], self.object_kinds[objects]
        of_found = self.found_images[order], self.found_kinds[order], self.right[order]
        return [self._score(np.isin(np.arange(self.images), list(group)), of_objects, of_found) for group in groups]

    def images_by_kind(self, predictions: Mapping[int, Any]) -> list[int]:
        predicted = np.isin(self.shown, list(predictions))
        counts = np.bincount(self.of_kind[predicted], minlength=self.kinds)
        return counts[np.bincount(self.of_kind, minlength=self.kinds) > 0].tolist()

    def _score(self, gone: Any, of_objects: Any, of_found: Any) -> float:
        images, kinds = of_objects
        objects = np.bincount(kinds[~gone[images]], minlength=self.kinds)
        images, kinds, right = of_found
        counts = ~gone[images] & (objects[kinds] > 0)
        kinds, right = kinds[counts], right[counts]
        first = np.searchsorted(kinds, np.arange(self.kinds))
        hits = np.concatenate([[0], np.cumsum(right)])
        precision = (hits[1:] - hits[first][kinds]) / (np.arange(len(kinds)) - first[kinds] + 1)
        # the best precision from predicted to the end of the kind: kinds further on are lifted less
        lift = 2.0 * (self.kinds - kinds)
        best = np.maximum.accumulate((precision + lift)[::-1])[::-1] - lift
        average = np.bincount(kinds[right], weights=best[right], minlength=self.kinds)
        return float((average[objects > 0] / objects[objects > 0]).mean())


class Known:
    """Results of a sweep that has run on some of the images; a variant is the number of its layer."""

    def __init__(self, images: Sequence[int]) -> None:
        self.images = tuple(images)

    def images_of(self, variant: int) -> tuple[int, ...]:
        return self.images

    def expected(self, images: Sequence[int] | None = None) -> dict[int, int]:
        return dict.fromkeys(self.images if images is None else images, 0)

    def changed(self, variant: int) -> dict[int, int]:
        return dict.fromkeys(self.images, variant)

    def failure(self, variant: int) -> None:
        return None
