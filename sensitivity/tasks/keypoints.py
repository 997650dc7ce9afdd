"""COCO average precision of keypoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sensitivity.errors import AnnotationError, PredictionError, TaskError
from sensitivity.records.arguments import checked
from sensitivity.tasks.annotations.category_labels import Labels
from sensitivity.tasks.annotations.checks import Record
from sensitivity.tasks.annotations.segmentations import finite_numbers, whole_number
from sensitivity.tasks.average_precision.curves import Matched, MetricReading, matched
from sensitivity.tasks.average_precision.detections import Prediction
from sensitivity.tasks.average_precision.ground_truth import GroundTruth
from sensitivity.tasks.average_precision.poses import COCO_SIGMAS, AnnotatedPoses
from sensitivity.tasks.datasets import Preprocess, Size, as_array
from sensitivity.tasks.detector import Adapter, DetectionTask
from sensitivity.tasks.fingerprint import fingerprint
from sensitivity.tasks.first_look.objects import POSE_ORDERS, Floats, Ints, PredictedImage, shapes_look_like

_LIMITS = (20,)
_READINGS = {
    "AP": MetricReading("all", lambda curves: curves.average_precision()),
    "AP50": MetricReading("all", lambda curves: curves.average_precision(iou=0.5)),
    "AP75": MetricReading("all", lambda curves: curves.average_precision(iou=0.75)),
    "APm": MetricReading("medium", lambda curves: curves.average_precision()),
    "APl": MetricReading("large", lambda curves: curves.average_precision()),
    "AR": MetricReading("all", lambda curves: curves.average_recall(20)),
    "AR50": MetricReading("all", lambda curves: curves.average_recall(20, iou=0.5)),
    "AR75": MetricReading("all", lambda curves: curves.average_recall(20, iou=0.75)),
    "ARm": MetricReading("medium", lambda curves: curves.average_recall(20)),
    "ARl": MetricReading("large", lambda curves: curves.average_recall(20)),
}


class CocoKeypoints(DetectionTask):
    """COCO's ten numbers for keypoints, such as those of people.

    A pose takes the place of a box, and the object keypoint similarity (OKS) that of the intersection over union; the
    best 20 poses of an image count. Objects without an annotated keypoint are neither found nor missed. A detected
    pose is as large as the box around it (pycocotools takes the box of a result that has one).

    AP is the precision averaged over 101 recall levels, then over the categories with ground truth, then over the OKS
    thresholds .50:.05:.95 (AP50, AP75: that one alone); AR is the recall with 20 poses an image. APm, APl, ARm and ARl
    count objects of an area of 32^2..96^2 and from 96^2 pixels. Where there is no object, a metric is NaN.

    Equal to pycocotools 2.0.11 to 1e-12. Arguments, predictions and errors: see ``DetectionTask``; the adapter's dicts
    have ``keypoints`` (N, K, 2) or (N, K, 3), x and y in original pixels first, in the place of ``boxes``.

    Args:
        images: Folder of the images.
        annotations: JSON file such as ``person_keypoints_val2017.json``.
        model: As in ``DetectionTask``.
        preprocess: As in ``DetectionTask``.
        adapter: As in ``DetectionTask``.
        labels: As in ``DetectionTask``.
        batch_size: As in ``DetectionTask``.
        limit: As in ``DetectionTask``.
        metric: The metric that layers are judged by.
        name: Short text for titles.
        sigmas: For each keypoint, how far apart people mark it, relative to the size of the object; None takes those of
            COCO's 17 points of a person.

    Raises:
        ImageError: If the folder or an image is missing.
        AnnotationError: If the annotation file is not sound, or keypoints and ``sigmas`` are not as many.
        TaskError: If a setting is unknown.
    """

    metrics = tuple(_READINGS)
    program = "COCO"
    iou_types = ("keypoints",)

    @checked(TaskError)
    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        model: Any = None,
        preprocess: Preprocess | None = None,
        adapter: Adapter | None = None,
        labels: Labels | None = None,
        batch_size: int | None = None,
        limit: int | None = None,
        metric: str = "AP",
        name: str | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        self._sigmas = as_array(COCO_SIGMAS if sigmas is None else sigmas).astype(np.float64).reshape(-1)
        if not len(self._sigmas) or not (np.isfinite(self._sigmas) & (self._sigmas > 0)).all():
            raise TaskError(f"sigmas={sigmas!r:.80}: give one number above 0 for each keypoint.")
        super().__init__(
            images,
            annotations,
            model=model,
            preprocess=preprocess,
            adapter=adapter,
            iou_type="keypoints",
            labels=labels,
            batch_size=batch_size,
            limit=limit,
            metric=metric,
            name=name,
        )

    def _readings(self) -> Mapping[str, MetricReading]:
        return _READINGS

    def digest(self) -> str:
        """Hash of what ``DetectionTask.digest`` has, and of ``sigmas``."""
        return fingerprint([super().digest(), repr(self._sigmas.tolist())])

    def _matched(self, predictions: Mapping[int, Prediction]) -> Matched:
        return matched(self._truth, self._detections(predictions), list(predictions), _LIMITS)

    @cached_property
    def _truth(self) -> GroundTruth:
        return GroundTruth(self.annotations, "keypoints", sigmas=self._sigmas)

    def _checked(self, prediction: Any, size: Size, position: int) -> Prediction:
        checked = super()._checked(prediction, size, position)
        count = checked["keypoints"].shape[1]
        if len(checked["keypoints"]) and count != len(self._sigmas):
            raise PredictionError(
                f"a pose of the prediction has {count} keypoints; expected {len(self._sigmas)}, one for each sigma."
            )
        return checked

    def _shapes_look_like(self, images: Sequence[PredictedImage]) -> str | None:
        return shapes_look_like(images, self._input_size, noun="poses", orders=POSE_ORDERS)

    def _objects_seen(self, position: int) -> list[Record]:
        """The objects of which a keypoint is annotated."""
        return [known for known in super()._objects_seen(position) if any(known["keypoints"][2::3])]

    def _overlaps(self, objects: Sequence[Record]) -> Callable[[Floats], Floats]:
        """OKS of poses with these objects."""
        return AnnotatedPoses.of(objects, self._sigmas).of_all

    def _points(self, prediction: Prediction, best: Ints) -> Floats:
        return np.asarray(prediction["keypoints"], np.float64)[best]

    def _check_annotations(self) -> None:
        """Each object has keypoints, as many as there are sigmas."""
        count = len(self._sigmas)
        for annotation in self.annotations.annotations:
            place = f"annotation {self.annotations.file_ids[annotation['id'] - 1]} of {self.annotations.origin}"
            if not finite_numbers(annotation.get("keypoints"), 3 * count):
                raise AnnotationError(
                    f"{place} has no keypoints for {count} sigmas: expected {3 * count} finite numbers, x, y and "
                    "visibility of each. Give sigmas= for other keypoints than COCO's 17 of a person."
                )
            if whole_number(annotation.get("num_keypoints", 0)) is None:
                raise AnnotationError(
                    f"{place} has num_keypoints {annotation['num_keypoints']!r}; expected a whole number."
                )
