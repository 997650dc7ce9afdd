"""Which detection finds which object, at all IoU thresholds and for all object sizes at once.

COCO matches the same detections forty times: at ten IoU thresholds, for objects of four sizes. One such pair of a
threshold and a size is a *criterion*. Each is bit ``10 * size + threshold`` of a 64-bit word, so that a few bit
operations on whole arrays make every decision below for all criteria, and none is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_tools

from sensitivity.tasks.average_precision.poses import Poses

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}

_THRESHOLDS = len(IOU_THRESHOLDS)
_CRITERIA_OF_SIZE = {
    size: np.uint64((2**_THRESHOLDS - 1) << (_THRESHOLDS * number)) for number, size in enumerate(SIZES)
}
# entry n: the criteria of the n lowest thresholds, for every size
_CRITERIA_BELOW = np.array(
    [
        sum((2**reached - 1) << (_THRESHOLDS * number) for number in range(len(SIZES)))
        for reached in range(_THRESHOLDS + 1)
    ],
    np.uint64,
)
ALL_CRITERIA: np.uint64 = _CRITERIA_BELOW[-1]


@dataclass(frozen=True)
class Objects:
    """G annotated objects, ascending by queue; one image and one category share a *queue*, in which detections wait.

    Attributes:
        queues: (G,) number of the queue.
        crowd: (G,) whether it is a crowd region, which may be found any number of times.
        criteria: (G,) words: criteria in which it counts; in the others it is ignored.
        shapes: (G, 4) float64 ``x, y, width, height`` in pixels, or a list of G compressed RLE, or ``AnnotatedPoses``.
    """

    queues: Ints
    crowd: Bools
    criteria: Words
    shapes: Any


@dataclass(frozen=True)
class Overlaps:
    """The E pairs of a detection and an object that overlap enough for the lowest threshold.

    Attributes:
        detections: (E,) index of the detection.
        objects: (E,) index of the object.
        ious: (E,) intersection over union; for a crowd region, intersection over the area of the detection.
    """

    detections: Ints
    objects: Ints
    ious: Floats

    @classmethod
    def joined(cls, parts: Sequence[tuple[Ints, Ints, Floats]]) -> Overlaps:
        """The pairs of several parts, each of them the three columns; none where there is no part."""
        nothing = (np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0))
        return cls(*(np.concatenate(column) for column in zip(nothing, *parts, strict=True)))


@dataclass(frozen=True)
class _Candidates:
    """(W,) detections, the objects that they would take, and the criteria in which; best first."""

    detections: Ints
    objects: Ints
    criteria: Words


def criteria_of_areas(areas: Floats) -> Words:
    """(N,) the criteria of the sizes that each of (N,) areas in pixels belongs to; bounds belong to both sides."""
    criteria = np.zeros(len(areas), np.uint64)
    for size, (smallest, largest) in SIZES.items():
        criteria[(areas >= smallest) & (areas <= largest)] |= _CRITERIA_OF_SIZE[size]
    return criteria


def by_threshold(criteria: Words, size: str) -> Bools:
    """(10, N) the criteria of one size in each of (N,) words, by IoU threshold.

    Args:
        criteria: (N,) words.
        size: One of ``SIZES``.
    """
    of_size = (criteria >> np.uint64(_THRESHOLDS * list(SIZES).index(size))).astype(np.uint16)
    is_set: Bools = (of_size & (1 << np.arange(_THRESHOLDS, dtype=np.uint16))[:, None]) != 0
    return is_set


def place_in_run(keys: npt.NDArray[Any]) -> Ints:
    """(N,) place of each element in its run of equal neighbours.

    Example:
        >>> place_in_run(np.array([7, 7, 7, 3, 3, 7])).tolist()
        [0, 1, 2, 0, 1, 0]
    """
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    lengths = np.diff(starts, append=len(keys))
    return np.arange(len(keys)) - np.repeat(starts, lengths)


def match(truth: Objects, queues: Ints, shapes: Any, areas: Floats) -> tuple[Words, Words]:
    """What becomes of D detections, ascending by queue and, within one, best first.

    Args:
        truth: The objects that they may find.
        queues: (D,) number of the queue of each detection.
        shapes: As ``truth.shapes``; ``Poses`` for ``AnnotatedPoses``.
        areas: (D,) in pixels.

    Returns:
        (D,) criteria by which each detection found an object that counts; and (D,) criteria by which the detection does
        not count, since it found an ignored object, or found nothing and is of another size itself. By the remaining
        criteria it is a false positive.

    Source:
        ``COCOeval.evaluateImg`` of pycocotools 2.0.11, with its thresholds and sizes.
    """
    first, last = (np.searchsorted(truth.queues, queues, side=side) for side in ("left", "right"))
    hopeful = np.flatnonzero(last > first)  # most detections wait where there is nothing to find
    true, ignored = np.zeros(len(queues), np.uint64), np.zeros(len(queues), np.uint64)
    if isinstance(shapes, Poses):
        overlaps = pose_overlaps(shapes[hopeful], truth, first[hopeful], last[hopeful])
    elif isinstance(shapes, list):
        overlaps = mask_overlaps([shapes[detection] for detection in hopeful], truth, first[hopeful], last[hopeful])
    else:
        overlaps = box_overlaps(shapes[hopeful], truth, first[hopeful], last[hopeful])
    true[hopeful], ignored[hopeful] = assign(overlaps, queues[hopeful], truth)
    return true, ignored | (~(true | criteria_of_areas(areas)) & ALL_CRITERIA)


def box_overlaps(boxes_found: Floats, truth: Objects, first: Ints, last: Ints) -> Overlaps:
    """Overlaps of boxes, each computed in the order of operations of pycocotools, so that every bit is the same.

    That holds for its x86-64 builds; a compiler for another processor may fuse a product and a sum of its C code. A box
    whose area is too large for a float64 overlaps nothing.

    Args:
        boxes_found: (D, 4) detections, x, y, width, height.
        truth: Objects with boxes.
        first: (D,) the objects that detection ``d`` may find are ``first[d]`` up to, not including, ``last[d]``.
        last: (D,).
    """
    counts = last - first
    detections = np.repeat(np.arange(len(boxes_found)), counts)
    objects = np.arange(len(detections)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    boxes = truth.shapes
    with np.errstate(over="ignore", invalid="ignore"):
        found_ends, truth_ends = boxes_found[:, 2:] + boxes_found[:, :2], boxes[:, 2:] + boxes[:, :2]
        found_areas, truth_areas = boxes_found[:, 2] * boxes_found[:, 3], boxes[:, 2] * boxes[:, 3]
        sides = [
            np.minimum(found_ends[detections, axis], truth_ends[objects, axis])
            - np.maximum(boxes_found[detections, axis], boxes[objects, axis])
            for axis in (0, 1)
        ]
        touching = np.flatnonzero((sides[0] > 0) & (sides[1] > 0))
        detections, objects = detections[touching], objects[touching]
        shared = sides[0][touching] * sides[1][touching]
        own = found_areas[detections]
        ious = shared / np.where(truth.crowd[objects], own, own + truth_areas[objects] - shared)
    enough = np.flatnonzero(ious >= IOU_THRESHOLDS[0])
    return Overlaps(detections[enough], objects[enough], ious[enough])


def mask_overlaps(masks: Sequence[Any], truth: Objects, first: Ints, last: Ints) -> Overlaps:
    """Overlaps of masks, by pycocotools; as ``box_overlaps``, but for lists of compressed RLE.

    Detections with the same ``first`` must be neighbours, and each must have an object that it may find.
    """
    starts = np.flatnonzero(place_in_run(first) == 0)
    parts = []
    for start, end in pairwise([*starts.tolist(), len(masks)]):
        objects = slice(first[start], last[start])
        ious = mask_tools.iou(masks[start:end], truth.shapes[objects], truth.crowd[objects].tolist())
        rows, columns = np.nonzero(ious >= IOU_THRESHOLDS[0])
        parts.append((rows + start, columns + first[start], ious[rows, columns]))
    return Overlaps.joined(parts)


def pose_overlaps(poses: Poses, truth: Objects, first: Ints, last: Ints) -> Overlaps:
    """Object keypoint similarities in the place of overlaps; as ``mask_overlaps``, but for poses."""
    starts = np.flatnonzero(place_in_run(first) == 0)
    parts = []
    for start, end in pairwise([*starts.tolist(), len(poses)]):
        waiting = np.arange(start, end)
        for number in range(first[start], last[start]):
            alike = truth.shapes.similarities(number, poses[waiting])
            enough = np.flatnonzero(alike >= IOU_THRESHOLDS[0])
            parts.append((waiting[enough], np.full(len(enough), number, np.intp), alike[enough]))
    return Overlaps.joined(parts)


def assign(overlaps: Overlaps, queues: Ints, truth: Objects) -> tuple[Words, Words]:
    """Let every detection, best first, take the free object that it overlaps most.

    An object that counts goes before one that is ignored; of equal overlaps the last object is taken. An object is
    taken once in each criterion, but a crowd region as often as it is found.

    Args:
        overlaps: Indices into the detections and objects below.
        queues: (D,) number of the queue of each detection; those of one queue are neighbours, best first.
        truth: The objects.

    Returns:
        (D,) criteria in which each detection took an object that counts, and (D,) those in which it took an ignored
        one.
    """
    candidates, rank, turn = _candidates(overlaps, queues, truth.criteria)
    order = np.lexsort((rank, turn))
    ends = np.flatnonzero((np.diff(rank[order]) != 0) | (np.diff(turn[order]) != 0)) + 1
    free = np.full(len(truth.criteria), ALL_CRITERIA)
    reusable = np.where(truth.crowd, ALL_CRITERIA, np.uint64(0))
    true, taken = np.zeros(len(queues), np.uint64), np.zeros(len(queues), np.uint64)
    # One step is the candidate of rank n of at most one detection a queue: no two of them can want the same object.
    for step in np.split(order, ends):
        detection, wanted_objects = candidates.detections[step], candidates.objects[step]
        gain = candidates.criteria[step] & free[wanted_objects] & ~taken[detection]
        taken[detection] |= gain
        true[detection] |= gain & truth.criteria[wanted_objects]
        free[wanted_objects] &= ~gain | reusable[wanted_objects]
    return true, taken & ~true


def _candidates(overlaps: Overlaps, queues: Ints, counting: Words) -> tuple[_Candidates, Ints, Ints]:
    """Candidate objects of each detection; their rank among its own; and its turn among the detections of its queue."""
    reached = _CRITERIA_BELOW[np.searchsorted(IOU_THRESHOLDS, overlaps.ious, side="right")]
    counts = counting[overlaps.objects]
    criteria = np.concatenate([reached & counts, reached & ~counts])
    second_choice = np.repeat([False, True], len(reached))
    detections, objects, ious = (np.tile(part, 2) for part in (overlaps.detections, overlaps.objects, overlaps.ious))
    order = np.lexsort((-objects, -ious, second_choice, detections))
    order = order[criteria[order] != 0]
    candidates = _Candidates(detections[order], objects[order], criteria[order])
    rank = place_in_run(candidates.detections)
    turns = np.zeros(len(queues), np.intp)
    matching = candidates.detections[rank == 0]
    turns[matching] = place_in_run(queues[matching])
    return candidates, rank, turns[candidates.detections]
