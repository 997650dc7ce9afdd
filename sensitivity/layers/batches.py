"""Calibration images as arguments of a model, and what is wrong with them where a model cannot take them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sensitivity.contracts.task import arguments_of
from sensitivity.errors import CalibrationError, SensitivityError
from sensitivity.layers.trace.inputs import tensors_in

_MODEL_ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)


class Arguments(NamedTuple):
    """A batch of images as arguments of a model.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        images: Number of images in them.
        item: The batch as it was given.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    images: int
    item: Any


def batches_like(images: Iterable[Any], example_inputs: Any) -> Iterator[Arguments]:
    """Calibration images as arguments of the model.

    Args:
        images: Batches as the model takes them, single images without the batch axis, or what a ``DataLoader`` with
            labels gives (the first of each pair is used where the model takes one tensor). Batches of no images are
            passed over.
        example_inputs: What the model takes.

    Yields:
        The arguments of each batch, one after another.

    Raises:
        CalibrationError: If an item is no tensor, tuple or dict of tensors as the model takes them, or holds NaN or
            infinite values.
    """
    for number, item in enumerate(images):
        args, kwargs = _arguments(item, example_inputs, number)
        tensors = list(tensors_in((args, kwargs)))
        if not tensors:
            raise _no_tensor(item, example_inputs, number)
        _check_finite(tensors, number, infinity_allowed=len(tensors) > 1)  # a mask of attention may hold -infinity
        first = tensors[0]
        count = first.shape[0] if first.dim() else 1
        if count:
            yield Arguments(args, kwargs, count, item)


def explaining(run: Callable[[], Any], inputs: Any, example_inputs: Any) -> Callable[[], Any]:
    """The same function; where it fails, what was given is compared with what the model was wrapped with.

    Args:
        run: Runs the model on a batch.
        inputs: The batch.
        example_inputs: What the model takes.

    Raises:
        CalibrationError: Instead of the model's own error, when the function is called.
    """

    def run_or_explain() -> Any:
        try:
            return run()
        except (SensitivityError, torch.OutOfMemoryError):
            raise
        except _MODEL_ERRORS as error:
            raise CalibrationError(
                f"images: the model failed on {_described(inputs)}. It was wrapped with {_described(example_inputs)}."
                f"{_hint(inputs, example_inputs)} The model's own error: {type(error).__name__}: {error}"
            ) from error

    return run_or_explain


def _arguments(item: Any, example_inputs: Any, number: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(example_inputs, Tensor):
        return arguments_of(tuple(item) if isinstance(item, list) else item)
    if isinstance(item, (tuple, list)) and item:
        _check_no_list_of_images(item, example_inputs, number)
        item = item[0]
    if not isinstance(item, Tensor):
        raise _no_tensor(item, example_inputs, number)
    if item.dim() < example_inputs.dim() - 1:
        raise CalibrationError(
            f"images: item {number} has the shape {tuple(item.shape)}, where the model takes "
            f"{_described(example_inputs)}. Give batches of that form, or single images without the first axis."
        )
    return (item.unsqueeze(0) if item.dim() == example_inputs.dim() - 1 else item,), {}


def _check_no_list_of_images(items: tuple[Any, ...] | list[Any], example: Tensor, number: int) -> None:
    """Refuse several single images, of which all but the first would be taken for labels."""

    def is_image(item: Any) -> bool:
        return isinstance(item, Tensor) and item.dim() == example.dim() - 1 and item.dtype == example.dtype

    if len(items) > 1 and example.dim() > 2 and all(is_image(item) for item in items):
        raise CalibrationError(
            f"images: item {number} is a list of {len(items)} single images, where the model takes one tensor of shape "
            f"{tuple(example.shape)}. Give the images one by one, or stacked: torch.stack(item)."
        )


def _no_tensor(item: Any, example_inputs: Any, number: int) -> CalibrationError:
    kind = f"a {type(item).__name__}"
    if isinstance(item, Mapping):
        kind += f" with the keys {', '.join(map(repr, item))}"
    return CalibrationError(
        f"images: item {number} is {kind}. Calibration images must be tensors as the model takes them: it was wrapped "
        f"with {_described(example_inputs)}. Pass batches of preprocessed images, or a task."
    )


def _check_finite(tensors: list[Tensor], number: int, *, infinity_allowed: bool) -> None:
    for tensor in tensors:
        is_bad = tensor.isnan() if infinity_allowed else ~tensor.isfinite()
        if bool(is_bad.any()):
            raise CalibrationError(
                f"images: item {number}, a tensor of shape {tuple(tensor.shape)}, holds NaN or infinite values, which "
                "have no range. Check how the images are loaded and preprocessed."
            )


def _described(inputs: Any) -> str:
    shown = [f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}" for tensor in tensors_in(inputs)]
    return ", ".join(shown) or f"a {type(inputs).__name__}"


def _hint(inputs: Any, example_inputs: Any) -> str:
    """What to do about it, where that can be seen."""
    first, example = next(tensors_in(inputs), None), next(tensors_in(example_inputs), None)
    if first is None or example is None:
        return ""
    if first.dtype != example.dtype:
        return f" Convert the images to {example.dtype}, preprocessed as the model expects."
    channels = example.shape[1] if example.dim() == 4 else None
    if first.dim() == 4 and channels is not None and first.shape[1] != channels and first.shape[3] == channels:
        return f" The images look like (N, H, W, {channels}): give images.permute(0, 3, 1, 2)."
    return ""
