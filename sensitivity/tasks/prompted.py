"""Promptable segmentation: how well a model such as SAM cuts out what a box or a click points at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_tools

from sensitivity.contracts import Batch, Prompts, Seen, ShownImage
from sensitivity.errors import PredictionError, TaskError
from sensitivity.records.arguments import checked
from sensitivity.tasks.annotations.annotation_file import CocoAnnotations
from sensitivity.tasks.annotations.checks import Record
from sensitivity.tasks.annotations.segmentations import Rle, decode_mask, encode_mask
from sensitivity.tasks.average_precision.ground_truth import GroundTruth
from sensitivity.tasks.clicks import interior_point
from sensitivity.tasks.coco import COCO_METRICS, as_detections, check_results, coco_metrics, read_results
from sensitivity.tasks.datasets import ImageFiles, as_array, check_batch_size, predicted_positions
from sensitivity.tasks.fingerprint import describe, fingerprint
from sensitivity.tasks.first_look.masks import PromptedImage, masks_look_like
from sensitivity.tasks.images.pixels import Pixels
from sensitivity.tasks.segmenting import SamSegment, Segment, SegmentTogether, as_bool_masks
from sensitivity.tasks.shown import painted

IOU_METRICS = ("mIoU", "mIoU_small", "mIoU_medium", "mIoU_large")

Floats = npt.NDArray[np.float64]
Prediction: TypeAlias = dict[str, Any]
_OUTLINES = ("mask_boxes", "mask_areas")


class PromptedMasks:
    """Masks cut out of prompted images, against COCO-style ground truth.

    With prompts from the ground truth (``boxes``, ``points``) every annotation of at least one pixel is an instance,
    crowd regions too, and the metrics are the mean IoU over instances: ``mIoU``, ``mIoU_small``, ``mIoU_medium`` and
    ``mIoU_large``. With boxes of a detector they are COCO's twelve for masks, scored as the detector did.

    Args:
        images: Folder of the images.
        annotations: COCO-style JSON file with segmentations.
        prompts: ``boxes``: the annotated boxes; ``points``: one click on the most interior pixel of the annotated mask;
            else a detector's boxes: a JSON file of COCO results, or such results.
        segment: Called with the model, the image (H, W, 3) uint8 RGB and its ``Prompts``; returns masks (P, M, H, W),
            bool or logits (above 0 is inside), and predicted IoU (P, M). For every prompt the mask with the best
            predicted IoU counts, the first of equals. A ``SegmentTogether`` is called once for a whole batch.
        batch_size: Images in a batch; each is encoded by itself, so no number depends on it, unless ``segment`` is a
            ``SegmentTogether``.
        limit: Use the first so many images only; None for all.
        metric: The metric that layers are judged by; None for ``mIoU``, or ``AP`` with a detector's boxes.
        name: Short text for titles.

    Raises:
        ImageError: If the folder or an image is missing.
        AnnotationError: If the annotation file, or the file of the detector, is not sound.
        PredictionError: If the detector's results are not sound.
        TaskError: If a setting is unknown.

    Example:
        >>> task = PromptedMasks("val2017", "instances_val2017.json", prompts="boxes")  # doctest: +SKIP
    """

    unit = "%"
    higher_is_better = True

    @checked(TaskError)
    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        prompts: str | Path | Sequence[Mapping[str, Any]] = "boxes",
        segment: Segment | None = None,
        batch_size: int = 1,
        limit: int | None = None,
        metric: str | None = None,
        name: str | None = None,
    ) -> None:
        everything = CocoAnnotations.load(annotations, with_masks=True)
        self.annotations = everything.first(limit)
        self._files = ImageFiles(images, self.annotations.file_names())
        self._kind = prompts if isinstance(prompts, str) and prompts in ("boxes", "points") else "detections"
        self._detections = _by_image(prompts, everything) if self._kind == "detections" else {}
        known = COCO_METRICS if self._kind == "detections" else IOU_METRICS
        if metric is not None and metric not in known:
            raise TaskError(f"metric={metric!r} is unknown with these prompts. Choose one of {', '.join(known)}.")
        self.metric = metric or known[0]
        self.name = name or f"masks prompted by {self._kind}"
        self._segment: Any = segment or SamSegment()
        self._batch_size = check_batch_size(batch_size)
        self._clicks: dict[int, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._files)

    @checked(TaskError)
    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        """Images with their prompts.

        The model is not called with ``inputs``, which are empty: ``segment`` decides how. The context holds the image
        (H, W, 3) uint8 RGB and the ``Prompts`` for each image of the batch.

        Args:
            images: Positions in the annotation file's list of images, in the order wanted; None for all.

        Raises:
            ImageError: If an image cannot be decoded, or has not the size that the annotation file says.
            TaskError: If there is no image at a position.
        """
        positions = self._files.positions(images)
        starts = range(0, len(positions), self._batch_size)
        return (self._batch(positions[start : start + self._batch_size]) for start in starts)

    @checked(TaskError)
    def predict(self, model: Any, batch: Batch) -> list[Prediction]:
        """One prediction for each image of the batch; the caller turns gradients off.

        Args:
            model: What ``segment`` expects.
            batch: One of ``batches``.

        Returns:
            For each image ``masks``, a list of P compressed RLE, ``predicted_ious`` (P,) float64, and the outlines of
            the masks for ``suspicion``: ``mask_boxes`` (P, 4) and ``mask_areas`` (P,). With prompts from the ground
            truth also ``ious`` (P,) float64 and ``areas`` (P,) float64, the annotated areas in pixels.

        Raises:
            PredictionError: If masks or predicted IoU have a wrong shape or are not finite.
            TaskError: If the model has not what ``segment`` needs.
        """
        predictions = self._predict(model, batch.context)
        if self._kind == "detections":
            return predictions
        for position, prediction in zip(batch.images, predictions, strict=True):
            instances = self._instances(position)
            truth = [self.annotations.masks[instance["id"]] for instance in instances]
            prediction["ious"] = _pairwise_iou(prediction["masks"], truth)
            prediction["areas"] = np.array([instance["area"] for instance in instances], np.float64)
        return predictions

    @checked(TaskError)
    def picture(self, position: int) -> ShownImage:
        """The image at a position of the annotation file's list, as it is stored."""
        (position,) = self._files.positions([position])
        image = self.annotations.images[position]
        size = (image["height"], image["width"])
        return ShownImage(str(image["file_name"]), self._files.read_sized(position, size))

    @checked(TaskError)
    def seen(self, model: Any, batch: Batch) -> list[Seen]:
        """The prompt whose mask covers each pixel, from 0 and the first on top, or -1; arguments as in ``predict``."""
        predictions = self._predict(model, batch.context)
        sizes = [(image.shape[0], image.shape[1]) for image, _ in batch.context]
        return [
            Seen(pixels=painted(prediction["masks"], size, range(len(prediction["masks"]))))
            for prediction, size in zip(predictions, sizes, strict=True)
        ]

    @checked(TaskError)
    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        """Every metric over the images predicted, as fractions.

        From the ground truth: IoU is intersection over union in pixels; the mean is over instances, not over images or
        categories. Sizes go by the annotated area: small up to 32^2, medium 32^2..96^2, large from 96^2 pixels, and an
        instance exactly on a bound counts on both sides, as in the reference program. Without instances a mean is NaN.
        Equal to ``eval_efficientvit_sam_model.py`` of mit-han-lab/efficientvit, and so to the thesis's tables, to 7
        digits (that program adds 1e-7 to the union).

        With a detector's boxes: ``evaluate_coco`` for masks; score and category are the detector's.

        Args:
            predictions: Position of the image to its prediction.

        Raises:
            TaskError: If there is no prediction, or no image at a position.
        """
        positions = predicted_positions(predictions, len(self))
        if self._kind == "detections":
            return self._average_precision({position: predictions[position] for position in positions})
        ious = np.concatenate([np.asarray(predictions[position]["ious"], np.float64) for position in positions])
        areas = np.concatenate([np.asarray(predictions[position]["areas"], np.float64) for position in positions])
        chosen = {metric: _of_size(areas, metric) for metric in IOU_METRICS}
        return {metric: float(ious[some].mean()) if some.any() else float("nan") for metric, some in chosen.items()}

    @checked(TaskError)
    def scored_part(self, prediction: Prediction) -> Prediction:
        """With prompts from the ground truth, numbers of each mask alone: masks of every layer would fill the memory.

        A subclass whose ``score`` looks at more overrides this as well.
        """
        if self._kind == "detections":
            return prediction
        _check_has_ious(prediction)
        return {key: prediction[key] for key in ("ious", "areas", *_OUTLINES) if key in prediction}

    @checked(TaskError)
    def suspicion(self, predictions: Mapping[int, Prediction]) -> str | None:
        """What the masks of an unperturbed model look like if ``segment`` is wrong; None if nothing is seen.

        The boxes of the masks are compared with the boxes that are pointed at: as they are, scaled, shifted, and with x
        and y exchanged. Masks that are empty, cover everything, or all but the object, are told.

        Args:
            predictions: Position of the image to its prediction, of the first few images.
        """
        images = [
            self._prompted_image(*pair) for pair in predictions.items() if all(key in pair[1] for key in _OUTLINES)
        ]
        seen = masks_look_like(images) if images else None
        return None if seen is None else f"{self.name}: {seen}"

    def _prompted_image(self, position: int, prediction: Prediction) -> PromptedImage:
        image, pointed_at = self.annotations.images[position], self._pointed_at(position)
        boxes = np.array([record["bbox"] for record in pointed_at], np.float64).reshape(-1, 4)
        areas = np.array([record.get("area", np.prod(record["bbox"][2:])) for record in pointed_at], np.float64)
        boxes[:, 2:] += boxes[:, :2]
        outlines, sizes = (np.asarray(prediction[key], np.float64) for key in _OUTLINES)
        return PromptedImage(outlines, sizes, boxes, areas, (image["height"], image["width"]))

    def instances(self) -> list[int] | None:
        """Number of instances that the metric is the mean of, image by image; None with a detector's boxes."""
        if self._kind == "detections":
            return None
        of_images = ([instance["area"] for instance in self._instances(position)] for position in range(len(self)))
        return [int(_of_size(np.array(areas, np.float64), self.metric).sum()) for areas in of_images]

    @checked(TaskError)
    def instance_sum(self, prediction: Prediction) -> float:
        """Sum of the IoU of the instances that the metric is the mean of.

        Args:
            prediction: One of ``predict``, with prompts from the ground truth.
        """
        _check_has_ious(prediction)
        chosen = _of_size(np.asarray(prediction["areas"], np.float64), self.metric)
        return float(np.asarray(prediction["ious"], np.float64)[chosen].sum())

    def digest(self) -> str:
        """Hash of annotations, image names and file sizes, and all settings that a score depends on.

        ``segment`` counts by name and value, not by its code: see ``fingerprint.describe``.
        """
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        settings = (self._kind, self._segment, self.metric, self._detections)
        parts = [kind, self.annotations.digest(), *self._files.describe(), *map(describe, settings)]
        if isinstance(self._segment, SegmentTogether):
            parts.append(describe(self._batch_size))  # last bits depend on what is segmented together
        return fingerprint(parts)

    def _instances(self, position: int) -> list[Record]:
        """Annotations that count, in file order."""
        image = self.annotations.images[position]
        return [annotation for annotation in self.annotations.by_image[image["id"]] if annotation["area"] >= 1]

    def _batch(self, positions: tuple[int, ...]) -> Batch:
        return Batch(inputs=(), images=positions, context=[self._image(position) for position in positions])

    def _image(self, position: int) -> tuple[Pixels, Prompts]:
        image = self.annotations.images[position]
        pixels = self._files.read_sized(position, (image["height"], image["width"]))
        if self._kind == "points":
            clicks = [self._click(instance) for instance in self._instances(position)]
            return pixels, Prompts(points=np.array(clicks, np.float64).reshape(-1, 2))
        boxes = np.array([record["bbox"] for record in self._pointed_at(position)], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return pixels, Prompts(boxes=boxes)

    def _pointed_at(self, position: int) -> Sequence[Mapping[str, Any]]:
        """The annotations, or the detector's boxes, that the prompts of an image are made of."""
        image = self.annotations.images[position]
        return self._detections[image["id"]] if self._kind == "detections" else self._instances(position)

    def _click(self, instance: Record) -> tuple[float, float]:
        number = instance["id"]
        if number not in self._clicks:
            left, top, width, height = instance["bbox"]
            centre = (left + width / 2, top + height / 2)  # for a mask too thin to cover one pixel
            self._clicks[number] = interior_point(decode_mask(self.annotations.masks[number])) or centre
        return self._clicks[number]

    def _predict(self, model: Any, contexts: Sequence[tuple[Pixels, Prompts]]) -> list[Prediction]:
        prompted = [context for context in contexts if len(context[1])]
        segmented = self._segment_together(model, prompted) or (self._segment(model, *some) for some in prompted)
        predictions = (_prediction(*context, *masks) for context, masks in zip(prompted, segmented, strict=True))
        return [
            next(predictions) if len(some) else {"masks": [], "predicted_ious": np.zeros(0), **_outlines([])}
            for _, some in contexts
        ]

    def _segment_together(
        self, model: Any, prompted: Sequence[tuple[Pixels, Prompts]]
    ) -> Sequence[tuple[Any, Any]] | None:
        """Masks and predicted IoU of each image in one call; None where ``segment`` takes images one by one."""
        if not (isinstance(self._segment, SegmentTogether) and prompted):
            return None
        segmented = self._segment.together(model, [image for image, _ in prompted], [some for _, some in prompted])
        if len(segmented) != len(prompted):
            raise PredictionError(f"together returned masks of {len(segmented)} images; {len(prompted)} were given.")
        return segmented

    def _average_precision(self, predictions: Mapping[int, Prediction]) -> dict[str, float]:
        results = []
        for position, prediction in predictions.items():
            boxes = self._detections[self.annotations.images[position]["id"]]
            for box, mask in zip(boxes, prediction["masks"], strict=True):
                fields = {key: box[key] for key in ("image_id", "category_id", "score")}
                results.append({**fields, "segmentation": mask})
        return coco_metrics(self._truth, as_detections(results, self.annotations, "segm"), list(predictions))

    @cached_property
    def _truth(self) -> GroundTruth:
        return GroundTruth(self.annotations, "segm")


def _by_image(
    prompts: str | Path | Sequence[Mapping[str, Any]], annotations: CocoAnnotations
) -> dict[int, list[Mapping[str, Any]]]:
    if isinstance(prompts, str) and not prompts.endswith(".json"):
        raise TaskError(f"prompts={prompts!r} is unknown. Choose 'boxes', 'points' or a JSON file of COCO results.")
    results = read_results(prompts)
    check_results(results, annotations, "bbox")
    by_image: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in annotations.images}
    for result in results:
        by_image[result["image_id"]].append(result)
    return by_image


def _prediction(image: Pixels, prompts: Prompts, masks: Any, predicted: Any) -> Prediction:
    """The best mask of every prompt, of what ``segment`` returned for an image."""
    pixels, ious = as_bool_masks(masks), as_array(predicted).astype(np.float64)
    expected = (len(prompts), ious.shape[1] if ious.ndim == 2 else 1, *image.shape[:2])
    if pixels.shape != expected or ious.shape != expected[:2]:
        raise PredictionError(
            f"segment returned masks {pixels.shape} and predicted IoU {ious.shape} for {len(prompts)} prompts on an "
            f"image of {image.shape[0]} x {image.shape[1]}; expected (P, M, height, width) and (P, M)."
        )
    if not np.isfinite(ious).all():
        raise PredictionError("a predicted IoU is NaN or infinite. The model, as perturbed, may have overflowed.")
    best = ious.argmax(axis=1)
    rles = [encode_mask(mask[choice]) for mask, choice in zip(pixels, best, strict=True)]
    return {"masks": rles, "predicted_ious": ious[np.arange(len(ious)), best], **_outlines(rles)}


def _outlines(masks: list[Rle]) -> Prediction:
    """Corners of the box and number of the pixels of each mask."""
    boxes = np.asarray(mask_tools.toBbox(masks), np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    areas = np.asarray(mask_tools.area(masks), np.float64).reshape(-1)
    return dict(zip(_OUTLINES, (boxes, areas), strict=True))


def _check_has_ious(prediction: Prediction) -> None:
    """Refuse what is no prediction with prompts from the ground truth.

    Raises:
        PredictionError: If it lacks a part.
    """
    missing = [key for key in ("ious", "areas") if key not in prediction]
    if missing:
        raise PredictionError(f"prediction={prediction!r:.80} lacks {missing}. Give one that predict returned.")


def _of_size(areas: Floats, metric: str) -> npt.NDArray[np.bool_]:
    """(P,) which instances a metric is the mean of; one on a bound counts on both sides."""
    low, high = {"mIoU_small": (0, 32**2), "mIoU_medium": (32**2, 96**2), "mIoU_large": (96**2, np.inf)}.get(
        metric, (0, np.inf)
    )
    return (areas >= low) & (areas <= high)


def _pairwise_iou(masks: Sequence[Rle], truth: Sequence[Rle]) -> Floats:
    """IoU of each mask with the truth at the same place; 0 where both are empty."""
    pairs = zip(masks, truth, strict=True)
    return np.array([mask_tools.iou([mask], [true], [0])[0, 0] for mask, true in pairs], np.float64)
