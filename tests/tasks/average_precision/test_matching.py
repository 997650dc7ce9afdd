from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as mask_tools

from sensitivity.tasks.average_precision.matching import (
    ALL_CRITERIA,
    IOU_THRESHOLDS,
    SIZES,
    Objects,
    Overlaps,
    assign,
    box_overlaps,
    by_threshold,
    criteria_of_areas,
    mask_overlaps,
    match,
    place_in_run,
)
from tests.tasks.random_scenes import random_box, rectangle


def objects(areas: list[float], crowd: list[bool] | None = None, queues: list[int] | None = None) -> Objects:
    number = len(areas)
    is_crowd = np.array(crowd or [False] * number, bool)
    criteria = np.where(is_crowd, np.uint64(0), criteria_of_areas(np.array(areas)))
    return Objects(np.array(queues or [0] * number), is_crowd, criteria, np.zeros((number, 4)))


def overlaps(*edges: tuple[int, int, float]) -> Overlaps:
    detections, objects, ious = zip(*edges, strict=True)
    return Overlaps(np.array(detections), np.array(objects), np.array(ious))


@pytest.mark.parametrize(
    ("keys", "places"),
    [([], []), ([4], [0]), ([4, 4], [0, 1]), ([1, 2, 2, 2, 1, 1], [0, 0, 1, 2, 0, 1])],
)
def test_places_are_counted_from_zero_in_every_run(keys: list[int], places: list[int]) -> None:
    assert place_in_run(np.array(keys, int)).tolist() == places


def test_an_area_belongs_to_the_sizes_whose_bounds_it_touches() -> None:
    areas = np.array([-1.0, 0.0, 1024.0, 1024.5, 9216.0, 9216.5, 1e10, 1.1e10])
    criteria = criteria_of_areas(areas)
    belongs = {size: by_threshold(criteria, size).all(axis=0).astype(int).tolist() for size in SIZES}
    assert belongs == {
        "all": [0, 1, 1, 1, 1, 1, 1, 0],
        "small": [0, 1, 1, 0, 0, 0, 0, 0],
        "medium": [0, 0, 1, 1, 1, 0, 0, 0],
        "large": [0, 0, 0, 0, 1, 1, 1, 0],
    }
    for size in SIZES:
        assert (by_threshold(criteria, size).any(axis=0) == by_threshold(criteria, size).all(axis=0)).all()


def test_all_criteria_are_ten_thresholds_of_four_sizes() -> None:
    assert int(ALL_CRITERIA) == 2 ** (len(IOU_THRESHOLDS) * len(SIZES)) - 1 == 2**40 - 1
    assert by_threshold(np.array([1 << 23], np.uint64), "medium")[:, 0].tolist() == [False] * 3 + [True] + [False] * 6


@pytest.mark.parametrize("crowd", [False, True])
def test_box_overlaps_have_the_bits_of_pycocotools(crowd: bool) -> None:
    draw = np.random.default_rng(0)
    boxes = draw.uniform(0, 1, (300, 4)) * [20, 20, 60, 60]
    truth = draw.uniform(0, 1, (40, 4)) * [20, 20, 60, 60]
    objects = Objects(np.zeros(40, int), np.full(40, crowd), np.zeros(40, np.uint64), truth)
    got = box_overlaps(boxes, objects, np.zeros(300, int), np.full(300, 40))
    expected = mask_tools.iou(boxes.tolist(), truth.tolist(), [int(crowd)] * 40)
    rows, columns = np.nonzero(expected >= 0.5)
    assert len(rows) > 500
    assert (got.detections == rows).all()
    assert (got.objects == columns).all()
    assert (got.ious == expected[rows, columns]).all()


def test_only_the_objects_of_its_own_range_overlap_a_detection() -> None:
    boxes = np.array([[0.0, 0, 10, 10]] * 4)
    objects = Objects(np.arange(4), np.zeros(4, bool), np.zeros(4, np.uint64), boxes)
    got = box_overlaps(boxes[:3], objects, np.array([3, 0, 1]), np.array([4, 0, 3]))
    assert list(zip(got.detections.tolist(), got.objects.tolist(), strict=True)) == [(0, 3), (2, 1), (2, 2)]


def test_mask_overlaps_are_those_of_boxes_for_rectangles() -> None:
    draw = np.random.default_rng(1)
    boxes = [random_box(draw) for _ in range(40)]
    crowd = np.arange(15) % 4 == 0
    queues = np.repeat([0, 1, 2], 5)
    first, last = np.repeat([0, 5, 10], [10, 0, 15]), np.repeat([5, 10, 15], [10, 0, 15])
    truth, detected = boxes[:15], boxes[15:]
    as_masks = Objects(queues, crowd, np.zeros(15, np.uint64), [rectangle(box) for box in truth])
    as_boxes = Objects(queues, crowd, np.zeros(15, np.uint64), np.array(truth))
    got = mask_overlaps([rectangle(box) for box in detected], as_masks, first, last)
    expected = box_overlaps(np.array(detected), as_boxes, first, last)
    assert len(got.ious) > 5
    for column, expected_column in zip(vars(got).values(), vars(expected).values(), strict=True):
        assert column.tolist() == expected_column.tolist()


def test_no_masks_overlap_nothing() -> None:
    got = mask_overlaps([], objects([]), np.zeros(0, int), np.zeros(0, int))
    assert [len(column) for column in vars(got).values()] == [0, 0, 0]


def test_the_better_detection_chooses_first_and_the_other_takes_what_is_left() -> None:
    edges = overlaps((0, 0, 0.8), (0, 1, 0.6), (1, 0, 0.9), (1, 1, 0.7))
    true, ignored = assign(edges, np.array([0, 0]), objects([100.0, 100.0]))
    # up to .60 the second takes what is left; at .65 and .70 too; at .75 and .80 nothing is left for it that reaches
    assert by_threshold(true, "all")[:, 0].tolist() == [True] * 7 + [False] * 3
    assert by_threshold(true, "all")[:, 1].tolist() == [True] * 5 + [False] * 2 + [True] * 2 + [False]
    assert not by_threshold(ignored, "all").any()


def test_queues_do_not_wait_for_each_other() -> None:
    edges = overlaps((0, 0, 0.9), (1, 1, 0.9), (2, 1, 0.9))
    true, _ = assign(edges, np.array([4, 6, 6]), objects([100.0, 100.0], queues=[4, 6]))
    assert by_threshold(true, "all")[0].tolist() == [True, True, False]


def test_what_an_object_of_another_size_has_taken_does_not_count() -> None:
    edges = overlaps((0, 0, 0.9), (0, 1, 0.6))
    true, ignored = assign(edges, np.array([0]), objects([5000.0, 100.0]))
    assert by_threshold(true, "all")[:, 0].tolist() == [True] * 9 + [False]
    assert by_threshold(true, "small")[:, 0].tolist() == [True] * 3 + [False] * 7  # the small object goes first
    assert by_threshold(ignored, "small")[:, 0].tolist() == [False] * 3 + [True] * 6 + [False]
    assert by_threshold(ignored, "large")[:, 0].tolist() == [True] * 9 + [False]


def test_a_detection_that_finds_nothing_counts_for_its_own_size_only() -> None:
    boxes = np.array([[0.0, 0, 10, 10]])
    true, ignored = match(objects([100.0], queues=[7]), np.array([2]), boxes, np.array([100.0]))
    assert not true.any()
    assert {size: by_threshold(ignored, size).all() for size in SIZES} == {
        "all": False,
        "small": False,
        "medium": True,
        "large": True,
    }
