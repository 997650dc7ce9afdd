from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensitivity.contracts import Task
from sensitivity.errors import AnnotationError, PredictionError, TaskError
from sensitivity.tasks.datasets import Resize
from sensitivity.tasks.lvis import LVIS_METRICS, Lvis, evaluate_lvis
from tests.tasks.made_scenes import Recall, Scenes, adapter, annotation, predict_all, truth_as_output, write_scenes


def federate(plain: dict[str, Any]) -> None:
    for category, frequency in zip(plain["categories"], "rcf", strict=True):  # hat rare, cat common, dog frequent
        category["frequency"] = frequency
    for image in plain["images"]:
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])


@pytest.fixture
def lvis_scenes(scenes: Scenes) -> Scenes:
    return scenes.edit(federate)


def make(scenes: Scenes, **settings: Any) -> Lvis:
    settings = {"preprocess": Resize(height=8, width=8), "adapter": adapter, "labels": "category_id", **settings}
    return Lvis(scenes.images, scenes.annotations, **settings)


def perfect(scenes: Scenes) -> list[dict[str, Any]]:
    annotations = json.loads(scenes.annotations.read_text())["annotations"]
    return [
        {"score": 0.5, **{key: annotation[key] for key in ("image_id", "category_id", "bbox")}}
        for annotation in annotations
    ]


def result(image: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_numbers_are_those_of_the_official_package(shared_data: Path, iou_type: str) -> None:
    folder = shared_data / "lvis"
    scores = evaluate_lvis(folder / "lvis_val_100.json", folder / "synthetic_results_100.json", iou_type)
    expected = json.loads((folder / "expected_lvis_api.json").read_text())[iou_type]
    assert scores == pytest.approx(expected, rel=1e-12, nan_ok=True)  # recorded with another numpy
    assert tuple(scores) == LVIS_METRICS == tuple(expected)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_shuffled_results_on_some_images_score_as_in_the_official_package(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, iou_type: str, seed: int
) -> None:
    lvis = pytest.importorskip("lvis", reason="the official lvis package is not installed")
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis 0.5.3 was written for an older numpy
    draw = np.random.default_rng(seed)
    file = shared_data / "lvis" / "lvis_val_100.json"
    results = json.loads((shared_data / "lvis" / "synthetic_results_100.json").read_text())
    results = [results[place] for place in draw.permutation(len(results))]
    for result in results:
        result["score"] = round(result["score"] * draw.random(), 2)  # many equal scores: the order of ties matters
    truth = lvis.LVIS(str(file))
    images = sorted(truth.get_img_ids())[seed::3]
    chosen = [{**result, "area": 0} for result in results]
    for result in chosen:
        del result["bbox" if iou_type == "segm" else "segmentation"]
    with pytest.warns(DeprecationWarning, match="warn"):
        official = lvis.LVISEval(truth, lvis.LVISResults(truth, chosen), iou_type)
    official.params.img_ids = images
    official.run()
    scores = evaluate_lvis(file, results, iou_type, images=images)
    expected = {name: number if number >= 0 else math.nan for name, number in official.get_results().items()}
    assert scores == pytest.approx(expected, abs=0, rel=0, nan_ok=True)


def test_perfect_boxes_score_one_and_groups_without_ground_truth_are_nan(lvis_scenes: Scenes) -> None:
    scores = evaluate_lvis(lvis_scenes.annotations, perfect(lvis_scenes))
    assert scores["AP"] == scores["APc"] == scores["APf"] == scores["AR@300"] == pytest.approx(1.0, abs=1e-12)
    assert math.isnan(scores["APr"])


def test_a_mistake_counts_only_where_the_category_is_known_to_be_absent(lvis_scenes: Scenes) -> None:
    mistake = result(11, 3, [1, 1, 10, 10], 0.9)
    assert evaluate_lvis(lvis_scenes.annotations, [*perfect(lvis_scenes), mistake])["AP"] == pytest.approx(1.0)
    lvis_scenes.edit(lambda plain: plain["images"][1].update(neg_category_ids=[3]))
    assert evaluate_lvis(lvis_scenes.annotations, [*perfect(lvis_scenes), mistake])["APc"] < 0.9


def test_a_mistake_is_excused_where_not_all_objects_are_annotated(lvis_scenes: Scenes) -> None:
    mistake = result(10, 3, [50, 30, 10, 10], 0.9)
    assert evaluate_lvis(lvis_scenes.annotations, [*perfect(lvis_scenes), mistake])["APc"] < 0.9
    lvis_scenes.edit(lambda plain: plain["images"][0].update(not_exhaustive_category_ids=[3]))
    assert evaluate_lvis(lvis_scenes.annotations, [*perfect(lvis_scenes), mistake])["APc"] == pytest.approx(1.0)


def test_only_the_best_300_detections_of_an_image_count(lvis_scenes: Scenes) -> None:
    crowd = [result(10, 5, [0, 0, 2, 2], 0.6 + number / 1e4) for number in range(300)]
    best_299 = evaluate_lvis(lvis_scenes.annotations, [*crowd[:298], *perfect(lvis_scenes)])
    assert best_299["AR@300"] == pytest.approx(1.0)
    assert evaluate_lvis(lvis_scenes.annotations, [*crowd, *perfect(lvis_scenes)])["AR@300"] < 1.0


def test_detections_without_area_do_not_count(lvis_scenes: Scenes) -> None:
    flat = result(10, 3, [50, 30, 10, 0], 0.9)
    assert evaluate_lvis(lvis_scenes.annotations, [*perfect(lvis_scenes), flat])["APc"] == pytest.approx(1.0)


def test_objects_without_area_need_not_be_found(lvis_scenes: Scenes) -> None:
    results = perfect(lvis_scenes)
    lvis_scenes.edit(lambda plain: plain["annotations"].append(annotation(9, 12, 3, (60, 60, 20, 20), area=0)))
    assert evaluate_lvis(lvis_scenes.annotations, results)["APc"] == pytest.approx(1.0)


def test_an_object_marked_as_crowd_is_an_object_like_any(lvis_scenes: Scenes) -> None:
    lvis_scenes.edit(lambda plain: [annotation.update(iscrowd=1) for annotation in plain["annotations"]])
    assert evaluate_lvis(lvis_scenes.annotations, perfect(lvis_scenes))["AP"] == pytest.approx(1.0)


def test_of_two_equal_overlaps_the_later_annotation_is_taken(tmp_path: Path) -> None:
    objects = [annotation(1, 10, 3, (0, 0, 20, 10)), annotation(2, 10, 3, (4, 0, 20, 10))]
    scenes = write_scenes(tmp_path, [(60, 80)], objects).edit(federate)
    between, on_the_first = result(10, 3, [2, 0, 20, 10], 0.9), result(10, 3, [0, 0, 20, 10], 0.8)
    assert evaluate_lvis(scenes.annotations, [between, on_the_first])["AP75"] == pytest.approx(1.0)


def test_no_detections_score_zero(lvis_scenes: Scenes) -> None:
    scores = evaluate_lvis(lvis_scenes.annotations, [])
    assert scores["AP"] == scores["AR@300"] == 0.0


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_a_perfect_model_scores_one(lvis_scenes: Scenes, iou_type: str) -> None:
    task = make(lvis_scenes, iou_type=iou_type, metric="APc")
    assert isinstance(task, Task)
    assert (task.metric, task.name) == ("APc", f"LVIS {iou_type}")
    scores = task.score(predict_all(task, Recall(truth_as_output(lvis_scenes))))
    assert scores["AP"] == pytest.approx(1.0, abs=1e-12)


def test_the_metric_is_over_the_images_predicted_alone(lvis_scenes: Scenes) -> None:
    task = make(lvis_scenes)
    predictions = predict_all(task, Recall(truth_as_output(lvis_scenes)))
    empty = {key: value[:0] for key, value in predictions[2].items()}
    assert task.score({0: predictions[0], 2: empty})["AP"] < 0.9
    assert task.score({0: predictions[0]})["AP"] == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(TaskError, match="no predictions to score"):
        task.score({})


def test_coco_files_and_unknown_frequencies_are_refused(scenes: Scenes) -> None:
    with pytest.raises(AnnotationError, match=r"image 10 lacks \['neg_category_ids', .* Use CocoDetection"):
        make(scenes)
    scenes.edit(federate).edit(lambda plain: plain["categories"][1].update(frequency="common"))
    with pytest.raises(AnnotationError, match="category 3 has the frequency 'common'; expected 'r', 'c' or 'f'"):
        evaluate_lvis(scenes.annotations, [])


def test_unknown_settings_and_ids_are_refused(lvis_scenes: Scenes) -> None:
    with pytest.raises(TaskError, match=r"metric='AR100' is unknown. Choose one of AP, "):
        make(lvis_scenes, metric="AR100")
    with pytest.raises(TaskError, match="iou_type='keypoints' is unknown"):
        evaluate_lvis(lvis_scenes.annotations, [], "keypoints")
    with pytest.raises(PredictionError, match=r"detections\[0\] has the unknown category_id 4"):
        evaluate_lvis(lvis_scenes.annotations, [result(10, 4, [0, 0, 1, 1], 1.0)])
    with pytest.raises(TaskError, match=r"do not know: \[99\]"):
        evaluate_lvis(lvis_scenes.annotations, [], images=[99])
