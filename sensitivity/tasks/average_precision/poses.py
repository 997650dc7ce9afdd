"""Poses, and how alike two of them are: COCO's object keypoint similarity (OKS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

_PAIRS = (0.025, 0.035, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089)
COCO_SIGMAS = (0.026, *(sigma for sigma in _PAIRS for _ in ("left", "right")))
"""How far apart people mark the same point, relative to the size of a person: nose, then left and right eye, ear,
shoulder, elbow, wrist, hip, knee and ankle."""


@dataclass(frozen=True)
class Poses:
    """N detected poses of K keypoints.

    Attributes:
        points: (N, K, 2) float64 x, y in pixels, finite.
    """

    points: Floats

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, chosen: Ints) -> Poses:
        return Poses(self.points[chosen])

    def boxes(self) -> Floats:
        """(N, 4) x, y, width, height of the smallest box around each pose."""
        if not self.points.size:
            return np.zeros((0, 4))
        low, high = self.points.min(1), self.points.max(1)
        return np.concatenate([low, high - low], axis=1)

    def areas(self) -> Floats:
        """(N,) area of the smallest box around each pose, in pixels."""
        sides = self.boxes()[:, 2:]
        areas: Floats = sides[:, 0] * sides[:, 1]
        return areas


@dataclass(frozen=True)
class AnnotatedPoses:
    """G annotated poses of K keypoints.

    Attributes:
        points: (G, K, 2) float64 x, y in pixels.
        labelled: (G, K) whether a keypoint is annotated; where none of a pose is, the box counts.
        boxes: (G, 4) float64 x, y, width, height in pixels.
        areas: (G,) float64, of the object in pixels.
        sigmas: (K,) float64.
    """

    points: Floats
    labelled: Bools
    boxes: Floats
    areas: Floats
    sigmas: Floats

    @classmethod
    def of(cls, objects: Sequence[Mapping[str, Any]], sigmas: Floats) -> AnnotatedPoses:
        """The poses of annotations that have ``keypoints``, ``bbox`` and ``area``."""
        points = np.array([known["keypoints"] for known in objects], np.float64).reshape(-1, len(sigmas), 3)
        boxes = np.array([known["bbox"] for known in objects], np.float64).reshape(-1, 4)
        areas = np.array([known["area"] for known in objects], np.float64)
        return cls(points[..., :2], points[..., 2] > 0, boxes, areas, sigmas)

    def of_all(self, points: Floats) -> Floats:
        """(N, G) OKS of detected poses (N, K, 2) with every annotated pose, in [0, 1]."""
        alike = np.zeros((len(points), len(self.points)))
        with np.errstate(over="ignore", invalid="ignore"):
            for number in range(len(self.points)):
                alike[:, number] = self.similarities(number, Poses(points))
        return np.nan_to_num(alike)

    def similarities(self, number: int, poses: Poses) -> Floats:
        """(N,) OKS of each detected pose with one annotated pose, in [0, 1].

        Args:
            number: Of the annotated pose.
            poses: What was detected.

        Source:
            ``COCOeval.computeOks`` of pycocotools 2.0.11, in its order of operations.
        """
        variances = (self.sigmas * 2) ** 2
        labelled = self.labelled[number]
        if labelled.any():
            apart = poses.points - self.points[number]
        else:  # the distance to a box twice as large to every side
            corner, sides = self.boxes[number, :2], self.boxes[number, 2:]
            low, high = corner - sides, corner + sides * 2
            apart = np.maximum(0.0, low - poses.points) + np.maximum(0.0, poses.points - high)
        errors = (apart[..., 0] ** 2 + apart[..., 1] ** 2) / variances / (self.areas[number] + np.spacing(1)) / 2
        if labelled.any():
            errors = errors[:, labelled]
        alike: Floats = np.sum(np.exp(-errors), axis=1) / errors.shape[1]
        return alike
