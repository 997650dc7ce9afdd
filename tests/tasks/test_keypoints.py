"""AP of keypoints: equal to pycocotools on made-up people, and the form of annotations and predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import sensitivity as sv
from sensitivity.errors import AnnotationError, PredictionError, TaskError
from sensitivity.testing.tasks import TaskSuite

SIZE = (240, 320)
IMAGES = 6


def person(draw: np.random.Generator, number: int, image: int, points: int = 17) -> dict[str, Any]:
    """Somebody of any size; some are crowds, some have no labelled keypoint, some only a few."""
    corner, sides = draw.uniform(0, 120, 2), draw.uniform(8, 150, 2)
    xy = corner + draw.uniform(0, 1, (points, 2)) * sides
    visible = draw.choice([0, 1, 2], points) if draw.random() > 0.15 else np.zeros(points, int)
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [*corner, *sides],
        "area": float(np.prod(sides) * draw.uniform(0.3, 1.0)),
        "iscrowd": int(draw.random() < 0.1),
        "keypoints": np.concatenate([xy, visible[:, None]], 1).ravel().tolist(),
        "num_keypoints": int((visible > 0).sum()),
    }


def write(folder: Path, seed: int, points: int = 17) -> Path:
    draw = np.random.default_rng(seed)
    people = []
    for image in range(1, IMAGES):  # the first image has nobody
        people += [person(draw, len(people) + 1 + n, image, points) for n in range(draw.integers(0, 6))]
    images = [{"id": n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]} for n in range(IMAGES)]
    for image in images:
        Image.new("RGB", SIZE[::-1]).save(folder / image["file_name"])
    file = folder / "people.json"
    categories = [{"id": 1, "name": "person"}]
    file.write_text(json.dumps({"images": images, "annotations": people, "categories": categories}))
    return file


def found_near(file: Path, seed: int) -> dict[int, dict[str, Any]]:
    """Poses near the annotated ones and elsewhere, more than 20 in an image; many have the same score."""
    draw = np.random.default_rng(seed + 1000)
    people = json.loads(file.read_text())["annotations"]
    predictions = {}
    for image in range(IMAGES):
        own = [np.array(person["keypoints"]).reshape(-1, 3) for person in people if person["image_id"] == image]
        points = len(own[0]) if own else 17
        poses = [draw.uniform(0, 240, (points, 3)) for _ in range(3)]
        poses += [pose + draw.normal(0, draw.choice([0, 1, 3, 8]), pose.shape) for pose in own for _ in range(6)]
        scores = draw.integers(0, 8, len(poses)) / 8
        predictions[image] = {"keypoints": np.array(poses), "scores": scores, "labels": np.zeros(len(poses), int)}
    return predictions


class Recall(torch.nn.Module):
    """A model that knows its predictions by the number of the image, which its pixels say."""

    def __init__(self, predictions: dict[int, Any]) -> None:
        super().__init__()
        self.predictions = predictions

    def forward(self, x: torch.Tensor) -> list[Any]:
        return [self.predictions[int(image[0, 0, 0])] for image in x]


class Numbered:
    """Preprocessing that hands the number of the image on, in the order in which they come."""

    def __init__(self) -> None:
        self.number = -1

    def __call__(self, image: Any) -> torch.Tensor:
        return torch.from_numpy(image[:1, :1].transpose(2, 0, 1).copy()).float()


def as_they_are(outputs: Any, sizes: Any) -> Any:
    return outputs


def task_of(file: Path, **settings: Any) -> sv.CocoKeypoints:
    chosen: dict[str, Any] = {"preprocess": Numbered(), "adapter": as_they_are} | settings
    for number in range(IMAGES):
        Image.fromarray(np.full((*SIZE, 3), number, np.uint8)).save(file.parent / f"{number}.png")
    return sv.CocoKeypoints(file.parent, file, **chosen)


def predicted(task: sv.CocoKeypoints, predictions: dict[int, Any]) -> dict[int, Any]:
    model = Recall(predictions)
    return {
        i: prediction
        for batch in task.batches()
        for i, prediction in zip(batch.images, task.predict(model, batch), strict=True)
    }


def by_pycocotools(file: Path, predictions: dict[int, Any], sigmas: Any = None) -> list[float]:
    truth = COCO(str(file))
    rows = [
        {"image_id": image, "category_id": 1, "score": float(score), "keypoints": np.asarray(pose).ravel().tolist()}
        for image, prediction in predictions.items()
        for pose, score in zip(prediction["keypoints"], prediction["scores"], strict=True)
    ]
    evaluation = COCOeval(truth, truth.loadRes(rows), "keypoints")
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float("nan") if value == -1 else value for value in evaluation.stats]


@pytest.mark.parametrize("seed", range(12))
def test_all_ten_numbers_are_those_of_pycocotools(seed: int, tmp_path: Path) -> None:
    file = write(tmp_path, seed)
    predictions = found_near(file, seed)
    task = task_of(file)
    scores = task.score(predicted(task, predictions))
    expected = by_pycocotools(file, predictions)
    assert list(scores) == ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]
    np.testing.assert_allclose(list(scores.values()), expected, rtol=0, atol=1e-12)
    assert 0.05 < scores["AP"] < 1


def test_other_keypoints_have_sigmas_of_their_own(tmp_path: Path) -> None:
    file = write(tmp_path, 3, points=4)
    predictions = found_near(file, 3)
    predictions[0] = {"keypoints": np.zeros((0, 4, 3)), "scores": np.zeros(0), "labels": np.zeros(0, int)}
    sigmas = [0.05, 0.1, 0.02, 0.07]
    task = task_of(file, sigmas=sigmas)
    scores = list(task.score(predicted(task, predictions)).values())
    np.testing.assert_allclose(scores, by_pycocotools(file, predictions, sigmas), rtol=0, atol=1e-12)
    wider = task_of(file, sigmas=[0.5] * 4)
    assert wider.score(predicted(wider, predictions))["AP"] > scores[0]
    assert wider.digest() != task.digest()
    with pytest.raises(AnnotationError, match=r"annotation 1 of .* has no keypoints for 17 sigmas: expected 51"):
        task_of(file)
    with pytest.raises(TaskError, match="give one number above 0 for each keypoint"):
        task_of(file, sigmas=[0.0] * 4)


def test_where_the_number_of_labelled_keypoints_is_missing_it_is_counted(tmp_path: Path) -> None:
    file = write(tmp_path, 1)
    predictions = found_near(file, 1)
    expected = by_pycocotools(file, predictions)
    plain = json.loads(file.read_text())
    for annotation in plain["annotations"]:
        del annotation["num_keypoints"]
    file.write_text(json.dumps(plain))
    task = task_of(file)
    np.testing.assert_allclose(list(task.score(predicted(task, predictions)).values()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        (np.zeros((1, 17, 1)), r"keypoints of a prediction have the shape \(1, 17, 1\); expected \(N, K, 2\)"),
        (np.full((1, 17, 2), np.nan), "keypoints of a prediction are NaN or infinite"),
        (np.zeros((2, 17, 2)), "a prediction has 1 scores, 1 labels and 2 keypoints"),
        (np.zeros((1, 5, 2)), "a pose of the prediction has 5 keypoints; expected 17"),
    ],
)
def test_keypoints_of_another_form_are_refused(keypoints: Any, message: str, tmp_path: Path) -> None:
    task = task_of(write(tmp_path, 0))
    output = {"keypoints": keypoints, "scores": [0.5], "labels": [0]}
    with pytest.raises(PredictionError, match=message):
        predicted(task, dict.fromkeys(range(IMAGES), output))


class TestSuite(TaskSuite):
    @pytest.fixture
    def task(self, tmp_path: Path) -> sv.CocoKeypoints:
        return task_of(write(tmp_path, 2))

    @pytest.fixture
    def model(self, tmp_path: Path, task: Any) -> torch.nn.Module:
        return Recall(found_near(tmp_path / "people.json", 2))
