"""A task that scores a model by all bits of its outputs, so that two sweeps can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from sensitivity.contracts import Batch


class OutputBits:
    """The score is a number made of a hash of every floating-point output: equal scores are equal outputs.

    Args:
        inputs: One input of the model for each "image".
    """

    name = "outputs"
    metric = "bits"
    unit = ""
    higher_is_better = True

    def __init__(self, inputs: Sequence[Any]) -> None:
        self._inputs = list(inputs)

    def __len__(self) -> int:
        return len(self._inputs)

    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        """Each input is a batch."""
        for position in range(len(self)) if images is None else images:
            yield Batch((self._inputs[position],), (position,))

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        """The hash of the outputs, and whether all of them are finite."""
        outputs = [leaf for leaf in tree_leaves(model(*batch.inputs)) if isinstance(leaf, torch.Tensor)]
        digest = hashlib.sha256()
        for output in outputs:
            digest.update(output.detach().float().contiguous().numpy().tobytes())
        finite = all(bool(output.isfinite().all()) for output in outputs)
        return [{"bits": int.from_bytes(digest.digest()[:6], "big"), "finite": finite}]

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        """The sum of all hashes, exact in float64, and how many images have finite outputs."""
        return {
            "bits": float(sum(prediction["bits"] for prediction in predictions.values())),
            "finite": float(sum(prediction["finite"] for prediction in predictions.values())),
        }

    def digest(self) -> str:
        """By the inputs."""
        digest = hashlib.sha256()
        for tensor in self._inputs:
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()
