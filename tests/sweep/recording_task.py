"""A task for any model: predictions are the raw outputs, the score is how far they are from the first ones seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sensitivity.contracts import Batch
from sensitivity.contracts.task import arguments_of
from sensitivity.layers.trace.inputs import tensors_in


class RecordingTask:
    """Runs the model on fixed inputs; one pseudo image a batch."""

    name = "outputs"
    metric = "mean"
    unit = ""
    higher_is_better = True

    def __init__(self, inputs: Sequence[Any]) -> None:
        self.inputs = list(inputs)
        self.fail_on: Callable[[list[np.ndarray]], bool] = lambda outputs: False

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        for number in range(len(self)) if images is None else images:
            args, kwargs = arguments_of(self.inputs[number])
            yield Batch(args, (number,), kwargs)

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        output = model(*batch.inputs, **batch.context)
        arrays = [tensor.detach().to(torch.float64).numpy().copy() for tensor in tensors_in(output)]
        if self.fail_on(arrays):
            raise RuntimeError("out of luck")
        return [{"outputs": arrays}]

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        arrays = [a for p in predictions.values() for a in p["outputs"] if a.size]
        return {"mean": float(np.mean([a.mean() for a in arrays]))}

    def digest(self) -> str:
        return "recording"
