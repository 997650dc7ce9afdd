"""Which category of the annotation file a label of an adapter means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from sensitivity.errors import TaskError
from sensitivity.tasks.annotations.segmentations import whole_number

Labels: TypeAlias = str | Sequence[int] | Mapping[int, int]


def label_table(labels: Labels, category_ids: Sequence[int]) -> dict[int, int]:
    """Category id of each label that an adapter may give."""
    if isinstance(labels, str) and labels == "category_id":
        return {category: category for category in category_ids}
    if isinstance(labels, Mapping):
        table = dict(zip(labels, _listed_ids(list(labels.values())), strict=True))
    else:
        listed = category_ids if isinstance(labels, str) and labels == "index" else _listed_ids(labels)
        table = dict(enumerate(listed))
    unknown = sorted(set(table.values()) - set(category_ids))
    if unknown:
        raise TaskError(f"labels= has the category ids {unknown[:5]}, which the annotation file does not know.")
    return table


def _listed_ids(labels: Labels) -> list[int]:
    """The category ids that somebody listed, also in an array.

    Raises:
        TaskError: If they are something else.
    """
    listed = [] if isinstance(labels, str) else [whole_number(label) for label in np.asarray(labels).tolist()]
    numbers = [number for number in listed if number is not None]
    if not numbers or len(numbers) < len(listed):
        raise TaskError(f"labels={labels!r} is unknown. Choose 'index', 'category_id' or a sequence of category ids.")
    return numbers
