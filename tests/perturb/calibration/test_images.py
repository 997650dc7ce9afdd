"""Every call that takes images takes the same ones, and refuses others in the same words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import sensitivity as sv
from sensitivity.errors import CalibrationError


def pictures(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def wrapped() -> sv.Wrapped:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    return sv.wrap(net, pictures(1))


def ranges_of(wrapped: sv.Wrapped, images: Any) -> Any:
    return sorted((str(point), bounds) for point, bounds in wrapped.calibrate(images).ranges.items())


def ranges_of_a_sweep(wrapped: sv.Wrapped, images: Any) -> Any:
    task = sv.FeatureFidelity(pictures(2))
    study = wrapped.analyze(task, calibration=images, intervals=False, workers=None, progress=False)
    return [(row.layer, row.score) for row in study.measurements]


def ranges_of_a_scheme(wrapped: sv.Wrapped, images: Any) -> Any:
    with wrapped.quantized(sv.Scheme.all(sv.INT8), calibration=images), torch.no_grad():
        return wrapped.model(pictures(2)).tolist()


def signals(wrapped: sv.Wrapped, images: Any) -> Any:
    measured = wrapped.signals(images, sv.INT8_WEIGHTS)
    return measured.images, [(layer, round(measured[layer]["output_sqnr_db"], 3)) for layer in measured]


def estimates(wrapped: sv.Wrapped, images: Any) -> Any:
    estimated = wrapped.screen(images, sv.INT8_WEIGHTS)
    return estimated.images, list(estimated)


def causes(wrapped: sv.Wrapped, images: Any) -> Any:
    return [finding.layer for finding in wrapped.diagnose(images).findings]


CALLS = [ranges_of, ranges_of_a_sweep, ranges_of_a_scheme, signals, estimates, causes]


def stream() -> Iterator[Tensor]:
    yield from pictures()


ACCEPTED: dict[str, Callable[[], Any]] = {
    "one batch": lambda: [pictures()],
    "single images": lambda: list(pictures()),
    "labelled loader": lambda: DataLoader([(image, 1) for image in pictures()], batch_size=4),
    "tuples": lambda: [(pictures(),)],
    "generator": stream,
    "task": lambda: sv.FeatureFidelity(pictures()),
}


@pytest.mark.parametrize("kind", ACCEPTED)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_every_call_takes_every_kind_of_images(wrapped: sv.Wrapped, call: Any, kind: str) -> None:
    assert call(wrapped, ACCEPTED[kind]()) == call(wrapped, pictures())


REFUSED: dict[str, tuple[Any, str]] = {
    "path": ("images/val2017", "path"),
    "number": (5, "give .*a task, or .*images"),
    "dict": ({"image": pictures()}, "is a dict with the keys 'image', not several batches"),
    "second is no tensor": ([pictures(), None], "item 1 is a NoneType"),
    "second is not finite": ([pictures(), pictures() * torch.nan], "item 1, .* holds NaN or infinite"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_every_call_refuses_the_same_in_the_same_words(wrapped: sv.Wrapped, call: Any, kind: str) -> None:
    images, message = REFUSED[kind]
    with pytest.raises(CalibrationError, match=f"(?s){message}"):
        call(wrapped, images)
