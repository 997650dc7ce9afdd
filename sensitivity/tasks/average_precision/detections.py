"""What an adapter says about the objects of one image, checked and brought into the form that is kept and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sensitivity.errors import PredictionError
from sensitivity.tasks.annotations.segmentations import as_rle, encode_mask, first_fault
from sensitivity.tasks.datasets import Size, as_array
from sensitivity.tasks.first_look.objects import unknown_labels_look_like

Prediction: TypeAlias = dict[str, Any]

SHAPES = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
"""What of a prediction is compared, by IoU type."""


def check_prediction(prediction: Any, size: Size, *, iou_type: str, categories: Mapping[int, int]) -> Prediction:
    """What an adapter says about one image, in the form that is kept and scored.

    Args:
        prediction: A dict with ``scores``, ``labels`` and ``boxes`` or ``masks``, arrays or tensors of any dtype on
            any device, with or without gradients.
        size: (height, width) of the original image.
        iou_type: ``bbox`` keeps the boxes, ``segm`` the masks, ``keypoints`` the x and y of keypoints.
        categories: Category id of each label.

    Raises:
        PredictionError: If it is no dict, a key is missing, a shape is wrong, a number is not finite or a label is
            unknown.
    """
    part = SHAPES[iou_type]
    if not isinstance(prediction, Mapping):
        kind = type(prediction).__name__
        raise PredictionError(f"a prediction is a {kind}; expected a dict with scores, labels and {part}.")
    missing = [key for key in ("scores", "labels", part) if key not in prediction]
    if missing:
        has = sorted(map(str, prediction))
        raise PredictionError(f"a prediction lacks {missing}; it has {has}. The adapter must return them.")
    scores = _finite_array(prediction, "scores", shape=(-1,))
    labels = _array(prediction, "labels").reshape(-1)
    unknown = sorted({label for label in labels.tolist() if label not in categories})
    if unknown:
        advice = unknown_labels_look_like(set(labels.tolist()), categories)
        raise PredictionError(
            f"predictions have labels {unknown[:5]}, which are no category. Known are {_span(categories)}. {advice}"
        )
    if part == "boxes":
        shapes: Any = _finite_array(prediction, "boxes", shape=(-1, 4))
    elif part == "keypoints":
        shapes = _keypoints(prediction)
    else:
        shapes = _masks(prediction["masks"], size)
    if not len(scores) == len(labels) == len(shapes):
        raise PredictionError(
            f"a prediction has {len(scores)} scores, {len(labels)} labels and {len(shapes)} {part}; expected as many."
        )
    ids = np.array([categories[label] for label in labels.tolist()], np.int64)
    return {"scores": scores, "labels": ids, part: shapes}


def _array(prediction: Mapping[str, Any], key: str) -> npt.NDArray[Any]:
    try:
        values = as_array(prediction[key])
    except PredictionError as error:
        raise PredictionError(f"{key} of a prediction cannot be used: {error}") from error
    if values.dtype.kind not in "biuf":
        raise PredictionError(f"{key} of a prediction are {values.dtype}; expected numbers.")
    return values


def _finite_array(prediction: Mapping[str, Any], key: str, *, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    values = _array(prediction, key).astype(np.float64)
    if values.size == 0:
        return values.reshape(0, *shape[1:])
    if values.ndim != len(shape) or values.shape[1:] != shape[1:]:
        wanted = "(N,)" if len(shape) == 1 else f"(N, {shape[1]})"
        raise PredictionError(f"{key} of a prediction have the shape {values.shape}; expected {wanted}.")
    if not np.isfinite(values).all():
        raise PredictionError(
            f"{np.count_nonzero(~np.isfinite(values))} numbers among the {key} of a prediction are NaN or infinite; "
            "expected finite ones. The model, as perturbed, may have overflowed."
        )
    return values


def _keypoints(prediction: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """(N, K, 2) x and y of each keypoint; what the adapter has besides, such as visibility, is not scored."""
    points = _array(prediction, "keypoints").astype(np.float64)
    if not points.size:
        return np.zeros((0, 1, 2))
    if points.ndim != 3 or points.shape[2] not in (2, 3):
        raise PredictionError(
            f"keypoints of a prediction have the shape {points.shape}; expected (N, K, 2) or (N, K, 3): x and y in "
            "pixels of the original image first."
        )
    if not np.isfinite(points[..., :2]).all():
        raise PredictionError("keypoints of a prediction are NaN or infinite. The model, as perturbed, may overflow.")
    return points[..., :2]


def _masks(masks: Any, size: Size) -> list[dict[str, Any]]:
    if isinstance(masks, Sequence) and all(isinstance(mask, Mapping) for mask in masks):
        fault = first_fault((mask, size) for mask in masks)
        if fault is not None:
            raise PredictionError(f"mask {fault[0]} of a prediction {fault[1]}. The adapter must return sound RLE.")
        return [as_rle(mask, *size) for mask in masks]
    pixels = _array({"masks": masks}, "masks")
    if pixels.size and (pixels.ndim != 3 or pixels.dtype != bool):
        raise PredictionError(
            f"masks of a prediction are {pixels.dtype} {pixels.shape}; expected bool (N, H, W) or a list of RLE."
        )
    if pixels.size and pixels.shape[1:] != tuple(size):
        raise PredictionError(
            f"masks of a prediction have (height, width) {pixels.shape[1:]}, the image has {tuple(size)}. "
            "The adapter must bring masks to the original size."
        )
    return [encode_mask(mask) for mask in pixels] if pixels.size else []


def _span(categories: Mapping[int, int]) -> str:
    known = sorted(categories)
    return f"{known[0]} to {known[-1]} ({len(known)} of them)" if known else "none"
