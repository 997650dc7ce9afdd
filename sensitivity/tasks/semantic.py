"""Semantic segmentation: the mean IoU of a data set, from one confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from sensitivity.contracts import Batch, Seen, ShownImage
from sensitivity.errors import AnnotationError, PredictionError, TaskError
from sensitivity.records.arguments import checked
from sensitivity.tasks.datasets import (
    ImageFiles,
    Preprocess,
    Resize,
    Size,
    as_array,
    check_batch_size,
    image_batches,
    predicted_positions,
    run_on,
)
from sensitivity.tasks.fingerprint import describe, fingerprint
from sensitivity.tasks.first_look.classes import all_ignored, classes_look_like, labels_advice
from sensitivity.tasks.labels import LabelMap, LabelSource, PngLabels

Counts: TypeAlias = npt.NDArray[np.int64]
LabelAdapter: TypeAlias = Callable[[Any, Sequence[Size]], Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class LabelMaps:
    """Turns class scores (N, C, h, w) into label maps of the original size.

    Takes the scores themselves, or a dict with them under ``out`` as torchvision's models return. The whole tensor must
    stand for the whole image: after a ``Resize`` with ``keep_aspect`` an adapter of one's own has to cut off the rest.

    Attributes:
        resize: ``labels``: the best class of each cell, then enlarged to the nearest cell (Pillow's NEAREST);
            ``scores``: scores enlarged bilinearly first (``align_corners=False``), which draws smoother borders.
        threshold: For a model of one channel and two classes: a pixel is of class 1 where its score is above this, 0.0
            for logits and 0.5 for probabilities. None refuses such a model.
    """

    resize: str = "labels"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.resize not in ("labels", "scores"):
            raise TaskError(f"LabelMaps(resize={self.resize!r}) is unknown. Choose 'labels' or 'scores'.")

        if self.threshold is not None and not np.isfinite(self.threshold):
            raise TaskError(f"LabelMaps(threshold={self.threshold!r}) is no finite number. Give one, or None.")

    def __call__(
        self, outputs: Any, sizes: Sequence[Size], *, classes: int | None = None
    ) -> list[npt.NDArray[np.int64]]:
        """Label maps (H, W) int64, one for each original (height, width).

        Args:
            outputs: Of the model.
            sizes: Original (height, width) of each image.
            classes: How many the task has; None does not compare.

        Raises:
            PredictionError: If the outputs are no scores (N, C, h, w), not finite, or of fewer channels than classes.
        """
        scores = outputs["out"] if isinstance(outputs, Mapping) and "out" in outputs else outputs
        if not isinstance(scores, torch.Tensor) or scores.ndim != 4 or len(scores) != len(sizes):
            kind = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
            raise PredictionError(
                f"the model returned {kind} for {len(sizes)} images; expected class scores (N, C, height, width). "
                "Give adapter= for other outputs."
            )
        if not torch.isfinite(scores).all():
            raise PredictionError("class scores are NaN or infinite. The model, as perturbed, may have overflowed.")
        scores = self._of_two(scores, classes)
        if classes is not None and scores.shape[1] < classes:
            raise PredictionError(
                f"the model returned scores of {scores.shape[1]} channels for {classes} classes, so that some could "
                "never be predicted. Set classes= to the model's, or give an adapter= that maps its channels to them."
            )
        return [self._label_map(image_scores, size) for image_scores, size in zip(scores, sizes, strict=True)]

    def _of_two(self, scores: torch.Tensor, classes: int | None) -> torch.Tensor:
        """Scores of two channels made of one and the threshold; others as they are."""
        if self.threshold is not None:
            if scores.shape[1] != 1:
                raise PredictionError(
                    f"the model returned scores of {scores.shape[1]} channels, but LabelMaps(threshold="
                    f"{self.threshold}) is for one. Leave threshold out."
                )
            return torch.cat([torch.full_like(scores, self.threshold), scores], dim=1)
        if scores.shape[1] == 1 and classes == 2:
            raise PredictionError(
                "the model returned scores of one channel for two classes. Say where class 1 begins: "
                "adapter=LabelMaps(threshold=0.0) for logits, 0.5 for probabilities."
            )
        return scores

    def _label_map(self, scores: torch.Tensor, size: Size) -> npt.NDArray[np.int64]:
        if self.resize == "scores":
            scores = F.interpolate(scores[None].float(), size, mode="bilinear", align_corners=False)[0]
            return as_array(scores.argmax(dim=0)).astype(np.int64)
        # of equal scores the first class is taken, so a score at the threshold is not above it
        cells = Image.fromarray(as_array(scores.argmax(dim=0)).astype(np.int32))
        return np.asarray(cells.resize((size[1], size[0]), Image.Resampling.NEAREST)).astype(np.int64)


class SemanticSegmentation:
    """Images in which every pixel has a class.

    Args:
        images: Folder of the images.
        labels: Folder of PNG label maps (see ``PngLabels``), or a label source such as ``CocoLabels``.
        classes: Name of each class, in the order of the class indices.
        preprocess: Makes a float32 tensor (C, h, w) of an image (H, W, 3) uint8 RGB, e.g. a ``Resize``.
        ignore_label: Pixels with this label do not count.
        adapter: Called with the model's raw outputs for a batch and the original (height, width) of each image; returns
            for each image a label map (H, W) of integers. None for ``LabelMaps()``.
        absent: What a class without true pixels does in the mean: ``skip`` it, or count it as ``zero``.
        batch_size: Images in a batch. Scores do not depend on it, but for the model's own arithmetic.
        limit: Use the first so many images only; None for all.
        metric: The metric that layers are judged by: ``mIoU``, ``pixel_accuracy`` or ``IoU <class>``.
        name: Short text for titles.

    Raises:
        ImageError: If the folder or an image is missing.
        AnnotationError: If the label source is not sound.
        TaskError: If a setting is unknown.

    Example:
        >>> task = SemanticSegmentation("JPEGImages", "SegmentationClass", classes=["background", "cat"],
        ...                             preprocess=Resize(height=384, width=384))  # doctest: +SKIP
    """

    unit = "%"
    higher_is_better = True

    @checked(TaskError)
    def __init__(
        self,
        images: str | Path,
        labels: str | Path | LabelSource,
        *,
        classes: Sequence[str],
        preprocess: Preprocess,
        ignore_label: int = 255,
        adapter: LabelAdapter | None = None,
        absent: str = "skip",
        batch_size: int = 8,
        limit: int | None = None,
        metric: str = "mIoU",
        name: str | None = None,
    ) -> None:
        self.metrics = ("mIoU", "pixel_accuracy", *(f"IoU {name}" for name in classes))
        if isinstance(classes, str) or not classes or len(set(classes)) < len(classes):
            raise TaskError(f"classes={classes!r}: give a sequence of names that differ, one for each class.")
        if metric not in self.metrics:
            raise TaskError(f"metric={metric!r} is unknown. Choose one of {', '.join(self.metrics)}.")
        if len(classes) == 1:
            raise TaskError(
                f"classes={list(classes)}: with one class every prediction is right. Name the background as well."
            )
        if absent not in ("skip", "zero"):
            raise TaskError(f"absent={absent!r} is unknown. Choose 'skip' or 'zero'.")
        if limit is not None and limit < 1:
            raise TaskError(f"limit={limit}: it must be 1 or more, or None for all images.")
        self.name = name or f"semantic segmentation, {len(classes)} classes"
        self.metric = metric
        self._classes = tuple(classes)
        self._source: LabelSource = PngLabels(labels) if isinstance(labels, str | Path) else labels
        self._files = ImageFiles(images, self._source.file_names()[:limit])
        self._preprocess = preprocess
        self._ignore_label = ignore_label
        self._adapter: LabelAdapter = adapter or LabelMaps()
        if isinstance(self._adapter, LabelMaps) and isinstance(preprocess, Resize) and preprocess.keep_aspect:
            raise TaskError(
                "preprocess=Resize(keep_aspect=True) fills a border, but LabelMaps takes scores of the whole image, so "
                "that label maps would be shifted. Resize without keep_aspect, or give an adapter= that cuts the "
                "border off."
            )
        self._absent = absent
        self._batch_size = check_batch_size(batch_size)

    def __len__(self) -> int:
        return len(self._files)

    @checked(TaskError)
    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        """Preprocessed images in batches; the context is the true label map (H, W) of each.

        Args:
            images: Positions in the label source, in the order wanted; None for all.

        Raises:
            ImageError: If an image cannot be decoded.
            AnnotationError: If a label map cannot be read, has another size than its image or an unknown class.
            TaskError: If there is no image at a position.
        """
        positions = self._files.positions(images)
        batches = image_batches(self._files.read, positions, preprocess=self._preprocess, batch_size=self._batch_size)
        return (self._with_labels(batch) for batch in batches)

    @checked(TaskError)
    def predict(self, model: Callable[..., Any], batch: Batch) -> list[dict[str, Counts]]:
        """One prediction for each image of the batch; the caller turns gradients off.

        Args:
            model: Called with the batch's tensor, on its own device.
            batch: One of ``batches``.

        Returns:
            For each image ``confusion``, (classes, classes) int64: pixels by true class (row) and predicted one.

        Raises:
            PredictionError: If the adapter's label maps have a wrong size or an unknown class, or the model has fewer
                channels than classes.
        """
        pairs = zip(batch.context, self._label_maps(model, batch), strict=True)
        return [{"confusion": self._confusion(truth, labels)} for truth, labels in pairs]

    @checked(TaskError)
    def picture(self, position: int) -> ShownImage:
        """The image at a position of the label source, as it is stored."""
        (position,) = self._files.positions([position])
        return ShownImage(self._files.paths[position].name, self._files.read(position))

    @checked(TaskError)
    def seen(self, model: Callable[..., Any], batch: Batch) -> list[Seen]:
        """The class that the model gives each pixel; arguments and errors as in ``predict``."""
        return [Seen(pixels=labels) for labels in self._label_maps(model, batch)]

    def _label_maps(self, model: Callable[..., Any], batch: Batch) -> list[npt.NDArray[Any]]:
        """What the adapter makes of the model's outputs, one label map for each image."""
        outputs = run_on(model, batch)
        truths: Sequence[LabelMap] = batch.context
        sizes = [(truth.shape[0], truth.shape[1]) for truth in truths]
        if isinstance(self._adapter, LabelMaps):
            label_maps: Any = self._adapter(outputs, sizes, classes=len(self._classes))
        else:
            label_maps = self._adapter(outputs, sizes)
        if not isinstance(label_maps, list | tuple | np.ndarray | torch.Tensor):
            raise PredictionError(
                f"the adapter returned a {type(label_maps).__name__}; expected a list of one label map for each image."
            )
        if len(label_maps) != len(truths):
            raise PredictionError(f"the adapter returned {len(label_maps)} label maps for {len(truths)} images.")
        return [as_array(labels) for labels in label_maps]

    @checked(TaskError)
    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        """Every metric over the images predicted, as fractions.

        The confusion matrices of all images are added first; the mean of the images' own mIoU is another number. IoU of
        a class is its pixels found over those true, predicted or both. ``mIoU`` is the mean over the classes that have
        true pixels; wrongly predicted pixels of an absent class count against the classes that they cover. The
        ``IoU <class>`` of an absent class is NaN. With ``absent="zero"`` it is 0 and in the mean. ``pixel_accuracy`` is
        the share of pixels with the true class. Ignored pixels count nowhere.

        Equal to a count of pixels in numpy to the last bit.

        Args:
            predictions: Position of the image to its prediction.

        Raises:
            TaskError: If there is no prediction, or no image at a position.
        """
        positions = predicted_positions(predictions, len(self))
        matrices = [np.asarray(predictions[position]["confusion"], np.int64) for position in positions]
        ious, accuracy = _measure(np.sum(matrices, axis=0))
        if self._absent == "zero":
            ious = np.nan_to_num(ious)
        mean = float(np.nanmean(ious)) if not np.isnan(ious).all() else float("nan")
        return dict(zip(self.metrics, (mean, accuracy, *ious.tolist()), strict=True))

    @checked(TaskError)
    def images_by_kind(self, predictions: Mapping[int, Any]) -> list[int] | None:
        """How many of the images predicted show each class; classes that none of them shows are not known of.

        None where the metric is no mean over classes.
        """
        if self.metric != "mIoU":
            return None
        positions = predicted_positions(predictions, len(self))
        shown = np.sum(
            [np.asarray(predictions[position]["confusion"]).sum(axis=1) > 0 for position in positions], axis=0
        )
        counts: list[int] = shown[shown > 0].tolist()
        return counts

    @checked(TaskError)
    def suspicion(self, predictions: Mapping[int, Any]) -> str | None:
        """What the labels or label maps look like if they are counted from another number; None if nothing is seen.

        Args:
            predictions: Position of the image to its prediction, of the first few images.
        """
        positions = predicted_positions(predictions, len(self))
        confusion = np.sum([np.asarray(predictions[position]["confusion"], np.int64) for position in positions], axis=0)
        seen = classes_look_like(confusion, self._classes) or self._masks_look_like(positions, confusion)
        return f"{self.name}: {seen}" if seen else None

    def _masks_look_like(self, positions: Sequence[int], confusion: Counts) -> str | None:
        """Whether the label maps are masks of 0 and 255, so that all but one class is ignored."""
        if np.count_nonzero(confusion.sum(axis=1)) != 1 or not isinstance(self._source, PngLabels):
            return None
        ignored = [self._source.read(position) == self._ignore_label for position in positions]
        share = sum(int(pixels.sum()) for pixels in ignored) / sum(pixels.size for pixels in ignored)
        if sum(bool(pixels.any()) for pixels in ignored) < min(3, len(self)) or share < 0.01:
            return None
        return all_ignored(
            self._classes[int(confusion.sum(axis=1).argmax())], self._ignore_label, share, len(positions)
        )

    def digest(self) -> str:
        """Hash of labels, image names and file sizes, and all settings but ``name`` and ``batch_size``.

        Callables count by name and value, not by their code: see ``fingerprint.describe``.
        """
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        settings = (self._classes, self._preprocess, self._ignore_label, self._adapter, self._absent, self.metric)
        return fingerprint([kind, self._source.digest(), *self._files.describe(), *map(describe, settings)])

    def _with_labels(self, batch: Batch) -> Batch:
        sizes = zip(batch.images, batch.context, strict=True)
        return Batch(batch.inputs, batch.images, [self._truth(position, size) for position, size in sizes])

    def _truth(self, position: int, size: Size) -> LabelMap:
        labels = self._source.read(position)
        image = self._files.paths[position].name
        if labels.shape != tuple(size):
            raise AnnotationError(
                f"the label map of {image} is {labels.shape[0]} x {labels.shape[1]} pixels (height x width), the image "
                f"{size[0]} x {size[1]}. They must be of one size."
            )
        unknown = np.setdiff1d(labels, [*range(len(self._classes)), self._ignore_label])
        if len(unknown):
            raise AnnotationError(
                f"the label map of {image} has the labels {unknown[:5].tolist()}; expected 0 to "
                f"{len(self._classes) - 1}, or {self._ignore_label} to ignore. "
                f"{labels_advice(unknown.tolist(), len(self._classes))}"
            )
        return labels

    def _confusion(self, truth: LabelMap, labels: LabelMap) -> Counts:
        count = len(self._classes)
        labels = labels.astype(np.uint8) if labels.dtype == bool else labels
        if labels.shape != truth.shape or not np.issubdtype(labels.dtype, np.integer):
            raise PredictionError(
                f"a predicted label map is {labels.dtype} {labels.shape}; expected integers {truth.shape}. "
                "The adapter must bring label maps to the original size."
            )
        if labels.min() < 0 or labels.max() >= count:
            raise PredictionError(
                f"a predicted label map has classes {int(labels.min())} to {int(labels.max())}; "
                f"expected 0 to {count - 1}. Set classes= to the model's."
            )
        counted = truth != self._ignore_label
        cells = truth[counted].astype(np.int64) * count + labels[counted]
        return np.bincount(cells, minlength=count * count).reshape(count, count).astype(np.int64)


def _measure(confusion: Counts) -> tuple[npt.NDArray[np.float64], float]:
    """IoU of each class, NaN without true pixels; and pixel accuracy, NaN without pixels."""
    hit, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    ious = np.full(len(confusion), np.nan)
    np.divide(hit, true + predicted - hit, out=ious, where=true > 0)
    return ious, float(hit.sum() / true.sum()) if true.sum() else float("nan")
