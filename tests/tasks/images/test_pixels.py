from __future__ import annotations

import io
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sensitivity.errors import AnnotationError, ImageError
from sensitivity.tasks.datasets import ImageFiles
from sensitivity.tasks.images.pixels import FORMATS, leaves_folder, read_image
from sensitivity.tasks.labels import PngLabels

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (RAMP, "gray.png"),
        (RAMP, "gray.tif"),
        (RAMP.astype(np.int32), "int.tif"),
        ((RAMP / 65535).astype(np.float32), "fractions.tif"),
        (RAMP.astype(np.float32), "float.tif"),
        ((RAMP // 257).astype(np.float32), "float8.tif"),
        ((RAMP // 257).astype(np.int32), "int8.tif"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_of_16_and_32_bits_fill_256_levels(tmp_path: Path, values: Any, name: str) -> None:
    Image.fromarray(values).save(tmp_path / name)
    pixels = read_image(tmp_path / name)
    assert pixels.shape == (64, 64, 3)
    np.testing.assert_array_equal(pixels, np.repeat((RAMP // 257).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("wrong", [-1.0, 7e4, float("nan"), float("inf")])
def test_numbers_of_no_known_range_are_refused(tmp_path: Path, wrong: float) -> None:
    values = np.ones((4, 4), np.float32)
    values[1, 1] = wrong
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif has float32 pixels from .* expected 0 to 1"):
        read_image(tmp_path / "a.tif")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (14000, 13000)).save(tmp_path / "big.png")
    with pytest.raises(ImageError, match=r"big\.png cannot be read as an image: .*182000000 pixels"):
        read_image(tmp_path / "big.png")
    with pytest.raises(AnnotationError, match=r"big\.png cannot be read as a label map: .*182000000 pixels"):
        PngLabels(tmp_path).read(0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png cannot be read as an image: it is a pipe or a device"):
        read_image(tmp_path / "a.png")


def test_a_header_that_goes_on_and_on_is_refused_and_a_long_comment_is_read(tmp_path: Path) -> None:
    (tmp_path / "endless.ppm").write_bytes(b"P6\n" + b"#" * 10**7)
    with pytest.raises(ImageError, match=r"endless\.ppm .* its header has no end in 65536 bytes"):
        read_image(tmp_path / "endless.ppm")
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    (tmp_path / "long.ppm").write_bytes(b"P6\n#" + b"x" * 5000 + b"\n200 200\n# y\n255\n" + pixels.tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "long.ppm"), pixels)


@pytest.mark.parametrize(
    "header", [b"P4\n1024 1024\n", b"P5 # x\n1024 1024\n255\n", b"P6\n1024 1024 255\n", b"P4\n#1\n#2\n1024\t1024\n"]
)
@pytest.mark.parametrize("byte", [b"\0", b"#", b"7"])
def test_pixels_are_not_taken_for_a_part_of_a_header(tmp_path: Path, header: bytes, byte: bytes) -> None:
    count = {b"P4": 1024 * 128, b"P5": 1024 * 1024, b"P6": 3 * 1024 * 1024}[header[:2]]
    (tmp_path / "a.ppm").write_bytes(header + byte * count)
    pixels = read_image(tmp_path / "a.ppm")
    assert pixels.shape == (1024, 1024, 3)
    if header[:2] != b"P4":
        assert (pixels == byte[0]).all()


def test_formats_that_are_not_asked_for_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png cannot be read .* Formats read: BMP, GIF, JPEG, PNG"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("form", FORMATS)
def test_broken_files_raise_nothing_but_an_image_error(tmp_path: Path, form: str) -> None:
    draw, buffer, path = random.Random(0), io.BytesIO(), tmp_path / "x"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(buffer, form)
    refused = 0
    for _ in range(80):
        raw = bytearray(buffer.getvalue())
        if draw.random() < 0.4:
            raw = raw[: draw.randrange(len(raw))]
        for _ in range(draw.choice([0, 1, 5])):
            if raw:
                raw[draw.randrange(min(60, len(raw)))] = draw.randrange(256)
        path.write_bytes(raw)
        try:
            read_image(path)
        except ImageError:
            refused += 1
    assert refused > 10


def test_transparency_is_dropped_and_the_colours_below_it_stay(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (200, 10, 0, 0)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == (200, 10, 0)).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 10, 0])
    palette.save(tmp_path / "p.png", transparency=b"\x80\x00")
    assert (read_image(tmp_path / "p.png") == (200, 10, 0)).all()


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("white", "black")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / name) >= 250).all()


@pytest.mark.parametrize(
    ("name", "leaves"),
    [
        ("a.jpg", False),
        ("val/a.jpg", False),
        ("val/../a.jpg", False),
        ("..a.jpg", False),
        ("../a.jpg", True),
        ("val/../../a.jpg", True),
        ("/a.jpg", True),
        ("\\a.jpg", True),
        ("C:\\a.jpg", True),
        ("..\\a.jpg", True),
        ("a\0.jpg", True),
    ],
)
def test_names_that_leave_the_folder_are_known(name: str, leaves: bool) -> None:
    assert leaves_folder(name) is leaves


def test_no_file_outside_the_folder_is_read_but_links_are(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "out.png")
    for name in ("../out.png", str(tmp_path / "out.png")):
        with pytest.raises(ImageError, match=r"out\.png' leads out of .*inside"):
            ImageFiles(tmp_path / "inside", [(name,)])
    with pytest.raises(AnnotationError, match=r"'\.\./out' would be outside"):
        PngLabels(tmp_path / "inside", names=["../out"])
    (tmp_path / "inside" / "link.png").symlink_to(tmp_path / "out.png")
    assert ImageFiles(tmp_path / "inside", [("link.png",)]).read(0).shape == (4, 4, 3)


def test_a_name_that_no_file_can_have_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="1 of 1 images are not in"):
        ImageFiles(tmp_path, [("a" * 5000,)])


def test_label_maps_of_one_and_of_sixteen_bits_are_read_as_they_are(tmp_path: Path) -> None:
    labels = np.zeros((4, 6), bool)
    labels[1:3] = True
    Image.fromarray(labels).save(tmp_path / "a.png")
    Image.fromarray(labels.astype(np.uint16) * 300).save(tmp_path / "b.png")
    source = PngLabels(tmp_path)
    np.testing.assert_array_equal(source.read(0), labels)
    np.testing.assert_array_equal(source.read(1), labels * 300)
