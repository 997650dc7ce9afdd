"""Random data sets, made anew by each seed, score as in the programs that everybody compares with."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import pytest

from sensitivity.tasks.coco import COCO_METRICS, evaluate_coco
from sensitivity.tasks.lvis import evaluate_lvis
from tests.tasks.random_scenes import pycocotools_evaluation, random_results, random_truth

COCO_SETS, LVIS_SETS = (60, 40) if "SENSITIVITY_SOAK" in os.environ else (20, 10)


def random_set(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    draw = np.random.default_rng([9, seed])
    sizes = {"images": int(draw.integers(1, 9)), "categories": int(draw.integers(1, 6))}
    truth = random_truth(draw, **sizes, objects=int(draw.integers(1, 40)))
    return truth, random_results(draw, truth, int(draw.integers(1, 120)))


def as_nan(numbers: Any) -> list[float]:
    return [math.nan if number == -1 else float(number) for number in numbers]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(COCO_SETS))
def test_a_random_coco_set_scores_as_in_pycocotools(seed: int, iou_type: str) -> None:
    truth, results = random_set(seed)
    scores = evaluate_coco(truth, results, iou_type)
    expected = as_nan(pycocotools_evaluation(truth, results, iou_type).stats)
    np.testing.assert_array_equal([scores[metric] for metric in COCO_METRICS], expected)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(LVIS_SETS))
def test_a_random_lvis_set_scores_as_in_the_lvis_package(
    seed: int, iou_type: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lvis = pytest.importorskip("lvis", reason="the official lvis package is not installed")
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis 0.5.3 was written for an older numpy
    truth, results = random_set(100 + seed)
    draw = np.random.default_rng([8, seed])
    ids = [category["id"] for category in truth["categories"]]
    for image in truth["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [number for number in ids if draw.random() < 0.3]
    for category in truth["categories"]:
        category["frequency"] = str(draw.choice(["r", "c", "f"]))
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(truth))
    annotated = lvis.LVIS(str(file))
    without_area = [{**result, "area": 0} for result in results]
    for result in without_area:
        del result["bbox" if iou_type == "segm" else "segmentation"]
    with pytest.warns(DeprecationWarning, match="warn"):
        official = lvis.LVISEval(annotated, lvis.LVISResults(annotated, without_area), iou_type)
    official.run()
    scores = evaluate_lvis(truth, results, iou_type)
    expected = official.get_results()
    np.testing.assert_array_equal([scores[metric] for metric in expected], as_nan(expected.values()))
