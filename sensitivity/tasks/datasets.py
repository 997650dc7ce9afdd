"""Images on disk, and what is done to them before a model sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils._pytree import tree_map

from sensitivity.contracts import Batch
from sensitivity.errors import ImageError, PredictionError, SensitivityError, TaskError
from sensitivity.records.arguments import check_fields, checked
from sensitivity.tasks.images.pixels import Pixels, leaves_folder, read_image

Preprocess: TypeAlias = Callable[[Pixels], torch.Tensor]
Size: TypeAlias = tuple[int, int]

_MODEL_ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Turns an image of any size into a normalised tensor of one size; a plain value, so it can be in a digest.

    The filter is Pillow's, which smooths when it shrinks (OpenCV's and torch's default bilinear do not: bring a
    function of your own where a network was trained with one of those).

    Attributes:
        height: Of the tensor, in pixels.
        width: Of the tensor, in pixels.
        divisor: The 0..255 pixel is divided by this first; 255 gives 0..1.
        mean: Subtracted next, one number or one for each channel, in the order of ``channels``.
        std: Divided by last, the same way.
        channels: ``RGB`` or ``BGR``: order of the tensor's channels.
        keep_aspect: Fit the image into the upper left corner and fill the rest, instead of stretching it.
        fill: Pixel value, 0..255, of that rest.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``.

    Example:
        >>> resize = Resize(height=2, width=4, keep_aspect=True, fill=255)
        >>> resize(np.zeros((10, 10, 3), np.uint8))[0]
        tensor([[0., 0., 1., 1.],
                [0., 0., 1., 1.]])
        >>> resize.to_original(np.array([[0.0, 0.0, 2.0, 2.0]]), (10, 10))
        array([[ 0.,  0., 10., 10.]])
    """

    height: int
    width: int
    divisor: float = 255.0
    mean: float | tuple[float, float, float] = 0.0
    std: float | tuple[float, float, float] = 1.0
    channels: str = "RGB"
    keep_aspect: bool = False
    fill: int = 0
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        check_fields(self, TaskError)
        if self.height < 1 or self.width < 1:
            raise TaskError(f"Resize(height={self.height}, width={self.width}): both must be 1 or more.")
        if self.divisor == 0 or 0 in np.atleast_1d(self.std):
            raise TaskError(f"Resize(divisor={self.divisor}, std={self.std}): pixels cannot be divided by 0.")
        if not all(np.isfinite(numbers).all() for numbers in (self.divisor, self.mean, self.std)):
            raise TaskError(f"Resize(divisor={self.divisor}, mean={self.mean}, std={self.std}): give finite numbers.")
        if self.interpolation not in _FILTERS:
            raise TaskError(f"Resize(interpolation={self.interpolation!r}) is unknown. Choose one of {list(_FILTERS)}.")
        if self.channels not in ("RGB", "BGR"):
            raise TaskError(f"Resize(channels={self.channels!r}) is unknown. Choose 'RGB' or 'BGR'.")

    def __call__(self, image: Pixels) -> torch.Tensor:
        """Resize and normalise.

        Args:
            image: (H, W, 3) uint8, RGB.

        Returns:
            (3, height, width) float32 on the CPU.
        """
        inner_height, inner_width = self.inner_size(image.shape[:2])
        resized = Image.fromarray(image).resize((inner_width, inner_height), _FILTERS[self.interpolation])
        canvas = np.full((self.height, self.width, 3), self.fill, np.uint8)
        canvas[:inner_height, :inner_width] = np.asarray(resized)
        ordered = canvas if self.channels == "RGB" else canvas[..., ::-1]
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        values = (ordered.astype(np.float32) / np.float32(self.divisor) - mean) / std
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))

    @checked(TaskError)
    def inner_size(self, size: Sequence[int]) -> Size:
        """(height, width) that an image of this (height, width) gets inside the tensor, in pixels."""
        if not self.keep_aspect:
            return self.height, self.width
        ratio = min(self.height / size[0], self.width / size[1])
        return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))

    @checked(TaskError)
    def to_original(self, boxes: npt.ArrayLike, size: Size) -> npt.NDArray[np.float64]:
        """Boxes found in the tensor, in pixels of the original image.

        Args:
            boxes: (N, 4) ``x1, y1, x2, y2`` in pixels of the tensor.
            size: (height, width) of the original image.

        Returns:
            (N, 4) float64, not clipped.

        Raises:
            TaskError: If these are no boxes.
        """
        try:
            corners = np.asarray(boxes, np.float64)
        except (TypeError, ValueError) as error:
            raise TaskError(f"boxes={boxes!r:.80} are no numbers: {error}. Give (N, 4) x1, y1, x2, y2.") from error
        if corners.ndim == 0 or corners.shape[-1] != 4:
            raise TaskError(f"boxes have the shape {corners.shape}; expected (N, 4): x1, y1, x2, y2.")
        inner_height, inner_width = self.inner_size(size)
        across, down = size[1] / inner_width, size[0] / inner_height
        original: npt.NDArray[np.float64] = corners * np.array([across, down, across, down])
        return original


class ImageFiles:
    """The image files of a data set, in a fixed order; that they all exist is checked once, here.

    Args:
        folder: Where the images are.
        names: For each image, file names relative to ``folder``; the first that exists is taken.

    Raises:
        ImageError: If the folder or an image is missing, or a name leads out of the folder.
    """

    def __init__(self, folder: str | Path, names: Sequence[Sequence[str]]) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise ImageError(f"no folder of images at {folder}. Give the folder that holds the image files.")
        outside = [name for choices in names for name in choices if leaves_folder(name)]
        if outside:
            raise ImageError(
                f"the file name {outside[0]!r} leads out of {folder}. Give the folder that holds all images."
            )
        paths = [next((folder / name for name in choices if _is_file(folder / name)), None) for choices in names]
        missing = [choices[0] for choices, path in zip(names, paths, strict=True) if path is None]
        if missing:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise ImageError(
                f"{len(missing)} of {len(paths)} images are not in {folder}: {shown}. "
                "Give the folder that these names are relative to, or an annotation file of the images you have."
            )
        self.paths = tuple(path for path in paths if path is not None)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, position: int) -> Pixels:
        """The image at this position, (H, W, 3) uint8 RGB.

        Raises:
            ImageError: If it cannot be decoded.
        """
        return read_image(self.paths[position])

    def read_sized(self, position: int, size: Size) -> Pixels:
        """The image at this position, if it has the (height, width) that its annotations are for.

        Raises:
            ImageError: If it cannot be decoded or has another size.
        """
        image = self.read(position)
        if image.shape[:2] != tuple(size):
            raise ImageError(
                f"{self.paths[position]} is {image.shape[0]} x {image.shape[1]} pixels (height x width), but its "
                f"annotations are for {size[0]} x {size[1]}. Use the original file, not a resized or rotated copy."
            )
        return image

    def positions(self, images: Sequence[int] | None) -> tuple[int, ...]:
        """The positions asked for, all if None.

        Raises:
            TaskError: If there is no image at one of them.
        """
        return choose_positions(images, len(self))

    def describe(self) -> list[str]:
        """Name and size in bytes of every file, for a digest."""
        return [f"{path.name} {path.stat().st_size}" for path in self.paths]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return False


def choose_positions(images: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """The positions asked for, all of ``count`` if None.

    Raises:
        TaskError: If there is no image at one of them.
    """
    chosen = tuple(range(count)) if images is None else tuple(int(position) for position in images)
    outside = [position for position in chosen if not 0 <= position < count]
    if outside:
        raise TaskError(f"no image at position {outside[0]}. This task has {count}, counted from 0.")
    return chosen


def predicted_positions(predictions: Mapping[int, Any], count: int) -> tuple[int, ...]:
    """The positions of the predictions to score.

    Raises:
        TaskError: If there is no prediction, or no image at one of the positions.
    """
    if not predictions:
        raise TaskError("no predictions to score. Give the prediction of at least one image.")
    return choose_positions(list(predictions), count)


def image_batches(
    read: Callable[[int], Pixels], positions: Sequence[int], *, preprocess: Preprocess, batch_size: int
) -> Iterator[Batch]:
    """Preprocessed images in batches; the context of a batch is the original (height, width) of each image.

    Args:
        read: Gives the image at a position, (H, W, 3) uint8 RGB.
        positions: Images wanted, in this order.
        preprocess: Makes a float32 tensor (C, h, w) of an image.
        batch_size: Images in a batch; the last one may be smaller.

    Raises:
        TaskError: If ``preprocess`` gives something else, or different sizes within a batch.
    """
    for start in range(0, len(positions), batch_size):
        chosen = tuple(positions[start : start + batch_size])
        images = [read(position) for position in chosen]
        tensors = [preprocess(image) for image in images]
        _check_tensors(tensors)
        sizes = tuple((image.shape[0], image.shape[1]) for image in images)
        yield Batch(inputs=(torch.stack(tensors),), images=chosen, context=sizes)


def _check_tensors(tensors: Sequence[Any]) -> None:
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor) or tensor.ndim != 3 or not tensor.is_floating_point():
            kind = f"{tuple(tensor.shape)} {tensor.dtype}" if hasattr(tensor, "shape") else type(tensor).__name__
            raise TaskError(f"preprocess returned {kind}; expected a float tensor (C, height, width).")
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise TaskError(
            f"preprocess gave images of {len(shapes)} sizes in one batch: {sorted(shapes)}. "
            "Use batch_size=1, or a preprocess with one fixed size such as Resize."
        )


def to_device(inputs: tuple[Any, ...], model: Any) -> tuple[Any, ...]:
    """Tensors in the inputs, also in lists and dicts, on the device of the model's first parameter, if it has one.

    Args:
        inputs: Arguments of the model's forward.
        model: A module, or any callable.
    """
    parameter = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
    if parameter is None:
        return inputs
    device = parameter.device
    moved: tuple[Any, ...] = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, inputs)
    return moved


def run_on(model: Callable[..., Any], batch: Batch) -> Any:
    """What a model returns for a batch, on its own device.

    Raises:
        PredictionError: If it cannot take the batch; the message has its shape and the model's own error.
    """
    args, keywords = to_device((batch.inputs, dict(batch.keywords)), model)
    try:
        return model(*args, **keywords)
    except (SensitivityError, torch.OutOfMemoryError):
        raise
    except _MODEL_ERRORS as error:
        tensors = [value for value in (*args, *keywords.values()) if isinstance(value, torch.Tensor)]
        shown = ", ".join(f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}" for image in tensors)
        raise PredictionError(
            f"the model failed on a batch of the task, {shown or 'which holds no tensor'}: {type(error).__name__}: "
            f"{error}. Give the task images, or a preprocess=, of the type and shape that the model takes."
        ) from error


def as_array(values: Any) -> npt.NDArray[Any]:
    """A tensor of any device, or what numpy can make an array of, as an array; bfloat16 as float32.

    Raises:
        PredictionError: If no array can be made of it, or one of objects.
    """
    try:
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu()
            return np.asarray(values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy())
        array = np.asarray(
            [as_array(value) for value in values]
            if isinstance(values, list | tuple) and any(isinstance(value, torch.Tensor) for value in values)
            else values
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise PredictionError(f"a {type(values).__name__} is no array: {error}. Return tensors or arrays.") from error
    if array.dtype == object:
        raise PredictionError(f"a {type(values).__name__} is no array of numbers. Return tensors or arrays of numbers.")
    return array


def check_batch_size(batch_size: int) -> int:
    """The batch size, if it is one.

    Raises:
        TaskError: If it is below 1.
    """
    if batch_size < 1:
        raise TaskError(f"batch_size={batch_size}: it must be 1 or more.")
    return batch_size
