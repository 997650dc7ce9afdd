"""What tasks on made images share: batches, how many of them were predicted, and a hash of the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from torch import Tensor

from sensitivity.contracts import Batch


class TensorTask:
    """Images as one tensor; a subclass predicts and scores, and counts in ``passes`` the batches that it predicted."""

    unit = "%"
    higher_is_better = True

    def __init__(self, inputs: Tensor, *, batch_size: int) -> None:
        self.inputs = inputs
        self.batch_size = batch_size
        self.passes = 0

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        positions = list(range(len(self)) if images is None else images)
        for start in range(0, len(positions), self.batch_size):
            some = positions[start : start + self.batch_size]
            yield Batch((self.inputs[some],), tuple(some))

    def digest(self) -> str:
        return hashlib.sha256(self.inputs.numpy().tobytes()).hexdigest()
