"""Predictions are kept in memory of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import Batch
from sensitivity.errors import SuspiciousPredictionsWarning
from sensitivity.score import settled
from tests.sweep.recording_task import RecordingTask


class NotCopied(RecordingTask):
    """Gives the memory of the model's outputs away as it is."""

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        return [{"outputs": [model(*batch.inputs).numpy()]}]


class Net(nn.Module):
    """Four layers, whose output lies in a buffer or in its input."""

    def __init__(self, *, into_buffer: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
        self.into_buffer = into_buffer
        self.register_buffer("out", torch.zeros(1, 3, 8, 8), persistent=False)

    def forward(self, x: Tensor) -> Any:
        y = x
        for layer in self.layers:
            y = layer(y).relu()
        return torch.mul(y, 2, out=self.out) if self.into_buffer else x.add_(y)


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("into_buffer", [False, True])
def test_outputs_in_memory_that_is_used_again_are_not_lost(into_buffer: bool, replay: bool) -> None:
    images = [torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    wrapped = sv.wrap(Net(into_buffer=into_buffer).eval(), images[0])
    expected, with_score = (
        wrapped.analyze(task([image.clone() for image in images]), sv.INT4_WEIGHTS, replay=replay, progress=False)
        for task in (RecordingTask, NotCopied)
    )
    drops = [[row.drop for row in study.measurements] for study in (expected, with_score)]
    assert drops[1] == pytest.approx(drops[0], abs=1e-6)
    assert all(abs(drop or 0.0) > 1e-8 for drop in drops[0])
    assert with_score.baseline.value == pytest.approx(expected.baseline.value, abs=1e-6)


class Suspicious(RecordingTask):
    """Finds something wrong with all predictions."""

    def suspicion(self, predictions: dict[int, Any]) -> str:
        return "the boxes are upside down"


@pytest.mark.parametrize("call", ["evaluate", "analyze"])
def test_a_warning_points_at_the_callers_own_line(call: str) -> None:
    wrapped = sv.wrap(Net(into_buffer=False).eval(), torch.randn(1, 3, 8, 8))
    settings = {"recipe": sv.INT4_WEIGHTS, "progress": False} if call == "analyze" else {}
    with pytest.warns(SuspiciousPredictionsWarning, match="upside down") as warned:
        getattr(wrapped, call)(Suspicious([torch.randn(1, 3, 8, 8)]), **settings)
    assert {warning.filename for warning in warned} == {__file__}


def test_arrays_are_copied_where_the_memory_is_not_their_own_or_lies_in_another_order() -> None:
    own, borrowed = np.arange(6.0).reshape(2, 3).copy(), torch.arange(6.0).numpy()
    assert settled({"a": [own]})["a"][0] is own
    for array in (borrowed, own.T, own[:, 1:], np.asfortranarray(own)):
        copied = settled(array)
        assert copied.flags.owndata
        assert copied.flags.c_contiguous
        np.testing.assert_array_equal(copied, array)
