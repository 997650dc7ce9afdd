"""Image classification: the share of images whose class is the best, or among the five best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sensitivity.contracts import Batch, Seen, ShownImage
from sensitivity.errors import AnnotationError, PredictionError, TaskError
from sensitivity.records.arguments import checked
from sensitivity.tasks.datasets import (
    ImageFiles,
    Preprocess,
    as_array,
    check_batch_size,
    choose_positions,
    image_batches,
    predicted_positions,
    run_on,
)
from sensitivity.tasks.fingerprint import describe, fingerprint
from sensitivity.tasks.first_look.label_mapping import (
    LEAST_MEETINGS,
    consistent_exchange,
    is_better_reading,
    share_right,
    shifted,
    some_of,
)
from sensitivity.tasks.images.pixels import Pixels
from sensitivity.tasks.shown import tensor_as_pixels

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
WITHIN = {"top1": 1, "top5": 5}
SURE = 0.7
"""Share of right labels from which on a shift explains more than an exchange of labels."""

Scores = npt.NDArray[np.float64]
Adapter = Callable[[Any], Any]


class Classification:
    """Images with one class each.

    Args:
        images: A folder with one folder of images for each class, as torchvision's ``ImageFolder`` takes them; or the
            images as the model takes them: a tensor (N, C, H, W), or a sequence of N tensors (C, H, W).
        labels: (N,) class of each image as the model counts its outputs, from 0; only where ``images`` are tensors.
        classes: For a folder, the names of the class folders in the order of the model's outputs; None for the names in
            alphabetical order, as ``ImageFolder`` counts them.
        preprocess: For a folder, makes a float32 tensor (C, h, w) of an image (H, W, 3) uint8 RGB, e.g. a ``Resize``.
        adapter: Called with the model's raw outputs for a batch; returns scores (N, classes), of which the largest is
            the answer. None for a model that returns them, or a dict or object with them under ``logits``.
        batch_size: Images in a batch. Scores do not depend on it, but for the model's own arithmetic.
        limit: Use the first so many images only; None for all.
        metric: The metric that layers are judged by: ``top1`` or ``top5``.
        name: Short text for titles.

    Raises:
        ImageError: If the folder or an image is missing.
        AnnotationError: If there are no labels, or not one for each image.
        TaskError: If a setting is unknown or missing.

    Example:
        >>> task = Classification(torch.rand(4, 3, 8, 8), labels=[0, 2, 1, 1], metric="top1")
        >>> len(task), task.unit
        (4, '%')
    """

    unit = "%"
    higher_is_better = True

    @checked(TaskError)
    def __init__(
        self,
        images: str | Path | torch.Tensor | Sequence[torch.Tensor],
        labels: Any = None,
        *,
        classes: Sequence[str] | None = None,
        preprocess: Preprocess | None = None,
        adapter: Adapter | None = None,
        batch_size: int = 8,
        limit: int | None = None,
        metric: str = "top1",
        name: str | None = None,
    ) -> None:
        if metric not in WITHIN:
            raise TaskError(f"metric={metric!r} is unknown. Choose one of {', '.join(WITHIN)}.")
        if limit is not None and limit < 1:
            raise TaskError(f"limit={limit}: it must be 1 or more, or None for all images.")
        self.metric = metric
        self._adapter: Adapter = adapter or class_scores
        self._batch_size = check_batch_size(batch_size)
        self._source: _Folder | _Tensors
        if isinstance(images, str | Path):
            self._source = _Folder(Path(images), labels, classes, preprocess, limit)
        else:
            self._source = _Tensors(images, labels, classes, preprocess, limit)
        self.name = name or f"classification, {len(self._source.labels)} images"

    def __len__(self) -> int:
        return len(self._source.labels)

    @checked(TaskError)
    def batches(self, images: Sequence[int] | None = None) -> Iterator[Batch]:
        """Images in batches.

        Args:
            images: Positions wanted, in this order; None for all.

        Raises:
            ImageError: If an image cannot be decoded.
            TaskError: If there is no image at a position.
        """
        return self._source.batches(choose_positions(images, len(self)), self._batch_size)

    @checked(TaskError)
    def predict(self, model: Callable[..., Any], batch: Batch) -> list[dict[str, int]]:
        """One prediction for each image of the batch; the caller turns gradients off.

        Args:
            model: Called with the batch's tensor, on its own device.
            batch: One of ``batches``.

        Returns:
            For each image ``best``, the class with the largest score, and ``rank``, how many classes stand before the
            true one: those of larger scores, and of equal scores those with a smaller number.

        Raises:
            PredictionError: If the scores are not (N, classes), not finite, or of too few classes for the labels.
        """
        outputs = self._adapter(run_on(model, batch))
        if outputs is None:
            raise PredictionError("the adapter returned None; expected scores (N, classes). Does it lack a return?")
        scores = as_array(outputs)
        if not np.issubdtype(scores.dtype, np.number):
            raise PredictionError(f"the model returned {scores.dtype} values; expected scores (N, classes) as numbers.")
        if scores.ndim != 2 or len(scores) != len(batch.images):
            raise PredictionError(
                f"the model returned scores {scores.shape} for {len(batch.images)} images; expected (N, classes). Give "
                "adapter= for other outputs."
            )
        scores = scores.astype(np.float64)
        return [self._prediction(row, int(self._source.labels[i])) for row, i in zip(scores, batch.images, strict=True)]

    @checked(TaskError)
    def picture(self, position: int) -> ShownImage:
        """The image at a position; one given as a tensor from its smallest value, black, to its largest, white."""
        (position,) = choose_positions([position], len(self))
        name, pixels = self._source.picture(position)
        return ShownImage(name, pixels, self._class_name(int(self._source.labels[position])))

    @checked(TaskError)
    def seen(self, model: Callable[..., Any], batch: Batch) -> list[Seen]:
        """The class with the largest score for each image of the batch; arguments and errors as in ``predict``."""
        return [Seen(answer=self._class_name(prediction["best"])) for prediction in self.predict(model, batch)]

    def _class_name(self, number: int) -> str:
        names = self._source.names
        return names[number] if number < len(names) else f"class {number}"

    def _prediction(self, scores: Scores, label: int) -> dict[str, int]:
        if not np.isfinite(scores).all():
            raise PredictionError("class scores are NaN or infinite. The model, as perturbed, may have overflowed.")
        if label >= len(scores):
            raise PredictionError(
                f"the model scores {len(scores)} classes, but a label is {label}. Labels count the model's outputs "
                "from 0; give classes= or labels= accordingly."
            )
        before = (scores > scores[label]).sum() + (scores[:label] == scores[label]).sum()
        return {"best": int(scores.argmax()), "rank": int(before)}

    @checked(TaskError)
    def score(self, predictions: Mapping[int, Any]) -> dict[str, float]:
        """``top1`` and ``top5`` over the images predicted, as fractions.

        Each image counts the same, whatever its class. With five classes or fewer ``top5`` is 1. Equal to torchmetrics'
        ``MulticlassAccuracy(average="micro", top_k=k)`` where no two scores of an image are equal.

        Args:
            predictions: Position of the image to its prediction.

        Raises:
            TaskError: If there is no prediction, or no image at a position.
        """
        predicted_positions(predictions, len(self))
        ranks = np.array([int(prediction["rank"]) for prediction in predictions.values()])
        return {metric: float((ranks < within).mean()) for metric, within in WITHIN.items()}

    def instances(self) -> Sequence[int]:
        """One for each image."""
        return [1] * len(self)

    @checked(TaskError)
    def instance_sum(self, prediction: Mapping[str, Any]) -> float:
        """1.0 where the metric counts the image as right.

        Args:
            prediction: One of ``predict``.
        """
        if "rank" not in prediction:
            raise PredictionError(f"prediction={prediction!r:.80} lacks 'rank'. Give one that predict returned.")
        return float(int(prediction["rank"]) < WITHIN[self.metric])

    @checked(TaskError)
    def suspicion(self, predictions: Mapping[int, Any]) -> str | None:
        """Whether the model seems to count its classes from another number than the labels, or in another order.

        Args:
            predictions: Position of the image to its prediction, of the first few images.
        """
        meetings = Counter((int(seen["best"]), int(self._source.labels[i])) for i, seen in predictions.items())
        if meetings.total() < LEAST_MEETINGS:
            return None
        right, answers = share_right(meetings), {predicted for predicted, _ in meetings}
        exchange = consistent_exchange(meetings)
        for shift in (1, -1):
            reading = shifted(answers, -shift)
            share = share_right(meetings, reading)
            if share >= SURE if exchange else is_better_reading(meetings, reading):
                return (
                    f"top1 is {right:.0%}, and would be {share:.0%} if every label were "
                    f"1 {'more' if shift > 0 else 'less'}: the labels and the model's outputs are counted "
                    "from different numbers. Shift the labels, or give classes= in the order of the outputs."
                )
        if exchange is None:
            return None
        return (
            f"top1 is {right:.0%}, but each answer has a class of its own: output {some_of(exchange)} and so on. The "
            "labels are in another order than the model's outputs: give classes= in the order of the outputs, or "
            "labels that count them."
        )

    def digest(self) -> str:
        """Hash of labels, images (tensors by content, files by name and size), and all settings but ``name``.

        The batch size is left out. Callables count by name and value, not by their code: see ``fingerprint.describe``.
        """
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        labels = np.asarray(self._source.labels, np.int64).tobytes()
        return fingerprint([kind, labels, *self._source.parts(), describe(self._adapter), self.metric])


def class_scores(outputs: Any) -> Any:
    """The scores in a model's outputs: the outputs themselves, or what they hold under ``logits``."""
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    return getattr(outputs, "logits", outputs)


class _Folder:
    """Images of a folder of class folders."""

    def __init__(
        self, folder: Path, labels: Any, classes: Sequence[str] | None, preprocess: Preprocess | None, limit: int | None
    ) -> None:
        if labels is not None:
            raise TaskError("labels= is for images given as tensors; in a folder the class folders are the labels.")
        if preprocess is None:
            raise TaskError("preprocess= is missing. Give what makes a tensor of an image file, e.g. a Resize.")
        names, self.labels = _class_files(folder, classes)
        self.names = tuple(classes) if classes is not None else _class_folders(folder)
        self.labels = self.labels[:limit]
        self._files = ImageFiles(folder, [(name,) for name in names[:limit]])
        self._preprocess = preprocess

    def batches(self, positions: Sequence[int], batch_size: int) -> Iterator[Batch]:
        """Read and preprocess the images at these positions."""
        return image_batches(self._files.read, positions, preprocess=self._preprocess, batch_size=batch_size)

    def picture(self, position: int) -> tuple[str, Pixels]:
        """Name and pixels of the image at a position."""
        path = self._files.paths[position]
        return f"{path.parent.name}/{path.name}", self._files.read(position)

    def parts(self) -> list[str]:
        """What the task's digest is made of: the files and their preprocessing."""
        return [*self._files.describe(), describe(self._preprocess)]


def _class_files(folder: Path, classes: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """Names of the image files below a folder, class by class, and the number of each one's class."""
    if not folder.is_dir():
        raise TaskError(f"images={str(folder)!r} is no folder. Give one that holds a folder of images for each class.")
    present = _class_folders(folder)
    if isinstance(classes, str) or (classes is not None and len(set(classes)) < len(classes)):
        raise TaskError(f"classes={classes!r}: give a sequence of names that differ, one for each class.")
    ordered = list(classes) if classes is not None else present
    if unknown := [name for name in present if name not in ordered]:
        raise AnnotationError(
            f"{folder} holds the folder {unknown[0]!r}, which classes= does not name. Name every class folder, in the "
            "order of the model's outputs."
        )
    named = [
        (f"{name}/{path.relative_to(folder / name).as_posix()}", ordered.index(name))
        for name in present
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in ENDINGS and path.is_file()
    ]
    if not named:
        raise AnnotationError(
            f"no image files in folders below {folder}. Give a folder with one folder for each class."
        )
    return [name for name, _ in named], [label for _, label in named]


def _class_folders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(child.name for child in folder.iterdir() if child.is_dir()))


class _Tensors:
    """Images that are tensors already, with their labels."""

    names: tuple[str, ...] = ()

    def __init__(
        self, images: Any, labels: Any, classes: Sequence[str] | None, preprocess: Preprocess | None, limit: int | None
    ) -> None:
        if classes is not None or preprocess is not None:
            raise TaskError(
                "classes= and preprocess= are for a folder of images; tensors are given to the model as is."
            )
        self._images = list(images)[:limit] if not isinstance(images, torch.Tensor) or images.dim() else []
        if not self._images or not all(isinstance(image, torch.Tensor) and image.dim() for image in self._images):
            raise TaskError("images= holds no tensors. Give a tensor (N, C, H, W) or a sequence of N tensors.")
        self.labels = _whole_numbers(labels, len(images))[:limit]

    def batches(self, positions: Sequence[int], batch_size: int) -> Iterator[Batch]:
        """Stack the images at these positions."""
        for start in range(0, len(positions), batch_size):
            chosen = tuple(positions[start : start + batch_size])
            tensors = [self._images[position] for position in chosen]
            shapes = {tuple(tensor.shape) for tensor in tensors}
            if len(shapes) > 1:
                raise TaskError(f"images= are of {len(shapes)} sizes in one batch: {sorted(shapes)}. Use batch_size=1.")
            yield Batch(inputs=(torch.stack(tensors),), images=chosen)

    def picture(self, position: int) -> tuple[str, Pixels]:
        """Name and pixels of the image at a position."""
        return f"image {position}", tensor_as_pixels(as_array(self._images[position]))

    def parts(self) -> Iterator[str | bytes]:
        """What the task's digest is made of: the shape, type and content of every image."""
        for image in self._images:
            yield f"{tuple(image.shape)} {image.dtype}"
            yield as_array(image.double() if image.is_floating_point() else image).tobytes()


def _whole_numbers(labels: Any, count: int) -> list[int]:
    if labels is None:
        raise AnnotationError("labels= is missing. Give the class of each image, as the model counts its outputs.")
    try:
        array = as_array(labels)
    except PredictionError as error:
        raise AnnotationError(
            f"labels={labels!r:.120} are no numbers. Give one whole number for each image."
        ) from error
    if array.shape != (count,):
        raise AnnotationError(f"labels= has the shape {array.shape} for {count} images; expected ({count},).")
    if not np.issubdtype(array.dtype, np.integer) or (array < 0).any():
        raise AnnotationError(
            f"labels={labels!r:.120} are {array.dtype}; expected whole numbers from 0, as the model counts its outputs."
        )
    return [int(label) for label in array]
