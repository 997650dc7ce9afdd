"""Our tasks pass the suite that an outsider's has to pass, and the suite finds what is wrong with a task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import Batch, Task
from sensitivity.tasks.datasets import Resize
from sensitivity.testing.tasks import TaskSuite
from tests.sweep.mean_task import Chain, InstanceTask, MeanTask
from tests.tasks.made_scenes import SIZES, Recall, Scenes, adapter

PLAIN = Resize(height=8, width=8)


class Filler(nn.Module):
    """A promptable model that fills a part of each box."""

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        return image

    def encode(self, x: np.ndarray) -> np.ndarray:
        return x

    def predict_masks(self, embedding: Any, *, original_size: tuple[int, int], boxes: Any, **_: Any) -> Any:
        logits = torch.full((len(boxes), 1, *original_size), -1.0)
        for logit, (left, top, right, bottom) in zip(logits, boxes.astype(int), strict=True):
            logit[0, top:bottom, left : right - 2] = 1.0
        return logits, torch.ones(len(boxes), 1)


def boxes_near(scenes: Scenes) -> Recall:
    """Each object found, with a box a little off, and some that are nowhere."""
    truth, draw = json.loads(scenes.annotations.read_text()), np.random.default_rng(0)
    outputs = []
    for image in truth["images"]:
        known = [annotation for annotation in truth["annotations"] if annotation["image_id"] == image["id"]]
        boxes = np.array([[*annotation["bbox"]] for annotation in known] + [[1, 1, 9, 9]], np.float64)
        boxes[:, 2:] += boxes[:, :2] + draw.uniform(-2, 2, (len(boxes), 2))
        labels = [{3: 0, 5: 1, 8: 2}[annotation["category_id"]] for annotation in known] + [0]
        outputs.append({"boxes": boxes, "scores": draw.random(len(boxes)), "labels": np.array(labels)})
    return Recall(outputs)


def lvis_scenes(scenes: Scenes) -> Scenes:
    def change(plain: dict[str, Any]) -> None:
        for image in plain["images"]:
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for category, frequency in zip(plain["categories"], "rcf", strict=True):
            category["frequency"] = frequency

    return scenes.edit(change)


def coco(scenes: Scenes) -> tuple[Task, Any]:
    return sv.CocoDetection(scenes.images, scenes.annotations, preprocess=PLAIN, adapter=adapter), boxes_near(scenes)


def lvis(scenes: Scenes) -> tuple[Task, Any]:
    scenes = lvis_scenes(scenes)
    return sv.Lvis(scenes.images, scenes.annotations, preprocess=PLAIN, adapter=adapter), boxes_near(scenes)


def prompted(scenes: Scenes) -> tuple[Task, Any]:
    return sv.PromptedMasks(scenes.images, scenes.annotations), Filler()


def prompted_by_a_detector(scenes: Scenes) -> tuple[Task, Any]:
    detections = [{"image_id": 10, "category_id": 3, "bbox": [5, 5, 20, 30], "score": 0.8}]
    return sv.PromptedMasks(scenes.images, scenes.annotations, prompts=detections), Filler()


def semantic(scenes: Scenes) -> tuple[Task, Any]:
    folder, draw = scenes.images.parent / "labels", np.random.default_rng(0)
    folder.mkdir()
    outputs = []
    for number, size in enumerate(SIZES):
        labels = draw.integers(0, 3, size).astype(np.uint8)
        Image.fromarray(labels).save(folder / f"{number}.png")
        outputs.append(np.where(draw.random(size) < 0.7, labels, 0).astype(np.int64))
    task = sv.SemanticSegmentation(
        scenes.images, folder, classes=("ground", "cat", "dog"), preprocess=PLAIN, adapter=pass_on
    )
    return task, Recall(outputs)


def pass_on(outputs: list[Any], sizes: Any) -> list[Any]:
    return outputs


def fidelity(scenes: Scenes) -> tuple[Task, Any]:
    model = Chain().eval()
    return sv.FeatureFidelity(MeanTask(6).inputs).with_reference(Off(model)), model


class Off(nn.Module):
    """The model with its outputs a little off, so that there is something to score."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.model(x)
        return output * 1.01


def mean(scenes: Scenes) -> tuple[Task, Any]:
    return MeanTask(9), Chain().eval()


def instances(scenes: Scenes) -> tuple[Task, Any]:
    return InstanceTask(9), Chain().eval()


# not callback_task: it sees its data as one lump, which no part of can be scored
TASKS = (coco, lvis, prompted, prompted_by_a_detector, semantic, fidelity, mean, instances)


@pytest.fixture(params=TASKS, ids=lambda make: make.__name__)
def made(request: pytest.FixtureRequest, scenes: Scenes) -> tuple[Task, Any]:
    make: Callable[[Scenes], tuple[Task, Any]] = request.param
    with torch.no_grad():
        return make(scenes)


@pytest.fixture
def task(made: tuple[Task, Any]) -> Task:
    return made[0]


@pytest.fixture
def model(made: tuple[Task, Any]) -> Any:
    return made[1]


class TestOurTasks(TaskSuite):
    """Boxes, masks, prompts, pixels, features."""


class Broken(InstanceTask):
    """A task with one thing wrong."""

    def __init__(self, wrong: str) -> None:
        super().__init__(9)
        self.wrong = wrong
        self.times = 0
        self.seen: list[float] = []

    @property
    def metric(self) -> str:  # type: ignore[override]
        return "median" if self.wrong == "another metric" else "mean"

    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        if self.wrong == "all images":
            images = None
        if self.wrong == "a missing image" and images is None:
            images = range(len(self) - 1)
        return super().batches(images)

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        self.times += 1
        predictions = super().predict(model, batch)
        if self.wrong == "too few":
            return predictions[1:]
        if self.wrong == "tensors":
            return [{"values": [torch.tensor(value) for value in each["values"]]} for each in predictions]
        if self.wrong == "a size":
            return [each | {"size": torch.Size([2])} for each in predictions]
        if self.wrong == "sums":
            return [each | {"sum": float(sum(each["values"]))} for each in predictions]
        if self.wrong == "drifting":
            return [{"values": [value + self.times for value in each["values"]]} for each in predictions]
        return predictions

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        if self.wrong == "changes predictions":
            next(prediction for prediction in predictions.values() if prediction["values"])["values"][0] += 1.0
        if self.wrong == "the first alone":
            return super().score(dict([next(item for item in predictions.items() if item[1]["values"])]))
        if self.wrong == "all or nothing" and len(predictions) < len(self):
            raise ValueError("images are missing")
        if self.wrong == "accumulating":
            self.seen += [value for prediction in predictions.values() for value in prediction["values"]]
            return {"mean": float(np.mean(self.seen))}
        if self.wrong == "the first score":
            self.first = getattr(self, "first", None) or super().score(predictions)
            return self.first
        return super().score(predictions)

    def instances(self) -> list[int]:
        return super().instances()[:: -1 if self.wrong == "other instances" else 1]

    def instance_sum(self, prediction: Any) -> float:
        if self.wrong == "sums":
            return float(prediction["sum"])
        return super().instance_sum(prediction) * (2 if self.wrong == "another mean" else 1)

    def scores_without(self, predictions: Mapping[int, Any], groups: Sequence[Sequence[int]]) -> list[float]:
        if self.wrong == "nothing left out":
            groups = [[] for _ in groups]
        if self.wrong == "all images expected" and len(predictions) < len(self):
            raise ValueError("images are missing")
        rests = [
            {image: prediction for image, prediction in predictions.items() if image not in group} for group in groups
        ]
        return [self.score(rest)["mean"] for rest in rests]

    def scored_part(self, prediction: Any) -> Any:
        if self.wrong == "too small a part":
            return {"values": [0.0 for _ in prediction["values"]]}
        return {"values": prediction["values"]} if self.wrong == "sums" else prediction

    def digest(self) -> str:
        self.times += 1
        return str(self.times) if self.wrong == "no digest" else super().digest()


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        ("a missing image", "test_batches_hold_every_image_once"),
        ("all images", "test_batches_hold_the_images_asked_for_in_their_order"),
        ("too few", "test_there_is_one_prediction_for_each_image"),
        ("tensors", "test_predictions_are_data"),
        ("a size", "test_predictions_are_data"),
        ("drifting", "test_a_model_predicts_the_same_again"),
        ("another metric", "test_the_metric_is_among_the_scores"),
        ("changes predictions", "test_scores_depend_on_the_predictions_alone"),
        ("the first alone", "test_scores_depend_on_the_predictions_alone"),
        ("accumulating", "test_scores_depend_on_the_predictions_alone"),
        ("the first score", "test_some_of_the_images_can_be_scored"),
        ("all or nothing", "test_some_of_the_images_can_be_scored"),
        ("no digest", "test_a_digest_is_text_that_stays"),
        ("another mean", "test_a_mean_over_instances_is_the_metric"),
        ("other instances", "test_a_mean_over_instances_is_the_metric"),
        ("nothing left out", "test_leaving_images_out_is_scoring_the_rest"),
        ("all images expected", "test_leaving_images_out_is_scoring_the_rest"),
        ("sums", "test_the_part_that_is_kept_scores_the_same"),
        ("too small a part", "test_the_part_that_is_kept_scores_the_same"),
    ],
)
def test_the_suite_finds_what_is_wrong(wrong: str, test: str) -> None:
    arguments = {"task": Broken(wrong), "model": Chain().eval()}
    run = getattr(TaskSuite(), test)
    chosen = {name: arguments[name] for name in run.__annotations__ if name in arguments}
    with pytest.raises((AssertionError, ValueError, KeyError)):
        run(**chosen)
    run(**chosen | {"task": Broken("nothing")})
