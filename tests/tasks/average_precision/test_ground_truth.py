from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_tools

from sensitivity.errors import PredictionError
from sensitivity.tasks.annotations.annotation_file import CocoAnnotations
from sensitivity.tasks.average_precision.ground_truth import DetectionTable, GroundTruth
from sensitivity.tasks.average_precision.matching import SIZES, by_threshold
from sensitivity.tasks.coco import COCO_METRICS, as_detections, coco_metrics, evaluate_coco
from tests.tasks.made_scenes import annotation
from tests.tasks.random_scenes import Plain, flat, pycocotools_evaluation, random_results, random_truth, rectangle


def assert_equal_bits(scores: dict[str, float], expected: Any) -> None:
    assert tuple(scores) == COCO_METRICS
    for (name, number), reference in zip(scores.items(), expected.tolist(), strict=True):
        if reference == -1:
            assert math.isnan(number), name
        else:
            assert number == reference, name


def check(truth: Plain, results: list[Plain], iou_type: str = "bbox", **settings: Any) -> dict[str, float]:
    scores = evaluate_coco(truth, results, iou_type, **settings)
    assert_equal_bits(scores, pycocotools_evaluation(truth, results, iou_type, **settings).stats)
    return scores


def scene(objects: list[Plain], images: int = 1) -> Plain:
    """Images 10, 11, ... of 160 x 160 pixels; categories 3, 5 and 8."""
    return {
        "images": [{"id": 10 + number, "height": 160, "width": 160} for number in range(images)],
        "categories": [{"id": number, "name": str(number)} for number in (8, 3, 5)],
        "annotations": objects,
    }


def result(box: tuple[float, float, float, float], score: float, image: int = 10, category: int = 3) -> Plain:
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


@pytest.mark.parametrize(("file", "iou_type"), [("fakebbox", "bbox"), ("fakesegm", "segm")])
@pytest.mark.parametrize("use_categories", [True, False])
def test_the_fake_results_of_cocoapi_give_the_bits_of_pycocotools(
    shared_data: Path, file: str, iou_type: str, use_categories: bool
) -> None:
    folder = shared_data / "coco_fake100"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / f"instances_val2014_{file}100_results.json").read_text())
    scores = check(truth, results, iou_type, use_categories=use_categories)
    assert 0.2 < scores["AP50"] < 0.9


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("use_categories", [True, False])
def test_random_boxes_give_the_bits_of_pycocotools(seed: int, use_categories: bool) -> None:
    draw = np.random.default_rng(seed)
    truth = random_truth(draw, images=1 + seed % 5, categories=1 + seed % 4, objects=5 * seed)
    check(truth, random_results(draw, truth, 20 * seed), use_categories=use_categories)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("use_categories", [True, False])
def test_random_masks_give_the_bits_of_pycocotools(seed: int, use_categories: bool) -> None:
    draw = np.random.default_rng(seed)
    truth = random_truth(draw, images=3, categories=3, objects=12 * seed)
    check(truth, random_results(draw, truth, 80), "segm", use_categories=use_categories)


@pytest.mark.parametrize("seed", range(6))
def test_random_subsets_of_images_give_the_bits_of_pycocotools(seed: int) -> None:
    draw = np.random.default_rng(100 + seed)
    truth = random_truth(draw, images=6, categories=3, objects=40)
    results = random_results(draw, truth, 150)
    images = draw.permutation([image["id"] for image in truth["images"]])[: seed + 1].tolist()
    check(truth, results, images=images)


@pytest.mark.parametrize("seed", range(3))
def test_more_than_100_detections_of_a_category_give_the_bits_of_pycocotools(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth = random_truth(draw, images=2, categories=2, objects=60)
    results = random_results(draw, truth, 700, scores=20)
    matches = match(truth, results)[2]
    assert len(matches.detections) < len(results)
    assert matches.ranks.max() == 99
    check(truth, results)
    check(truth, results, use_categories=False)


_SIDES = st.sampled_from([0.0, 0.5, 8.0, 10.0, 32.0, 96.0])
_BOXES = st.tuples(st.sampled_from([0.0, 2.0, 5.0]), st.sampled_from([0.0, 1.0]), _SIDES, _SIDES)
_OBJECTS = st.lists(st.tuples(st.sampled_from([10, 11]), st.sampled_from([3, 5]), _BOXES, st.booleans()), max_size=6)
_RESULTS = st.lists(
    st.tuples(
        _BOXES, st.sampled_from([-1.0, -0.0, 0.0, 0.5, 0.7]), st.sampled_from([10, 11, 12]), st.sampled_from([3, 5])
    )
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(objects=_OBJECTS, results=_RESULTS, use_categories=st.booleans())
def test_any_small_scene_gives_the_bits_of_pycocotools(objects: Any, results: Any, use_categories: bool) -> None:
    annotations = [
        annotation(number, image, category, box, iscrowd=int(crowd))
        for number, (image, category, box, crowd) in enumerate(objects, start=1)
    ]
    check(scene(annotations, images=3), [result(*arguments) for arguments in results], use_categories=use_categories)


def match(truth: Plain, results: list[Plain], **settings: Any) -> tuple[GroundTruth, DetectionTable, Any]:
    annotations, detections = flat(truth, results)
    prepared = GroundTruth(annotations, "bbox", **settings)
    return prepared, detections, prepared.match(detections, range(len(annotations.images)), limit=100)


@pytest.mark.parametrize("seed", range(4))
def test_every_detection_has_the_fate_that_pycocotools_gives_it(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth = random_truth(draw, images=3, categories=3, objects=50)
    results = random_results(draw, truth, 400)
    _, _, matches = match(truth, results)
    row = {detection: number for number, detection in enumerate(matches.detections.tolist())}
    seen = 0
    sizes = {tuple(bounds): size for size, bounds in SIZES.items()}
    for evaluated in filter(None, pycocotools_evaluation(truth, results).evalImgs):
        size = sizes[tuple(float(bound) for bound in evaluated["aRng"])]
        rows = [row[number - 1] for number in evaluated["dtIds"]]
        true = (evaluated["dtMatches"] > 0) & ~evaluated["dtIgnore"]
        assert (by_threshold(matches.true[rows], size) == true).all()
        assert (by_threshold(matches.ignored[rows], size) == evaluated["dtIgnore"]).all()
        assert matches.ranks[rows].tolist() == list(range(len(rows)))
        seen += len(rows)
    assert seen == len(SIZES) * len(row) > 1000


def test_the_table_of_matches_is_in_the_order_of_counting() -> None:
    truth = scene([annotation(1, 10, 3, (0, 0, 10, 10)), annotation(2, 11, 5, (0, 0, 10, 10))], images=2)
    boxes = [(0, 0, 10, 10), (50, 50, 10, 10), (0, 0, 10, 10), (0, 0, 10, 6)]
    rows = zip(boxes, [0.5, 0.9, 0.5, 0.7], [11, 10, 10, 11], [5, 3, 3, 5], strict=True)
    prepared, detections, matches = match(truth, [result(*row) for row in rows])
    assert matches.detections.tolist() == [1, 2, 3, 0]
    assert matches.categories.tolist() == [0, 0, 1, 1]
    assert matches.ranks.tolist() == [0, 1, 0, 1]
    assert by_threshold(matches.true, "all")[0].tolist() == [False, True, True, False]
    assert by_threshold(matches.true, "all")[3].tolist() == [False, True, False, True]
    assert not by_threshold(matches.ignored, "all").any()
    assert by_threshold(matches.ignored, "large").all()
    assert {size: count.tolist() for size, count in prepared.count([0, 1]).items()} == {
        "all": [1, 1, 0],
        "small": [1, 1, 0],
        "medium": [0, 0, 0],
        "large": [0, 0, 0],
    }
    assert prepared.count([1])["all"].tolist() == [0, 1, 0]
    assert prepared.has_objects(detections).tolist() == [True, True, True, True]
    lost = [result((0, 0, 1, 1), 0.5, 10, 5), result((0, 0, 1, 1), 0.5, 11, 5)]
    assert prepared.has_objects(flat(truth, lost)[1]).tolist() == [False, True]


def test_ground_truth_is_prepared_once_and_left_as_it_is() -> None:
    draw = np.random.default_rng(0)
    truth = random_truth(draw, images=4, categories=3, objects=30)
    annotations = CocoAnnotations.load(truth)
    prepared = GroundTruth(annotations, "bbox")
    first, second = (as_detections(random_results(draw, truth, 60), annotations, "bbox") for _ in range(2))
    positions = range(len(annotations.images))
    scores = [coco_metrics(prepared, detections, positions) for detections in (first, second, first)]
    assert scores[0] == scores[2] != scores[1]
    assert scores[1] == coco_metrics(GroundTruth(annotations, "bbox"), second, positions)


def test_objects_and_detections_on_the_bound_of_a_size_belong_to_both_sides() -> None:
    objects = [annotation(1, 10, 3, (0, 0, 32, 32)), annotation(2, 11, 3, (0, 0, 96, 96))]
    truth = scene(objects, images=2)
    prepared, _, matches = match(truth, [result((100, 0, 32, 32), 0.9), result((100, 100, 96, 96), 0.8)])
    assert [int(number[0]) for number in prepared.count([0, 1]).values()] == [2, 1, 2, 1]
    counted = [(~by_threshold(matches.ignored, size)[0]).tolist() for size in SIZES]
    assert counted == [[True, True], [True, False], [True, True], [False, True]]
    check(truth, [result((0, 0, 32, 32), 0.9), result((0, 0, 96, 96), 0.8, 11)])


def test_of_equal_overlaps_the_later_object_is_taken() -> None:
    truth = scene([annotation(1, 10, 3, (0, 0, 20, 10)), annotation(2, 10, 3, (4, 0, 20, 10))])
    scores = check(truth, [result((2, 0, 20, 10), 0.9), result((0, 0, 20, 10), 0.8)])
    assert scores["AP75"] == pytest.approx(1.0)


def test_an_object_that_counts_goes_before_a_crowd_that_overlaps_more() -> None:
    truth = scene([annotation(1, 10, 3, (0, 0, 20, 10)), annotation(2, 10, 3, (0, 0, 60, 60), iscrowd=1)])
    scores = check(truth, [result((0, 0, 20, 14), 0.9)])
    assert scores["AR100"] == pytest.approx(0.5)  # IoU 10/14 up to .70, beyond that the crowd


def test_a_crowd_region_hides_any_number_of_detections_but_an_ignored_object_one() -> None:
    crowd = annotation(1, 10, 3, (0, 0, 60, 60), iscrowd=1)
    real = annotation(2, 10, 3, (100, 100, 20, 20))
    inside = [result((5 * n, 5, 10, 10), 0.9) for n in range(5)]
    hit = result((100, 100, 20, 20), 0.5)
    assert check(scene([crowd, real]), [*inside, hit])["AP"] == pytest.approx(1.0)
    large = annotation(1, 10, 3, (0, 0, 100, 100))
    twice = [result((0, 0, 98, 98), 0.9), result((0, 0, 94, 94), 0.8), hit]
    assert check(scene([large, real]), twice[::2])["APs"] == pytest.approx(1.0)
    assert check(scene([large, real]), twice)["APs"] == pytest.approx(1.0)
    assert check(scene([large, real]), twice)["APl"] == pytest.approx(1.0)
    assert check(scene([large, real]), twice)["AP"] < 0.9


def test_equal_scores_are_counted_by_ascending_image_id_then_as_given() -> None:
    truth = scene([annotation(1, 11, 3, (0, 0, 20, 10))], images=2)
    truth["images"].reverse()
    hit, miss = result((0, 0, 20, 10), 0.5, 11), result((50, 50, 20, 10), 0.5, 10)
    assert check(truth, [hit, miss])["AP"] == check(truth, [miss, hit])["AP"] == pytest.approx(0.5)
    same = {**miss, "image_id": 11}
    assert check(truth, [hit, same])["AP"] == pytest.approx(1.0)
    assert check(truth, [same, hit])["AP"] == pytest.approx(0.5)


def test_zero_and_minus_zero_are_equal_scores() -> None:
    truth = scene([annotation(1, 10, 3, (0, 0, 20, 10))])
    hit, miss = result((0, 0, 20, 10), -0.0), result((50, 50, 20, 10), 0.0)
    assert check(truth, [hit, miss])["AP"] == pytest.approx(1.0)


def test_boxes_without_area_and_inside_out_boxes_match_nothing() -> None:
    truth = scene([annotation(1, 10, 3, (0, 0, 20, 10)), annotation(2, 10, 3, (30, 30, 0, 0))])
    odd = [result(box, 0.9) for box in ((30, 30, 0, 0), (0, 0, 20, 0), (20, 10, -20, -10), (20, 0, -20, 10))]
    scores = check(truth, [*odd, result((0, 0, 20, 10), 0.8)])
    assert scores["AP"] < 0.3


@pytest.mark.parametrize("huge", [1e155, 1e308])
def test_a_box_too_large_for_arithmetic_is_no_object_and_no_warning(huge: float) -> None:
    crowd = annotation(2, 10, 3, (0, 0, huge, huge), iscrowd=1, area=200, segmentation=[])
    truth = scene([annotation(1, 10, 3, (0, 0, 20, 10)), crowd])
    boxes = [(-huge, -huge, huge, huge), (0, 0, huge, huge), (huge, 0, huge, 1)]
    scores = evaluate_coco(truth, [*(result(box, 0.9) for box in boxes), result((0, 0, 20, 10), 0.8)])
    assert scores["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_nothing_found_is_zero_and_nothing_to_find_is_nan(iou_type: str) -> None:
    box = [0.0, 0.0, 20.0, 10.0]
    truth = scene([{**annotation(1, 10, 3, (0, 0, 20, 10)), "segmentation": rectangle(box)}])
    assert check(truth, [], iou_type)["AP"] == 0.0
    results = [{**result((0, 0, 20, 10), 0.9), "segmentation": rectangle(box)}]
    assert math.isnan(check(scene([]), results, iou_type)["AP"])
    assert math.isnan(check(scene([]), [], iou_type)["AR100"])


def test_more_than_255_masks_have_areas_too() -> None:
    masks = [rectangle([0.0, 0.0, 10.0, number]) for number in range(150)] * 2
    detections = DetectionTable(np.zeros(300, int), np.zeros(300, int), np.zeros(300), masks)
    assert detections.areas().tolist() == [10.0 * number for number in range(150)] * 2
    assert detections.take(np.array([7, 3])).areas().tolist() == [70.0, 30.0]
    assert mask_tools.area(masks[2]) == 20


def test_unknown_categories_are_refused() -> None:
    prepared = GroundTruth(CocoAnnotations.load(scene([])), "bbox")
    detections = DetectionTable(np.zeros(2, int), np.array([3, 4]), np.ones(2), np.ones((2, 4)))
    with pytest.raises(PredictionError, match=r"category ids \[4\], .* it has 3: \[3, 5, 8\]"):
        prepared.match(detections, [0], limit=100)
