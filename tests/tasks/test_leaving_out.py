"""What tasks offer for intervals: scores without some images, and sums over instances, both as ``score`` has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sensitivity.contracts import LeavesOut, MeanOfInstances
from sensitivity.sweep.stopping.jackknife import deal, standard_error, student_quantile
from sensitivity.tasks.coco import COCO_METRICS, CocoDetection
from sensitivity.tasks.lvis import LVIS_METRICS, Lvis
from sensitivity.tasks.prompted import IOU_METRICS, PromptedMasks
from tests.tasks.made_scenes import Scenes, adapter, predict_all
from tests.tasks.random_scenes import SIDE, random_results, random_truth
from tests.tasks.test_prompted import BoxFiller

Plain = dict[str, Any]


def on_disk(folder: Path, truth: Plain) -> Scenes:
    """The random scenes with images, and with what LVIS wants to know."""
    for number, image in enumerate(truth["images"]):
        image.update(file_name=f"{image['id']}.png", neg_category_ids=[], not_exhaustive_category_ids=[])
        Image.fromarray(np.full((SIDE, SIDE, 3), number % 256, np.uint8)).save(folder / image["file_name"])
    for category in truth["categories"]:
        category["frequency"] = "rcf"[category["id"] % 3]
    (folder / "truth.json").write_text(json.dumps(truth))
    return Scenes(folder, folder / "truth.json")


def as_predictions(truth: Plain, results: list[Plain], order: str = "truth") -> dict[int, Any]:
    predictions: dict[int, Any] = {}
    for position, image in enumerate(truth["images"]):
        of_image = [result for result in results if result["image_id"] == image["id"]]
        boxes = np.array([result["bbox"] for result in of_image], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        predictions[position] = {
            "scores": np.array([result["score"] for result in of_image], np.float64),
            "labels": np.array([result["category_id"] for result in of_image], np.int64),
            "boxes": boxes,
        }
    return predictions


@pytest.mark.parametrize(
    ("kind", "metric"),
    [*((CocoDetection, metric) for metric in COCO_METRICS), *((Lvis, metric) for metric in LVIS_METRICS)],
    ids=[*COCO_METRICS, *(f"LVIS-{metric}" for metric in LVIS_METRICS)],
)
def test_scores_without_a_group_are_those_of_the_rest_to_the_last_bit(tmp_path: Path, kind: Any, metric: str) -> None:
    draw = np.random.default_rng(3)
    truth = random_truth(draw, images=9, categories=5, objects=120)
    scenes = on_disk(tmp_path, truth)
    predictions = as_predictions(truth, random_results(draw, truth, 300))
    task = kind(scenes.images, scenes.annotations, preprocess=lambda x: x, adapter=adapter, metric=metric)
    assert isinstance(task, LeavesOut)
    groups = [[0], [1, 2, 5], [8, 3], [4, 6, 7]]
    rest = [{image: prediction for image, prediction in predictions.items() if image not in group} for group in groups]
    expected = [task.score(some)[metric] for some in rest]
    assert task.scores_without(predictions, groups) == pytest.approx(expected, abs=0, rel=0, nan_ok=True)
    assert len({score for score in expected if score == score}) > 1


@pytest.mark.parametrize("metric", IOU_METRICS)
def test_sums_over_instances_make_up_the_mean(shared_data: Path, metric: str) -> None:
    folder = shared_data / "tiny_coco"
    file = folder / "annotations" / "instances_val2017.json"
    task = PromptedMasks(folder / "val2017", file, limit=12, metric=metric)
    assert isinstance(task, MeanOfInstances)
    predictions = predict_all(task, BoxFiller(shrink=2))
    counts = task.instances()
    assert counts is not None
    total = sum(task.instance_sum(prediction) for prediction in predictions.values())
    assert total / sum(counts) == pytest.approx(task.score(predictions)[metric], rel=1e-12)


def test_average_precision_is_no_mean_of_instances(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    truth = random_truth(draw, images=3, categories=2, objects=9)
    scenes = on_disk(tmp_path, truth)
    detections = [
        {key: result[key] for key in ("image_id", "category_id", "bbox", "score")}
        for result in random_results(draw, truth, 4)
    ]
    assert PromptedMasks(scenes.images, scenes.annotations, prompts=detections).instances() is None


@pytest.mark.slow
def test_intervals_of_a_drop_of_ap_hold_the_drop_of_the_whole_data_set(tmp_path: Path) -> None:
    """The truth is known: 400 images. Of 100 samples of 80, at least 90 intervals of level 95 % must hold it."""
    draw = np.random.default_rng(0)
    truth = random_truth(draw, images=400, categories=4, objects=2400)
    for annotation in truth["annotations"]:
        annotation.update(iscrowd=0, area=annotation["bbox"][2] * annotation["bbox"][3])
    results = random_results(draw, truth, 6000)
    worse = [result for result in results if draw.random() > 0.15]
    scenes = on_disk(tmp_path, truth)
    task = CocoDetection(scenes.images, scenes.annotations, preprocess=lambda x: x, adapter=adapter)
    before, after = as_predictions(truth, results), as_predictions(truth, worse)
    expected = task.score(before)["AP"] - task.score(after)["AP"]
    held = 0
    for _ in range(100):
        sample = draw.permutation(400)[:80].tolist()
        annotation, other = ({image: some[image] for image in sample} for some in (before, after))
        groups = deal(sample)
        drop = task.score(annotation)["AP"] - task.score(other)["AP"]
        without = np.subtract(task.scores_without(annotation, groups), task.scores_without(other, groups))
        half = standard_error(without) * student_quantile(0.95, len(groups) - 1) * np.sqrt(1 - 80 / 400)
        held += abs(drop - expected) <= half
    assert held >= 90
