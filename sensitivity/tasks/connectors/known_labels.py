"""Predictions of the classes that a data set has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sensitivity.tasks.datasets import as_array


@dataclass(frozen=True)
class OfKnownLabels:
    """An adapter whose predictions of classes that a data set does not have are left out: nothing can match them.

    Attributes:
        adapter: Makes predictions of raw outputs.
        labels: The labels that the data set has.
    """

    adapter: Callable[..., Any]
    labels: tuple[int, ...]

    def __call__(self, outputs: Any, sizes: Sequence[Any]) -> list[dict[str, Any]]:
        """The adapter's predictions of these labels, one dict for each image."""
        return [self._kept(prediction) for prediction in self.adapter(outputs, sizes)]

    def _kept(self, prediction: Mapping[str, Any]) -> dict[str, Any]:
        known = np.flatnonzero(np.isin(as_array(prediction["labels"]), self.labels))
        masks = {key: [prediction[key][i] for i in known] for key in prediction if key == "masks"}
        return {key: as_array(value)[known] for key, value in prediction.items() if key != "masks"} | masks
