"""What a sweep will cost, told before it runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sensitivity as sv
from sensitivity.errors import TaskError
from tests.sweep.mean_task import Chain, MeanTask


@pytest.fixture
def wrapped() -> sv.Wrapped:
    return sv.wrap(Chain().eval(), MeanTask(1).inputs)


def test_variants_images_and_passes_are_told(wrapped: sv.Wrapped) -> None:
    found = wrapped.explain(MeanTask(40), [sv.INT4_WEIGHTS, sv.INT8_WEIGHTS])
    assert (found.variants, found.images, found.batch_images, found.naive_passes) == (8, 40, 4, 9)
    assert 0 < found.pass_s < found.seconds
    assert found.kept_bytes > 0
    assert found.passes > 1
    assert "8 variants on 40 images" in str(found)
    assert wrapped.explain(MeanTask(40), sv.INT4_WEIGHTS, layers="stem:0:0").variants == 1
    assert wrapped.explain(MeanTask(40), sv.INT4_WEIGHTS, memory_limit=0).kept_bytes < found.kept_bytes


def test_the_first_batch_alone_is_run_and_nothing_is_left_behind(wrapped: sv.Wrapped) -> None:
    seen: list[Any] = []

    class Watched(MeanTask):
        def predict(self, model: Any, batch: Any) -> list[Any]:
            seen.append(batch.images)
            return super().predict(model, batch)

    before = {name: value.clone() for name, value in wrapped.model.state_dict().items()}
    wrapped.explain(Watched(40), sv.INT4_WEIGHTS)
    assert set(seen) == {(0, 1, 2, 3)}
    assert all(torch.equal(value, before[name]) for name, value in wrapped.model.state_dict().items())


def test_a_model_that_cannot_be_replayed_is_said_to_run_in_full() -> None:
    class Noisy(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x + torch.rand_like(x))

    found = sv.wrap(Noisy().eval(), MeanTask(1).inputs).explain(MeanTask(8), sv.INT4_WEIGHTS)
    assert "random" in found.notes[0]
    assert found.kept_bytes == 0


def test_no_images_is_an_error(wrapped: sv.Wrapped) -> None:
    with pytest.raises(TaskError, match="no images"):
        wrapped.explain(MeanTask(0), sv.INT4_WEIGHTS)
