"""Calibration images that a model cannot take are refused in words; those that it can take are counted rightly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import sensitivity as sv
from sensitivity.errors import CalibrationError
from sensitivity.layers.batches import batches_like


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def wrapped() -> sv.Wrapped:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    return sv.wrap(net, images(1))


class Masked(nn.Module):
    """Adds a mask to what a convolution computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return (self.conv(x) + mask).softmax(-1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            images().double(),
            r"float64 \(1, 3, 8, 8\). It was wrapped with float32 .* Convert the images to",
        ),
        (images().half(), r"failed on float16 .* Convert the images to torch.float32"),
        ((images() * 10).to(torch.uint8), "failed on uint8 .* Convert the images to torch.float32"),
        (images().permute(0, 2, 3, 1), r"look like \(N, H, W, 3\): give images.permute\(0, 3, 1, 2\)"),
        ([images()[None]], r"failed on float32 \(1, 4, 3, 8, 8\)"),
        ([(torch.arange(4), images())], r"item 0 has the shape \(4,\)"),
        (
            [{"image": images(), "label": 1}],
            r"is a dict with the keys 'image', 'label'.* float32 \(1, 3, 8, 8\)",
        ),
        ([images().numpy()], "item 0 is a ndarray. Calibration images must be tensors as the model takes them"),
        ([images(), None], "item 1 is a NoneType"),
        ([list(images())], r"item 0 is a list of 4 single images.* torch.stack\(item\)"),
        ([images(), images() * torch.nan], r"item 1, a tensor of shape \(4, 3, 8, 8\), holds NaN or infinite"),
        ([images() * torch.inf], "item 0, .* holds NaN or infinite values"),
        ({"image": images()}, "images is a dict with the keys 'image', not several batches"),
        (5, "images=5: give a task, or preprocessed images"),
        (iter(()), "no image was given"),
        ([images()[:0]], "no image was given"),
    ],
)
def test_images_that_the_model_cannot_take_are_refused_in_words(images: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=f"(?s){message}"):
        wrapped().calibrate(images)


@pytest.mark.parametrize(
    "images",
    [
        images(),
        [images()],
        list(images()),
        [images()[:0], images()],
        DataLoader([(image, label) for label, image in enumerate(images())], batch_size=3),
        [images()[:, :, :6]],
    ],
    ids=["tensor", "one batch", "singles", "an empty batch too", "labelled loader", "another size"],
)
def test_images_that_the_model_takes_are_all_counted(images: Any) -> None:
    assert wrapped().calibrate(images).images == 4


def test_images_of_several_sizes_are_calibrated_together() -> None:
    small, large = images() * 0.1, torch.nn.functional.pad(images(), (1, 1, 1, 1))
    ranges = wrapped().calibrate([small, large]).ranges
    first = next(bounds for point, bounds in ranges.items() if point.layer == "0:0:0" or point.call == 0)
    assert first.low == (float(large.min()),)


def test_a_mask_may_hold_minus_infinity_but_no_nan() -> None:
    mask = torch.zeros(8)
    mask[3] = -torch.inf
    net = sv.wrap(Masked().eval(), (images(1), torch.zeros(8)))
    assert net.calibrate([(images(), mask)]).images == 4
    with pytest.raises(CalibrationError, match=r"a tensor of shape \(8,\), holds NaN"):
        net.calibrate([(images(), mask * torch.nan)])


def test_an_error_of_this_library_inside_the_model_stays_what_it_is() -> None:
    class Refuses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.refuses = nn.Conv2d(3, 4, 1), False

        def forward(self, x: Tensor) -> Tensor:
            if self.refuses:
                raise sv.SensitivityError("no such images")
            return self.conv(x)

    model = Refuses().eval()
    net = sv.wrap(model, images(1))
    model.refuses = True
    with pytest.raises(sv.SensitivityError, match=r"^no such images$"):
        net.calibrate(images())


def test_images_are_read_one_batch_at_a_time() -> None:
    read = 0

    def stream() -> Iterator[Tensor]:
        nonlocal read
        for image in images():
            read += 1
            yield image

    next(batches_like(stream(), images(1)))
    assert read == 1


def test_a_tensor_with_too_few_axes_is_refused_before_the_model_runs() -> None:
    with pytest.raises(
        CalibrationError, match=r"item 0 has the shape \(8,\), where the model takes float32 \(1, 3, 8, 8\)"
    ):
        list(batches_like([torch.zeros(8)], torch.zeros(1, 3, 8, 8)))
