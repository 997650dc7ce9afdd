"""Predictions that take less room are scored as the ones that they were made of, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensitivity.contracts import Condenses
from sensitivity.tasks.average_precision.condensed import STAND_INS
from sensitivity.tasks.coco import CocoDetection
from sensitivity.tasks.images.first_images import FirstImages
from tests.tasks.made_scenes import adapter
from tests.tasks.random_scenes import random_results, random_truth
from tests.tasks.test_leaving_out import as_predictions, on_disk


def made(folder: Path, seed: int, kind: Any = CocoDetection, **settings: Any) -> tuple[Any, dict[int, Any]]:
    """A task on random images, with crowds, areas on bounds and a category without objects; and predictions for it."""
    draw = np.random.default_rng(seed)
    truth = random_truth(draw, images=9, categories=5, objects=60)
    scenes = on_disk(folder, truth)
    task = kind(scenes.images, scenes.annotations, preprocess=lambda x: x, adapter=adapter, **settings)
    return task, as_predictions(truth, random_results(draw, truth, 400))


@pytest.mark.parametrize("seed", range(12))
def test_condensed_predictions_are_scored_the_same_also_beside_whole_ones_and_without_groups(
    tmp_path: Path, seed: int
) -> None:
    task, predictions = made(tmp_path, seed)
    assert isinstance(task, Condenses)
    less = task.condensed(predictions)
    mixed = predictions | dict(list(less.items())[::2])
    groups = [[0], [1, 2, 5], [8, 3], [4, 6, 7]]
    for others in (less, mixed):
        assert task.score(others) == pytest.approx(task.score(predictions), abs=0, rel=0, nan_ok=True)
        without = task.scores_without(predictions, groups)
        assert task.scores_without(others, groups) == pytest.approx(without, abs=0, rel=0, nan_ok=True)


def test_boxes_that_find_nothing_are_three_different_ones_and_categories_without_objects_are_gone(
    tmp_path: Path,
) -> None:
    task, predictions = made(tmp_path, 0)
    annotated = {known["category_id"] for known in task.annotations.annotations}
    before = {image: prediction["boxes"].copy() for image, prediction in predictions.items()}
    less = task.condensed(predictions)
    assert {label for prediction in predictions.values() for label in prediction["labels"]} - annotated
    assert {label for prediction in less.values() for label in prediction["labels"]} <= annotated
    exact_boxes = sum((prediction["boxes"][:, 0] >= 0).sum() for prediction in less.values())
    stand_ins = {tuple(box) for prediction in less.values() for box in prediction["boxes"] if box[0] < 0}
    assert stand_ins <= {tuple(box) for box in STAND_INS}
    assert len(stand_ins) >= 2
    assert exact_boxes < 0.8 * sum(len(boxes) for boxes in before.values())
    assert all(np.array_equal(prediction["boxes"], before[image]) for image, prediction in predictions.items())


class Counting(CocoDetection):
    """Has a score of its own, which looks at all boxes."""

    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        return {"AP": float(sum(prediction["boxes"].sum() for prediction in predictions.values()))}


class LeavingOut(CocoDetection):
    """Has scores without groups of its own."""

    def scores_without(self, predictions: Mapping[int, Any], groups: Sequence[Sequence[int]]) -> list[float]:
        return [float(len(predictions)) for _ in groups]


@pytest.mark.parametrize("kind", [Counting, LeavingOut])
def test_a_subclass_with_scores_of_its_own_gets_predictions_as_they_are(tmp_path: Path, kind: Any) -> None:
    task, predictions = made(tmp_path, 0, kind)
    assert task.condensed(predictions) == predictions


def test_masks_stay_as_they_are(tmp_path: Path) -> None:
    task, _ = made(tmp_path, 0, iou_type="segm")
    prediction = {"scores": np.ones(1), "labels": np.ones(1, np.int64), "masks": [b""]}
    assert task.condensed({0: prediction})[0] is prediction
    assert task.condensed({}) == {}


def test_the_first_images_of_a_task_condense_as_the_task_does(tmp_path: Path) -> None:
    task, predictions = made(tmp_path, 0)
    some = {1: predictions[1], 4: predictions[4]}
    less, expected = FirstImages(task, 5).condensed(some), task.condensed(some)
    assert all(np.array_equal(less[image][part], expected[image][part]) for image in some for part in expected[image])
    assert not np.array_equal(less[1]["boxes"], predictions[1]["boxes"])
