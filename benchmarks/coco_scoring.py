"""Scoring COCO boxes: pycocotools against ours, the same detections, one after the other.

    OMP_NUM_THREADS=1 python benchmarks/coco_scoring.py
    OMP_NUM_THREADS=1 python benchmarks/coco_scoring.py --images 50 --detections 180 --pairs 10

Each pair scores detections of its own; the ratio is the median over pairs, since a machine's speed drifts. pycocotools
is timed without the making of its index, ours without the ground truth, which is prepared once and timed by itself.
``interval_over_score`` is what bounds of one drop of AP cost, by groups left out, in scores. Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sensitivity.sweep.stopping.jackknife import GROUPS, GROUPS_OF_A_STOP, deal
from sensitivity.tasks.annotations.annotation_file import CocoAnnotations
from sensitivity.tasks.average_precision.curves import Matched
from sensitivity.tasks.average_precision.ground_truth import DetectionTable, GroundTruth
from sensitivity.tasks.coco import COCO_METRICS, coco_metrics

Plain = dict[str, Any]
OBJECTS_OF_AN_IMAGE = 7.3  # COCO val2017
WIDTH, HEIGHT = 640.0, 480.0


def draw_boxes(draw: np.random.Generator, number: int) -> np.ndarray:
    """(N, 4) x, y, width, height, of sizes as mixed as COCO's."""
    sides = np.exp(draw.uniform(np.log(8), np.log(400), (number, 2)))
    return np.concatenate([draw.uniform(0, 1, (number, 2)) * [WIDTH, HEIGHT], sides], axis=1).round(2)


def draw_truth(draw: np.random.Generator, images: int, categories: int) -> Plain:
    number = round(images * OBJECTS_OF_AN_IMAGE)
    # a few categories are most of COCO, and an image has few
    popularity = 1 / np.arange(1, categories + 1)
    of_image = draw.choice(categories, (images, 3), p=popularity / popularity.sum())
    owners = draw.integers(0, images, number)
    labels = of_image[owners, draw.integers(0, 3, number)]
    annotations = [
        {
            "id": number + 1,
            "image_id": int(owners[number]) + 1,
            "category_id": int(labels[number]) + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(crowd),
        }
        for number, (box, crowd) in enumerate(
            zip(draw_boxes(draw, number).tolist(), draw.random(number) < 0.01, strict=True)
        )
    ]
    return {
        "images": [{"id": number + 1, "width": int(WIDTH), "height": int(HEIGHT)} for number in range(images)],
        "annotations": annotations,
        "categories": [{"id": number + 1, "name": str(number)} for number in range(categories)],
    }


def draw_detections(draw: np.random.Generator, truth: Plain, per_image: int) -> DetectionTable:
    """As a detector's: half near objects, most of them with the right label and a good score; the rest anywhere."""
    images = len(truth["images"])
    images_of = np.repeat(np.arange(images), per_image)
    boxes = draw_boxes(draw, len(images_of))
    labels = draw.integers(1, len(truth["categories"]) + 1, len(images_of))
    objects = np.array([annotation["bbox"] for annotation in truth["annotations"]])
    owners = np.array([annotation["image_id"] - 1 for annotation in truth["annotations"]])
    categories = np.array([annotation["category_id"] for annotation in truth["annotations"]])
    order = np.argsort(owners, kind="stable")
    first, counts = np.searchsorted(owners[order], images_of), np.bincount(owners, minlength=images)[images_of]
    chosen = order[np.minimum(first + (draw.random(len(images_of)) * counts).astype(int), len(order) - 1)]
    near = (draw.random(len(images_of)) < 0.5) & (counts > 0)
    boxes[near] = objects[chosen[near]] * draw.normal(1, 0.08, (near.sum(), 4))
    right = (counts > 0) & (draw.random(len(images_of)) < 0.7)
    labels[right] = categories[chosen[right]]
    scores = draw.beta(1, 8, len(images_of)) + 0.5 * (near & right) * draw.random(len(images_of))
    return DetectionTable(images_of, labels, scores.round(4), np.abs(boxes))


def as_coco(truth: Plain, objects: list[Plain]) -> COCO:
    coco = COCO()
    coco.dataset = {**truth, "annotations": objects}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def as_results(detections: DetectionTable) -> list[Plain]:
    columns = (
        detections.images.tolist(),
        detections.categories.tolist(),
        detections.scores.tolist(),
        detections.shapes.tolist(),
    )
    return [
        {"id": n, "image_id": i + 1, "category_id": c, "score": s, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for n, (i, c, s, b) in enumerate(zip(*columns, strict=True), start=1)
    ]


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - started, result


def pycocotools_scores(truth: COCO, detections: COCO) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, detections, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(number) for number in evaluation.stats]


def aps_without(prepared: GroundTruth, detections: DetectionTable, images: Sequence[int], groups: int) -> list[float]:
    """AP of all images, and of these less each group: what an interval of a drop takes."""
    matches = prepared.match(detections, images, limit=100)
    left_out = [[], *deal(images, groups)]
    places = detections.images[matches.detections]
    without = Matched(prepared, matches, places, images, limits=(100,)).curves_without(left_out, "all")
    return [curves.average_precision() for curves in without]


def compare(images: int, per_image: int, categories: int, pairs: int, seed: int) -> Plain:
    draw = np.random.default_rng(seed)
    truth = draw_truth(draw, images, categories)
    annotations = CocoAnnotations.load(truth)
    prepare_s, prepared = timed(GroundTruth, annotations, "bbox")
    reference_truth = as_coco(truth, truth["annotations"])
    theirs_s, ours_s, equal = [], [], []
    intervals_s: dict[int, list[float]] = {GROUPS: [], GROUPS_OF_A_STOP: []}
    for _ in range(pairs):
        detections = draw_detections(draw, truth, per_image)
        reference_found = as_coco(truth, as_results(detections))
        seconds, expected = timed(pycocotools_scores, reference_truth, reference_found)
        theirs_s.append(seconds)
        runs = [timed(coco_metrics, prepared, detections, range(images)) for _ in range(3)]
        ours_s.append(statistics.median(seconds for seconds, _ in runs))
        for groups, taken in intervals_s.items():
            taken.append(timed(aps_without, prepared, detections, range(images), groups)[0])
        equal.append([runs[0][1][name] for name in COCO_METRICS] == expected)
    return {
        "images": images,
        "detections_per_image": per_image,
        "categories": categories,
        "pairs": pairs,
        "pycocotools_s": statistics.median(theirs_s),
        "ours_s": statistics.median(ours_s),
        "ratio": statistics.median(a / b for a, b in zip(theirs_s, ours_s, strict=True)),
        "interval_over_score": {
            groups: statistics.median(a / b for a, b in zip(taken, ours_s, strict=True))
            for groups, taken in intervals_s.items()
        },
        "prepare_s": prepare_s,
        "all_bits_equal": all(equal),
        "AP": expected[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="of each image")
    parser.add_argument("--categories", type=int, default=80)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(
        json.dumps(
            compare(options.images, options.detections, options.categories, options.pairs, options.seed), indent=2
        )
    )


if __name__ == "__main__":
    main()
