"""Panoptic quality through a loader: torchmetrics scores it, and a count by hand agrees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.detection import PanopticQuality

import sensitivity as sv
from sensitivity.tasks.connectors.panoptic import PanopticMaps

THING, STUFF = 0, 1


class Painter(nn.Module):
    """Gives the left half of an image back as one thing, and the rest as stuff; a layer scales what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Conv2d(2, 2, 1, bias=False)
        with torch.no_grad():
            self.scale.weight.copy_(torch.eye(2)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(x)


def pairs(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.round().long().movedim(1, -1)


def scene(columns: int) -> Tensor:
    """(2, 4, 8) class and instance: a thing of so many columns on the left, stuff behind it."""
    image = torch.zeros(2, 4, 8)
    image[0, :, columns:] = STUFF
    image[1, :, :columns] = 5
    return image


@pytest.fixture
def task() -> sv.LoaderTask:
    images = torch.stack([scene(4), scene(4)])
    targets = torch.stack([scene(4), scene(6)]).long().movedim(1, -1)
    metric = PanopticQuality(things={THING}, stuffs={STUFF})
    return sv.LoaderTask([(images[i : i + 1], targets[i : i + 1]) for i in range(2)], metric=metric, adapter=pairs)


def predicted(task: sv.LoaderTask, model: nn.Module) -> dict[int, Any]:
    with torch.no_grad():
        return {
            image: prediction
            for batch in task.batches()
            for image, prediction in zip(batch.images, task.predict(model, batch), strict=True)
        }


def test_panoptic_quality_is_that_of_a_count_by_hand(task: sv.LoaderTask) -> None:
    """Of the second image the thing has an IoU of 4/6, a match, and the stuff 2/4, which is none."""
    by_hand = ((1 + 4 / 6) / 2 + 1 / (1 + 0.5 + 0.5)) / 2
    assert task.unit == "%"
    assert task.score(predicted(task, Painter()))["PanopticQuality"] == pytest.approx(by_hand, abs=1e-6)


def test_a_sweep_judges_layers_by_panoptic_quality(task: sv.LoaderTask) -> None:
    wrapped = sv.wrap(Painter().eval(), scene(4)[None])
    pruned = wrapped.evaluate(task, sv.Scheme.all(sv.Prune(0.75)))
    [row] = wrapped.analyze(task, sv.Prune(0.75), intervals=False, progress=False).measurements
    assert row.score == pruned.value < wrapped.evaluate(task, sv.Scheme()).value


class Processor:
    """Stands in for one of transformers."""

    def to_json_string(self) -> str:
        return "{}"

    def post_process_panoptic_segmentation(
        self, outputs: Any, target_sizes: Any, **thresholds: float
    ) -> list[dict[str, Any]]:
        assert target_sizes == [(2, 3)]
        assert thresholds == {"threshold": 0.2, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.8}
        info = [{"id": 1, "label_id": 7, "score": 0.9}, {"id": 2, "label_id": 4, "score": 0.8}]
        return [{"segmentation": torch.tensor([[1, 1, 0], [2, -1, 0]]), "segments_info": info}]


def test_pixels_of_a_processor_s_segments_have_their_class_and_others_none() -> None:
    maps = PanopticMaps(Processor(), threshold=0.2)(None, torch.zeros(1, 2, 3, 2))
    assert maps[..., 0].tolist() == [[[7, 7, -1], [4, -1, -1]]]
    assert maps[..., 1].tolist() == [[[1, 1, 0], [2, -1, 0]]]
    assert repr(PanopticMaps(Processor())) != repr(PanopticMaps(Processor(), threshold=0.2))
