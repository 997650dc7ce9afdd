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


def in_the_middle(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    factor = min(40 / size[0], 32 / size[1])
    border = torch.tensor([32 - size[1] * factor, 40 - size[0] * factor], dtype=torch.float64) / 2
    return boxes * factor + border.repeat(2)


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
    "x1 x2 y1 y2": (
        lambda boxes, size: boxes[:, [0, 2, 1, 3]],
        RESIZE,
        "were x1, x2, y1, y2 in pixels of the original",
    ),
    "fitted fractions": (
        lambda boxes, size: fitted(boxes, size) / sides_of((40, 32)),
        FITTED,
        "in fractions of the network's input, into whose corner the image was fitted",
    ),
    "fractions of a middle": (
        lambda boxes, size: in_the_middle(boxes, size) / sides_of((40, 32)),
        RESIZE,
        "in fractions of the network's input, into whose middle the image was fitted",
    ),
    "scaled twice": (
        lambda boxes, size: boxes * sides_of(size) / sides_of((40, 32)),
        RESIZE,
        "pixels of the original image that were scaled once more.*leave out the scaling",
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


COCO_IDS = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)]


def coco_scenes(folder: Path, ids: list[int], *, federated: bool = False) -> Scenes:
    """Twelve images with ten objects each, of all of these categories in turn; also as an LVIS file."""
    objects = []
    for image in range(12):
        for place in range(10):
            category = ids[(7 * len(objects)) % len(ids)]
            box = (7.0 * place, 5.0 + image, 6.0, 30.0)
            objects.append(annotation(len(objects) + 1, 10 + image, category, box))
    scenes = write_scenes(folder, [(60, 80)] * 12, objects)

    def change(plain: dict[str, Any]) -> None:
        plain["categories"] = [{"id": number, "name": f"class {number}", "frequency": "f"} for number in ids]
        for image in plain["images"]:
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}

    return scenes.edit(change)


def relabelled(scenes: Scenes, change: Callable[[int], int]) -> list[dict[str, Any]]:
    outputs = truth_as_output(scenes)
    for output in outputs:
        output["labels"] = torch.tensor([change(label) for label in output["labels"].tolist()])
    return outputs


@pytest.mark.parametrize("kind", [sv.CocoDetection, sv.Lvis])
@pytest.mark.parametrize(
    ("change", "labels", "advice"),
    [
        (lambda category: COCO_IDS.index(category) + 1, None, "if labels were one lower"),
        (lambda category: COCO_IDS.index(category), list(COCO_IDS[::-1]), "with labels='index'"),
        (lambda category: min(category, len(COCO_IDS) - 1), None, "with labels='category_id'"),
    ],
    ids=["one higher", "reversed", "ids"],
)
def test_labels_of_coco_and_lvis_are_told_where_every_category_is_seen(
    tmp_path: Path, kind: Any, change: Callable[[int], int], labels: Any, advice: str
) -> None:
    ids = COCO_IDS[:-1]  # so that the highest label is still one of the file
    scenes = coco_scenes(tmp_path, ids)
    outputs = relabelled(scenes, lambda category: min(change(category), len(ids) - 1))
    settings = {"labels": [number for number in labels if number in ids] if labels else None}
    task = kind(scenes.images, scenes.annotations, preprocess=RESIZE, adapter=adapter, **settings)
    text = task.suspicion(predict_all(task, Recall(outputs)))
    assert text is not None
    assert advice in text


@pytest.mark.parametrize(
    ("change", "labels", "advice"),
    [
        (lambda category: category, None, "They look like category ids: set labels='category_id'"),
        (lambda category: COCO_IDS.index(category), "category_id", "They look like indices .*set labels='index'"),
        (lambda category: COCO_IDS.index(category) + 1, None, "counted from 1: subtract 1"),
        (lambda category: category + 1000, None, "Set labels= to 'index', 'category_id' or the category id"),
    ],
    ids=["91 for 80", "80 for 91", "from 1", "others"],
)
def test_labels_that_the_file_does_not_have_are_refused_with_what_they_look_like(
    tmp_path: Path, change: Callable[[int], int], labels: Any, advice: str
) -> None:
    scenes = coco_scenes(tmp_path, COCO_IDS)
    # the labels that are no category come first
    outputs = relabelled(scenes, change)
    task = CocoDetection(scenes.images, scenes.annotations, preprocess=RESIZE, adapter=adapter, labels=labels)
    with pytest.raises(sv.errors.PredictionError, match=advice):
        predict_all(task, Recall(outputs))


def test_labels_in_another_order_are_told_with_what_they_stand_for(tmp_path: Path) -> None:
    scenes = coco_scenes(tmp_path, [1, 2, 3, 4, 5])
    outputs = relabelled(scenes, [None, 2, 0, 4, 1, 3].__getitem__)
    task = CocoDetection(scenes.images, scenes.annotations, preprocess=RESIZE, adapter=adapter)
    text = task.suspicion(predict_all(task, Recall(outputs)))
    assert text is not None
    assert "0% have its category, but 100% would if categories were exchanged: " in text
    assert "3 stands for 1" in text


def test_labels_off_by_one_of_a_detector_that_is_often_wrong_are_told(tmp_path: Path) -> None:
    scenes = coco_scenes(tmp_path, COCO_IDS[:40])
    draw = np.random.default_rng(0)
    outputs = relabelled(
        scenes, lambda category: category if draw.random() < 0.4 and category < 38 else int(draw.integers(0, 38))
    )
    task = CocoDetection(scenes.images, scenes.annotations, preprocess=RESIZE, adapter=adapter)
    text = task.suspicion(predict_all(task, Recall(outputs)))
    assert text is not None
    assert "with labels='category_id'" in text or "if labels were one lower" in text


def test_random_labels_of_boxes_that_fit_are_not_suspected(tmp_path: Path) -> None:
    scenes = coco_scenes(tmp_path, COCO_IDS)
    for seed in range(10):
        draw = np.random.default_rng(seed)
        outputs = relabelled(scenes, lambda category, draw=draw: int(draw.integers(0, 78)))
        task = CocoDetection(scenes.images, scenes.annotations, preprocess=RESIZE, adapter=adapter)
        assert task.suspicion(predict_all(task, Recall(outputs))) is None


@pytest.mark.parametrize("empty", [True, False])
def test_a_detector_that_finds_nothing_on_many_images_is_described(tmp_path: Path, empty: bool) -> None:
    objects = [annotation(number + 1, 10 + number, 3, (9, 5, 30, 30)) for number in range(16)]
    scenes = write_scenes(tmp_path, [(60, 80)] * 16, objects)
    outputs = truth_as_output(scenes)
    for output in outputs:
        output["boxes"] = output["boxes"] * 0 + torch.tensor([76.0, 2.0, 78.0, 59.0])
        if empty:
            output |= {key: value[:0] for key, value in output.items()}
    task = CocoDetection(scenes.images, scenes.annotations, preprocess=RESIZE, adapter=adapter, labels="category_id")
    predictions = predict_all(task, Recall(outputs))
    text = task.suspicion(predictions)
    assert text is not None
    assert "AP of the first 16 images is 0.0%, and " in text
    assert (
        "no boxes for 16 objects" if empty else "x from 76 to 78 and y from 2 to 59, in images of up to 80 x 60"
    ) in text
    assert task.suspicion({image: predictions[image] for image in range(15)}) is None


POSE_CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "y, x": (lambda points: points.flip(-1), "were y, x in pixels of the original image.*exchange x and y"),
    "fractions": (lambda points: points / torch.tensor([80.0, 60.0]), "were x, y in fractions of the image"),
    "network": (
        lambda points: points / torch.tensor([80.0, 60.0]) * torch.tensor([32.0, 40.0]),
        "were x, y in pixels of the network's input",
    ),
}


@pytest.mark.parametrize("wrong", [None, *POSE_CHANGES])
def test_keypoints_in_another_order_or_unit_are_told(tmp_path: Path, wrong: str | None) -> None:
    draw = np.random.default_rng(0)
    objects = []
    for number in range(8):
        xy = draw.uniform(0, 1, (17, 2)) * (30, 25) + draw.uniform(0, 1, 2) * (40, 30)
        keypoints = np.concatenate([xy, np.full((17, 1), 2)], axis=1).ravel().tolist()
        objects.append(annotation(number + 1, 10 + number // 2, 3, (5, 5, 40, 40), keypoints=keypoints))
    scenes = write_scenes(tmp_path, [(60, 80)] * 4, objects)
    change, message = POSE_CHANGES[wrong] if wrong else (lambda points: points, "")
    outputs = []
    for image in range(4):
        points = torch.tensor([known["keypoints"] for known in objects[2 * image : 2 * image + 2]]).reshape(2, 17, 3)
        outputs.append({"keypoints": change(points[..., :2]), "scores": [0.9, 0.8], "labels": [3, 3]})
    task = sv.CocoKeypoints(scenes.images, scenes.annotations, preprocess=RESIZE, adapter=adapter, labels="category_id")
    text = task.suspicion(predict_all(task, Recall(outputs)))
    if wrong is None:
        assert text is None
    else:
        assert text is not None
        assert re.search(message, text), text


@pytest.mark.parametrize(("wrong", "is_told"), [(0, True), (1, False)])
def test_of_four_boxes_all_must_fit_in_another_reading(many: Scenes, wrong: int, is_told: bool) -> None:
    """Dozens of readings are tried: one of them fits three of four boxes of a random network."""
    outputs = truth_as_output(many)
    for number, output in enumerate(outputs):
        output |= {name: values[:1] for name, values in output.items()}
        output["boxes"] = torch.tensor([[0.0, 0.0, 0.5, 0.5]]) if number < wrong else from_corners(output["boxes"])
    task = CocoDetection(many.images, many.annotations, preprocess=RESIZE, adapter=adapter, labels="category_id")
    assert (task.suspicion(predict_all(task, Recall(outputs))) is not None) == is_told
