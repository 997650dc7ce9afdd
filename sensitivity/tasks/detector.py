"""Images with annotated objects and a model that finds them: what COCO, LVIS and keypoints share."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_tools

from sensitivity.contracts import Batch, Seen, ShownImage
from sensitivity.errors import PredictionError, TaskError
from sensitivity.records.arguments import checked
from sensitivity.tasks.annotations.annotation_file import CocoAnnotations
from sensitivity.tasks.annotations.category_labels import Labels, label_table
from sensitivity.tasks.annotations.checks import Record
from sensitivity.tasks.average_precision.curves import Matched, MetricReading
from sensitivity.tasks.average_precision.detections import SHAPES, Prediction, check_prediction
from sensitivity.tasks.average_precision.ground_truth import DetectionTable
from sensitivity.tasks.average_precision.poses import Poses
from sensitivity.tasks.connectors.known_labels import OfKnownLabels
from sensitivity.tasks.connectors.registry import as_connected
from sensitivity.tasks.datasets import (
    ImageFiles,
    Preprocess,
    Size,
    check_batch_size,
    choose_positions,
    image_batches,
    predicted_positions,
    run_on,
)
from sensitivity.tasks.fingerprint import describe, fingerprint
from sensitivity.tasks.first_look.objects import (
    BOX_ORDERS,
    ENOUGH_IMAGES,
    Floats,
    Ints,
    PredictedImage,
    best_first,
    corner_overlaps,
    label_readings,
    labels_look_like,
    nothing_fits,
    shapes_look_like,
)
from sensitivity.tasks.shown import seen_objects

Adapter: TypeAlias = Callable[[Any, Sequence[Size]], Sequence[Mapping[str, Any]]]

IOU_TYPES = ("bbox", "segm")


class DetectionTask(abc.ABC):
    """Images with annotated objects, and a model that finds them; subclasses bring the metrics.

    ``predict`` turns the model's raw outputs into one prediction an image, a dict with ``scores`` (N,) float64,
    ``labels`` (N,) int64 category ids, and ``boxes`` (N, 4) float64 ``x1, y1, x2, y2`` in original pixels (``bbox``)
    or ``masks``, a list of N compressed RLE of the original size (``segm``).

    Args:
        images: Folder of the images.
        annotations: COCO-style JSON file.
        preprocess: Makes a float32 tensor (C, h, w) of an image (H, W, 3) uint8 RGB, e.g. a ``Resize``.
        adapter: Called with the model's raw outputs for a batch and the original (height, width) of each image; returns
            for each image a dict with ``boxes`` (N, 4) ``x1, y1, x2, y2`` in original pixels, ``scores`` (N,),
            ``labels`` (N,) and, for ``segm``, ``masks``: (N, H, W) bool or a list of RLE. Arrays or tensors.
        iou_type: ``bbox`` or ``segm``: whether boxes or masks are compared.
        labels: What a label of the adapter means: ``index`` into the ascending category ids of the annotation file,
            ``category_id`` itself, a sequence of category ids to index into, or a dict of label to category id. None:
            what the family of ``model`` says, or ``index``.
        model: The network that will be scored, of a family that ``sv.connect`` knows, or what that returned:
            ``preprocess``, ``adapter``, ``labels`` and ``batch_size`` need not be given then.
        batch_size: Images in a batch; None for 8, or what suits ``model``. Scores do not depend on it, but for the
            model's own arithmetic.
        limit: Use the first so many images only; None for all.
        metric: The metric that layers are judged by.
        name: Short text for titles.

    Raises:
        ImageError: If the folder or an image is missing.
        AnnotationError: If the annotation file is not sound.
        TaskError: If a setting is unknown.
    """

    metrics: ClassVar[tuple[str, ...]]
    program: ClassVar[str]
    iou_types: ClassVar[tuple[str, ...]] = IOU_TYPES
    unit = "%"
    higher_is_better = True

    @checked(TaskError)
    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        model: Any = None,
        preprocess: Preprocess | None = None,
        adapter: Adapter | None = None,
        iou_type: str = "bbox",
        labels: Labels | None = None,
        batch_size: int | None = None,
        limit: int | None = None,
        metric: str = "AP",
        name: str | None = None,
    ) -> None:
        if self.iou_types == IOU_TYPES:
            check_iou_type(iou_type)
        if metric not in self.metrics:
            raise TaskError(f"metric={metric!r} is unknown. Choose one of {', '.join(self.metrics)}.")
        self.name = name or f"{self.program} {iou_type}"
        self.metric = metric
        self.annotations = CocoAnnotations.load(annotations, with_masks=iou_type == "segm").first(limit)
        self._check_annotations()
        self._files = ImageFiles(images, self.annotations.file_names())
        connected = None if model is None else as_connected(model)
        if connected is not None:
            preprocess, batch_size = preprocess or connected.preprocess, batch_size or connected.batch_size
            if adapter is None and connected.adapter is not None:
                labels = connected.labels_in(self.annotations.categories) if labels is None else labels
                adapter = OfKnownLabels(connected.adapter, tuple(label_table(labels, self.annotations.category_ids)))
        if preprocess is None or adapter is None:
            missing = "preprocess" if preprocess is None else "adapter"
            raise TaskError(
                f"{missing}= is missing. Give preprocess= and adapter=, or model= of a family that sv.connect knows."
            )
        self._preprocess = preprocess
        self._adapter = adapter
        self._iou_type = iou_type
        self._labels: Labels = "index" if labels is None else labels
        self._categories = label_table(self._labels, self.annotations.category_ids)
        self._batch_size = check_batch_size(8 if batch_size is None else batch_size)
        self._input_sizes: dict[int, Size] = {}

    def __len__(self) -> int:
        return len(self._files)

    @checked(TaskError)
    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        """Preprocessed images in batches; the context is the original (height, width) of each.

        Args:
            images: Positions in the annotation file's list of images, in the order wanted; None for all.

        Raises:
            ImageError: If an image cannot be decoded, or has not the size that the annotation file says.
            TaskError: If there is no image at a position.
        """
        positions = self._files.positions(images)
        return image_batches(self._read, positions, preprocess=self._preprocess, batch_size=self._batch_size)

    @checked(TaskError)
    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Prediction]:
        """One prediction for each image of the batch; the caller turns gradients off.

        Args:
            model: Called with the batch's tensor, on its own device.
            batch: One of ``batches``.

        Raises:
            PredictionError: If the adapter's result has a wrong form, a number that is not finite or an unknown label.
        """
        outputs = run_on(model, batch)
        predictions: Any = self._adapter(outputs, list(batch.context))
        if not isinstance(predictions, list | tuple):
            kind = type(predictions).__name__
            raise PredictionError(f"the adapter returned a {kind}; expected a list with one dict for each image.")
        if len(predictions) != len(batch.images):
            raise PredictionError(
                f"the adapter returned {len(predictions)} predictions for {len(batch.images)} images; "
                "return one dict each."
            )
        return [
            self._checked(prediction, size, position)
            for prediction, size, position in zip(predictions, batch.context, batch.images, strict=True)
        ]

    @checked(TaskError)
    def picture(self, position: int) -> ShownImage:
        """The image at a position of the annotation file's list, as it is stored."""
        (position,) = choose_positions([position], len(self))
        return ShownImage(str(self.annotations.images[position]["file_name"]), self._read(position))

    @checked(TaskError)
    def seen(self, model: Callable[..., Any], batch: Batch) -> list[Seen]:
        """The objects that the model finds in each image of the batch; arguments and errors as in ``predict``."""
        predictions = self.predict(model, batch)
        names = {category["id"]: str(category["name"]) for category in self.annotations.categories}
        return [
            seen_objects(prediction, names, size) for prediction, size in zip(predictions, batch.context, strict=True)
        ]

    @checked(TaskError)
    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        """Every metric over the images predicted, as fractions.

        Args:
            predictions: Position of the image to its prediction. No object found anywhere scores 0.

        Raises:
            TaskError: If there is no prediction, or no image at a position.
        """
        return self._matched(predictions).metrics(self._readings())

    @checked(TaskError)
    def scores_without(self, predictions: Mapping[int, Any], groups: Sequence[Sequence[int]]) -> list[float]:
        """The metric over the images predicted less each group of them; what is matched once serves them all."""
        return self._matched(predictions).metric_without(groups, self._readings()[self.metric])

    @abc.abstractmethod
    def _readings(self) -> Mapping[str, MetricReading]:
        """How each metric is read off the curves."""

    @abc.abstractmethod
    def _matched(self, predictions: Mapping[int, Prediction]) -> Matched:
        """The predictions matched with the objects of the images predicted."""

    def digest(self) -> str:
        """Hash of annotations, image names and file sizes, and all settings but ``name`` and ``batch_size``.

        Callables count by name and value, not by their code: see ``fingerprint.describe``.
        """
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        settings = [self._preprocess, self._adapter, self._iou_type, self._labels, self.metric]
        parts = [kind, self.annotations.digest(), *self._files.describe(), *map(describe, settings)]
        return fingerprint(parts)

    @checked(TaskError)
    def suspicion(self, predictions: Mapping[int, Prediction]) -> str | None:
        """What the boxes or labels of an unperturbed model look like if an adapter is wrong; None if nothing is seen.

        The best boxes of each image, as many as it has objects, are compared with the objects: as they are, and read
        as other orders (``x, y, width, height`` ...), in other units (fractions, the network's pixels) and with other
        labels. A detector that is only weak fits in none of them; where its metric is 0 on 16 images or more, its
        predictions are described.

        Args:
            predictions: Position of the image to its prediction, of the first few images.
        """
        images = [self._seen(position, prediction) for position, prediction in predictions.items()]
        seen = self._shapes_look_like(images)
        seen = seen or labels_look_like(images, label_readings(self._categories, self.annotations.category_ids))
        score = self.score(predictions)[self.metric] if seen is not None or len(images) >= ENOUGH_IMAGES else None
        if score == 0.0:
            seen = seen or self._nothing_fits(images, predictions)
        if seen is None:
            return None
        return f"{self.name}: {self.metric} of the first {len(images)} images is {score:.1%}, and {seen}"

    def _nothing_fits(self, images: Sequence[PredictedImage], predictions: Mapping[int, Prediction]) -> str | None:
        scores = [np.asarray(prediction["scores"], np.float64).reshape(-1) for prediction in predictions.values()]
        return nothing_fits(images, np.concatenate(scores), SHAPES[self._iou_type])

    def _shapes_look_like(self, images: Sequence[PredictedImage]) -> str | None:
        """What the shapes look like if they are in another order or unit; masks are as large as the image."""
        if self._iou_type != "bbox":
            return None
        return shapes_look_like(images, self._input_size, noun="boxes", orders=BOX_ORDERS)

    def _seen(self, position: int, prediction: Prediction) -> PredictedImage:
        image = self.annotations.images[position]
        objects = self._objects_seen(position)
        best = best_first(np.asarray(prediction["scores"], np.float64), len(objects))
        return PredictedImage(
            overlaps=self._overlaps(objects),
            truth_categories=np.array([known["category_id"] for known in objects], np.int64),
            points=self._points(prediction, best),
            categories=np.asarray(prediction["labels"], np.int64)[best],
            position=position,
            size=(image["height"], image["width"]),
        )

    def _objects_seen(self, position: int) -> list[Record]:
        """The objects that can be found in an image."""
        image = self.annotations.images[position]
        return [known for known in self.annotations.by_image[image["id"]] if not known["iscrowd"]]

    def _overlaps(self, objects: Sequence[Record]) -> Callable[[Floats], Floats]:
        """How well shapes fit these objects; see ``PredictedImage``."""
        boxes = np.array([known["bbox"] for known in objects], np.float64).reshape(-1, 4)
        return partial(corner_overlaps, truth=_with_ends(boxes).reshape(-1, 2, 2))

    def _points(self, prediction: Prediction, best: Ints) -> Floats:
        """(B, P, 2) points of these shapes of a prediction."""
        if self._iou_type == "bbox":
            return np.asarray(prediction["boxes"], np.float64).reshape(-1, 2, 2)[best]
        sides = [mask_tools.toBbox(prediction["masks"][index]) for index in best]
        return _with_ends(np.array(sides, np.float64).reshape(-1, 4)).reshape(-1, 2, 2)

    def _input_size(self, position: int) -> Size:
        if position not in self._input_sizes:
            height, width = self._preprocess(self._read(position)).shape[-2:]
            self._input_sizes[position] = (height, width)
        return self._input_sizes[position]

    def _checked(self, prediction: Any, size: Size, position: int) -> Prediction:
        try:
            return check_prediction(prediction, size, iou_type=self._iou_type, categories=self._categories)
        except PredictionError as error:
            raise PredictionError(f"image {self.annotations.images[position]['id']}: {error}") from error

    def _check_annotations(self) -> None:  # noqa: B027 - a hook, not a duty
        """What a subclass demands of the annotation file beyond COCO's format."""

    def _read(self, position: int) -> npt.NDArray[np.uint8]:
        image = self.annotations.images[position]
        return self._files.read_sized(position, (image["height"], image["width"]))

    def _detections(self, predictions: Mapping[int, Prediction]) -> DetectionTable:
        """Predictions of all images as flat arrays.

        Raises:
            TaskError: If there is no prediction, or no image at a position.
        """
        positions = predicted_positions(predictions, len(self))
        of_images = list(predictions.values())
        scores = [np.asarray(prediction["scores"], np.float64).reshape(-1) for prediction in of_images]
        labels = [np.asarray(prediction["labels"], np.int64).reshape(-1) for prediction in of_images]
        if self._iou_type == "segm":
            shapes: Any = [mask for prediction in of_images for mask in prediction["masks"]]
        elif self._iou_type == "keypoints":
            poses = [np.asarray(prediction["keypoints"], np.float64) for prediction in of_images]
            shapes = Poses(np.concatenate([pose for pose in poses if len(pose)] or [np.zeros((0, 1, 2))]))
        else:
            boxes = [np.asarray(prediction["boxes"], np.float64).reshape(-1, 4) for prediction in of_images]
            shapes = _with_sides(np.concatenate(boxes))
        return DetectionTable(
            images=np.repeat(positions, [len(of_image) for of_image in scores]),
            categories=np.concatenate(labels),
            scores=np.concatenate(scores),
            shapes=shapes,
        )


def check_iou_type(iou_type: str) -> None:
    """Nothing, if it is one of ``bbox`` and ``segm``.

    Raises:
        TaskError: If it is not.
    """
    if iou_type not in IOU_TYPES:
        raise TaskError(f"iou_type={iou_type!r} is unknown. Choose 'bbox' for boxes or 'segm' for masks.")


def _with_ends(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Boxes (N, 4) ``x, y, width, height`` as ``x1, y1, x2, y2``."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _with_sides(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Boxes (N, 4) ``x1, y1, x2, y2`` as ``x, y, width, height``."""
    # an inside-out box would have a negative area, and pycocotools would then not count it as a mistake
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    return np.concatenate([boxes[:, :2], sides], axis=1)
