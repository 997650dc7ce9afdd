"""What tasks offer for intervals: scores without some images, and sums over instances, both as ``score`` has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sensitivity.contracts import LeavesOut, MeanOfInstances, MeanOverKinds
from sensitivity.records.results.resampled import standard_error
from sensitivity.sweep.stopping.jackknife import deal, student_quantile
from sensitivity.tasks.coco import COCO_METRICS, CocoDetection
from sensitivity.tasks.images.first_images import FirstImages
from sensitivity.tasks.lvis import LVIS_METRICS, Lvis
from sensitivity.tasks.prompted import IOU_METRICS, PromptedMasks
from sensitivity.tasks.semantic import SemanticSegmentation
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


@pytest.mark.parametrize("metric", ["AP", "APr", "APf"])
def test_lvis_counts_the_images_of_each_category_that_its_metric_averages_over(tmp_path: Path, metric: str) -> None:
    draw = np.random.default_rng(3)
    truth = random_truth(draw, images=9, categories=7, objects=30)
    scenes = on_disk(tmp_path, truth)
    task = Lvis(scenes.images, scenes.annotations, preprocess=lambda x: x, adapter=adapter, metric=metric)
    frequency = {category["id"]: category["frequency"] for category in truth["categories"]}
    objects = [known for known in truth["annotations"] if known["area"] > 0]
    categories = {known["category_id"] for known in objects}
    wanted = [number for number in sorted(categories) if metric == "AP" or frequency[number] == metric[-1]]
    some = [truth["images"][position]["id"] for position in (0, 2, 3)]
    expected = [
        len({known["image_id"] for known in objects if known["category_id"] == number} & set(some)) for number in wanted
    ]
    predictions: dict[int, Any] = dict.fromkeys((0, 2, 3))  # nothing looks at them
    assert isinstance(task, MeanOverKinds)
    assert task.images_by_kind(predictions) == expected
    assert sum(expected) > 0
    assert FirstImages(task, 5).images_by_kind(predictions) == expected


def test_a_mean_iou_counts_the_images_of_each_class_and_another_metric_of_none(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    confusions = {image: {"confusion": np.diag([5, image, 0])} for image in range(1)} | {
        1: {"confusion": np.array([[1, 1, 1], [0, 3, 0], [0, 0, 0]])}
    }
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    labels = tmp_path / "labels"
    labels.mkdir()
    for image in range(2):
        Image.new("L", (4, 4)).save(labels / f"{image}.png")
    settings: Any = {"classes": ["a", "b", "c"], "preprocess": lambda x: x}
    assert SemanticSegmentation(tmp_path, labels, **settings).images_by_kind(confusions) == [2, 1]
    accuracy = SemanticSegmentation(tmp_path, labels, metric="pixel_accuracy", **settings)
    assert accuracy.images_by_kind(confusions) is None


def test_coco_and_tasks_of_means_have_no_kinds_that_matter(tmp_path: Path) -> None:
    scenes = on_disk(tmp_path, random_truth(np.random.default_rng(3), images=3, categories=2, objects=9))
    task = CocoDetection(scenes.images, scenes.annotations, preprocess=lambda x: x, adapter=adapter)
    assert not isinstance(task, MeanOverKinds)
    assert FirstImages(task, 2).images_by_kind({0: None}) is None


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
