from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sensitivity.errors import ImageError, TaskError
from sensitivity.tasks.datasets import ImageFiles, Resize, image_batches, read_image, to_device

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


def read_all(positions: list[int], preprocess: Any, batch_size: int = 8) -> list[Any]:
    def read(position: int) -> np.ndarray:
        return np.full((10 + position, 20, 3), position, np.uint8)

    return list(image_batches(read, positions, preprocess=preprocess, batch_size=batch_size))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_resize_is_pillows_resize_and_torchvisions_normalisation(photo: np.ndarray, interpolation: str) -> None:
    resized = Image.fromarray(photo).resize((12, 16), getattr(Image.Resampling, interpolation.upper()))
    scaled = torch.from_numpy(np.array(resized)).permute(2, 0, 1).to(torch.float32).div(255)
    expected = scaled.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))
    image = Resize(height=16, width=12, mean=MEAN, std=STD, interpolation=interpolation)(photo)
    assert image.dtype == torch.float32
    assert torch.equal(image, expected)


def test_resize_settings_each_change_the_tensor(photo: np.ndarray) -> None:
    plain = Resize(height=15, width=16)(photo)
    torch.testing.assert_close(Resize(height=15, width=16, divisor=1)(photo), plain * 255)
    assert torch.equal(Resize(height=15, width=16, channels="BGR")(photo), plain.flip(0))
    fitted = Resize(height=15, width=16, keep_aspect=True, fill=51)(photo)
    assert torch.equal(fitted[:, :12], Resize(height=12, width=16)(photo))
    assert torch.equal(fitted[:, 12:], torch.full((3, 3, 16), 0.2))


@pytest.mark.parametrize("keep_aspect", [False, True])
def test_boxes_find_their_way_back_to_the_original_image(keep_aspect: bool) -> None:
    resize = Resize(height=64, width=32, keep_aspect=keep_aspect)
    height, width = resize.inner_size((30, 40))
    assert (height, width) == ((24, 32) if keep_aspect else (64, 32))
    corners = np.array([[0, 0, width, height], [width / 2, height / 3, width, height]])
    expected = [[0, 0, 40, 30], [20, 10, 40, 30]]
    np.testing.assert_allclose(resize.to_original(corners, (30, 40)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 0}, "both must be 1 or more"),
        ({"interpolation": "area"}, "interpolation='area'.*Choose one of"),
        ({"channels": "GRB"}, "channels='GRB'"),
        ({"std": (1.0, 0.0, 1.0)}, "cannot be divided by 0"),
        ({"divisor": 0.0}, "cannot be divided by 0"),
        ({"divisor": float("inf")}, r"Resize\(divisor=inf, .*give finite numbers"),
        ({"std": (1.0, float("inf"), 1.0)}, "give finite numbers"),
        ({"mean": float("-inf")}, "give finite numbers"),
    ],
)
def test_resize_refuses_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Resize(**{"height": 4, "width": 4, **settings})


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "jpg"), ("CMYK", "jpg"), ("P", "png"), ("RGBA", "png"), ("1", "png")]
)
def test_every_kind_of_image_is_read_as_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (8, 5), "white").convert(mode).save(path)
    pixels = read_image(path)
    assert pixels.shape == (5, 8, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == 255).all()


def test_the_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    Image.new("RGB", (8, 5)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (5, 8, 3)


def test_a_broken_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ImageError, match=r"cut.jpg cannot be read as an image"):
        read_image(path)
    path.write_text("no image at all")
    with pytest.raises(ImageError, match=r"cut.jpg cannot be read as an image"):
        ImageFiles(tmp_path, [("cut.jpg",)]).read(0)


def test_missing_images_are_counted_and_named_at_once(tmp_path: Path) -> None:
    Image.new("RGB", (8, 5)).save(tmp_path / "here.png")
    names = [("here.png",), *[(f"gone{number}.png",) for number in range(5)]]
    with pytest.raises(ImageError, match=r"5 of 6 images are not in .*: gone0.png, gone1.png, gone2.png, \.\.\."):
        ImageFiles(tmp_path, names)
    with pytest.raises(ImageError, match=r"no folder of images at .*nowhere"):
        ImageFiles(tmp_path / "nowhere", names)


def test_the_first_name_that_exists_is_taken(tmp_path: Path) -> None:
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (8, 5)).save(tmp_path / "val2017" / "a.png")
    files = ImageFiles(tmp_path, [("COCO_a.png", "a.png", "val2017/a.png")])
    assert files.read_sized(0, (5, 8)).shape == (5, 8, 3)
    with pytest.raises(ImageError, match=r"a.png is 5 x 8 pixels .* annotations are for 8 x 5"):
        files.read_sized(0, (8, 5))


def test_positions_outside_the_data_set_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 5)).save(tmp_path / "a.png")
    files = ImageFiles(tmp_path, [("a.png",), ("a.png",)])
    assert files.positions(None) == (0, 1)
    assert files.positions([1, 0, 1]) == (1, 0, 1)
    with pytest.raises(TaskError, match=r"no image at position -1. This task has 2"):
        files.positions([-1])


def test_batches_keep_the_order_asked_for_and_tell_the_original_sizes() -> None:
    batches = read_all([3, 0, 2], Resize(height=4, width=4), batch_size=2)
    assert [batch.images for batch in batches] == [(3, 0), (2,)]
    assert [batch.context for batch in batches] == [((13, 20), (10, 20)), ((12, 20),)]
    assert [tuple(batch.inputs[0].shape) for batch in batches] == [(2, 3, 4, 4), (1, 3, 4, 4)]
    assert float(batches[0].inputs[0][0, 0, 0, 0] * 255) == 3


def test_a_preprocess_of_varying_size_needs_batches_of_one() -> None:
    def keep_size(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))

    with pytest.raises(TaskError, match=r"images of 2 sizes in one batch.*batch_size=1"):
        read_all([0, 1], keep_size)
    assert len(read_all([0, 1], keep_size, batch_size=1)) == 2


@pytest.mark.parametrize("result", [np.zeros((3, 2, 2), np.float32), torch.zeros(2, 2), torch.zeros(3, 2, 2).byte()])
def test_a_preprocess_must_return_a_float_tensor_with_channels(result: Any) -> None:
    with pytest.raises(TaskError, match=r"preprocess returned .*; expected a float tensor \(C, height, width\)"):
        read_all([0], lambda image: result)


def test_inputs_follow_the_model_to_its_device() -> None:
    inputs = (torch.zeros(2), "text")
    moved = to_device(inputs, torch.nn.Linear(2, 2, device="meta"))
    assert moved[0].device.type == "meta"
    assert moved[1] == "text"
    assert to_device(inputs, torch.nn.Identity()) is inputs
    assert to_device(inputs, abs) is inputs
