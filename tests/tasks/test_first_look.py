"""Wrong adapters are told from their first predictions, and weak or random detectors are not blamed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import SuspiciousPredictionsWarning
from sensitivity.tasks.coco import CocoDetection
from sensitivity.tasks.datasets import Resize
from tests.tasks.made_scenes import (
    Recall,
    Scenes,
    adapter,
    annotation,
    predict_all,
    truth_as_output,
    write_scenes,
)

SIZES = [(60, 80), (50, 90), (120, 100), (64, 48)]
RESIZE = Resize(height=40, width=32)
FITTED = Resize(height=40, width=32, keep_aspect=True)


@pytest.fixture
def many(tmp_path: Path) -> Scenes:
    """Four images with eight objects each, in three categories."""
    draw = np.random.default_rng(0)
    objects = []
    for image, (height, width) in enumerate(SIZES):
        for _ in range(8):
            low, sides = draw.uniform(0, 0.5, 2) * (width, height), draw.uniform(0.15, 0.4, 2) * (width, height)
            box = tuple(np.concatenate([low, sides]).round().tolist())
            objects.append(annotation(len(objects) + 1, 10 + image, int(draw.choice([3, 5, 8])), box))
    return write_scenes(tmp_path, SIZES, objects)


def suspicion(
    scenes: Scenes, change: Callable[[Tensor, tuple[int, int]], Tensor], *, preprocess: Any = RESIZE, **settings: Any
) -> str | None:
    outputs = truth_as_output(scenes)
    for output, size in zip(outputs, SIZES, strict=True):
        output["boxes"] = change(output["boxes"], size)
    settings = {"labels": "category_id", **settings}
    task = CocoDetection(scenes.images, scenes.annotations, preprocess=preprocess, adapter=adapter, **settings)
    return task.suspicion(predict_all(task, Recall(outputs)))


def from_corners(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)


def centred(boxes: Tensor) -> Tensor:
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)


def sides_of(size: tuple[int, int]) -> Tensor:
    return torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float64)


def to_network(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    return boxes / sides_of(size) * sides_of((40, 32))


def fitted(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    return boxes * min(40 / size[0], 32 / size[1])


WRONG: dict[str, tuple[Callable[[Tensor, tuple[int, int]], Tensor], Any, str]] = {
    "xywh": (lambda boxes, size: from_corners(boxes), RESIZE, "were x, y, width, height in pixels of the original"),
    "cxcywh": (
        lambda boxes, size: centred(boxes),
        RESIZE,
        "were centre x, centre y, width, height in pixels",
    ),
    "yxyx": (lambda boxes, size: boxes[:, [1, 0, 3, 2]], RESIZE, "were y1, x1, y2, x2 in pixels of the original"),
    "fractions": (lambda boxes, size: boxes / sides_of(size), RESIZE, "were x1, y1, x2, y2 in fractions of the image"),
    "cxcywh fractions": (
        lambda boxes, size: centred(boxes) / sides_of(size),
        RESIZE,
        "were centre x, centre y, width, height in fractions",
    ),
    "network": (to_network, RESIZE, "were x1, y1, x2, y2 in pixels of the network's input.*Resize.to_original"),
    "fitted": (fitted, FITTED, "into whose corner the image was fitted"),
    "xywh network": (
        lambda boxes, size: from_corners(to_network(boxes, size)),
        RESIZE,
        "were x, y, width, height in pixels of the network's input",
    ),
    "exchanged": (
        lambda boxes, size: boxes / sides_of(size) * sides_of(size)[[1, 0, 3, 2]],
        RESIZE,
        "multiplied by height and width exchanged",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_boxes_of_another_form_are_told_by_name(many: Scenes, wrong: str) -> None:
    change, preprocess, message = WRONG[wrong]
    text = suspicion(many, change, preprocess=preprocess)
    assert text is not None
    assert re.search(message, text), text
    assert "100% would" in text


def test_right_boxes_are_not_suspected_nor_are_images_read_for_it(
    many: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CocoDetection, "_input_size", lambda self, position: pytest.fail("an image was read"))
    assert suspicion(many, lambda boxes, size: boxes) is None


@pytest.mark.parametrize(
    ("labels", "change", "advice"),
    [
        ("index", lambda label: label + 1, "if labels were one lower"),
        ("index", lambda label: label - 1, "if labels were one higher"),
        ([5, 8, 3], lambda label: label, "with labels='index'"),
    ],
)
def test_labels_that_are_off_are_told(tmp_path: Path, labels: Any, change: Callable[[int], int], advice: str) -> None:
    objects = [annotation(n + 1, 10, 3 if advice.endswith("higher") else 5, (9 * n, 5, 8, 30)) for n in range(6)]
    if labels != "index":
        objects = [{**known, "category_id": [3, 5, 8][n % 3]} for n, known in enumerate(objects)]
    if advice.endswith("higher"):
        objects = [{**known, "category_id": 8} for known in objects]
    scenes = write_scenes(tmp_path, SIZES[:1], objects)
    [output] = truth_as_output(scenes)
    output["labels"] = torch.tensor([change([3, 5, 8].index(label)) for label in output["labels"].tolist()])
    task = CocoDetection(scenes.images, scenes.annotations, preprocess=RESIZE, adapter=adapter, labels=labels)
    text = task.suspicion(predict_all(task, Recall([output])))
    assert text is not None
    assert advice in text


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_labels_are_told_from_boxes_and_from_masks(tmp_path: Path, iou_type: str) -> None:
    objects = [annotation(n + 1, 10, 3, (9 * n, 5, 8, 30)) for n in range(6)]
    scenes = write_scenes(tmp_path, SIZES[:1], objects)
    [output] = truth_as_output(scenes)
    output["labels"] = torch.ones(6, dtype=torch.int64)
    task = CocoDetection(scenes.images, scenes.annotations, preprocess=RESIZE, adapter=adapter, iou_type=iou_type)
    text = task.suspicion(predict_all(task, Recall([output])))
    assert text is not None
    assert "AP of the first 1 images is 0.0%, and of the 6 best boxes that fit an object 0% have its category" in text


@pytest.mark.parametrize("seed", range(60))
def test_a_random_detector_is_not_suspected(many: Scenes, seed: int) -> None:
    draw = np.random.default_rng(seed)
    outputs = []
    for size in SIZES:
        count = int(draw.integers(0, 60))
        scale = float(draw.choice([1.0, 32.0, 100.0]))
        boxes = np.sort(draw.random((count, 2, 2)), axis=1).reshape(count, 4)
        boxes = boxes * (scale if scale < 99 else np.tile(size[::-1], 2))
        outputs.append({"boxes": boxes, "scores": draw.random(count), "labels": draw.integers(0, 3, count)})
    task = CocoDetection(many.images, many.annotations, preprocess=RESIZE, adapter=adapter)
    assert task.suspicion(predict_all(task, Recall(outputs))) is None


class Wrong(nn.Module):
    """A convolution, and the answers beside it, as x, y, width, height."""

    def __init__(self, outputs: list[Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)
        self.outputs = outputs

    def forward(self, images: Tensor) -> Any:
        self.conv(images)
        return Recall(self.outputs)(images)


def test_evaluate_and_analyze_warn_once_and_the_study_says_so(many: Scenes, tmp_path: Path) -> None:
    outputs = truth_as_output(many)
    for output in outputs:
        output["boxes"] = from_corners(output["boxes"])
    task = CocoDetection(
        many.images, many.annotations, preprocess=RESIZE, adapter=adapter, labels="category_id", batch_size=1
    )
    wrapped = sv.wrap(Wrong(outputs).eval(), torch.zeros(1, 3, 40, 32))
    with pytest.warns(SuspiciousPredictionsWarning, match="would if they were x, y, width, height") as caught:
        wrapped.evaluate(task)
    assert len(caught) == 1
    for _ in range(2):  # the second resumes
        with pytest.warns(SuspiciousPredictionsWarning, match="would if they were x, y, width, height") as caught:
            study = wrapped.analyze(task, sv.INT8_WEIGHTS, store=tmp_path / "store.jsonl", progress=False)
        assert len(caught) == 1
        assert sum("x, y, width, height" in note for note in study.notes) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped.evaluate(task, sv.Scheme())
