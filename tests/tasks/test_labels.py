from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sensitivity.errors import AnnotationError
from sensitivity.tasks.labels import CocoLabels, PngLabels
from tests.tasks.made_scenes import Scenes, annotation, write_scenes


def write_png(folder: Path, name: str, labels: np.ndarray, *, palette: bool = False) -> None:
    folder.mkdir(exist_ok=True)
    image = Image.fromarray(labels)
    if palette:
        image = image.convert("P")
        image.putdata(labels.ravel().tolist())
        image.putpalette([7 * number % 256 for number in range(768)])
    image.save(folder / name)


@pytest.mark.parametrize("palette", [False, True])
def test_png_pixels_are_indices_whatever_the_palette(tmp_path: Path, palette: bool) -> None:
    labels = np.array([[0, 1, 255], [20, 1, 0]], np.uint8)
    write_png(tmp_path, "a.png", labels, palette=palette)
    source = PngLabels(tmp_path)
    np.testing.assert_array_equal(source.read(0), labels)
    assert source.file_names() == [("a.jpg", "a.jpeg", "a.png")]


def test_names_choose_and_order_the_label_maps(tmp_path: Path) -> None:
    for number, name in enumerate("cab"):
        write_png(tmp_path, f"{name}.png", np.full((2, 2), number, np.uint8))
    assert [names[0] for names in PngLabels(tmp_path).file_names()] == ["a.jpg", "b.jpg", "c.jpg"]
    chosen = PngLabels(tmp_path, names=["c", "a"])
    assert [chosen.read(position)[0, 0] for position in (0, 1)] == [0, 1]
    assert chosen.digest() != PngLabels(tmp_path, names=["a", "c"]).digest()
    with pytest.raises(AnnotationError, match=r"1 label maps are not in .*: d\.png"):
        PngLabels(tmp_path, names=["a", "d"])


def test_folders_and_files_that_hold_no_label_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"no folder of label maps at .*nowhere"):
        PngLabels(tmp_path / "nowhere")
    with pytest.raises(AnnotationError, match="no PNG in"):
        PngLabels(tmp_path)
    Image.new("RGB", (3, 3)).save(tmp_path / "colours.png")
    with pytest.raises(AnnotationError, match=r"colours\.png has pixels of \(3,\); expected one class index"):
        PngLabels(tmp_path).read(0)
    (tmp_path / "colours.png").write_text("no image")
    with pytest.raises(AnnotationError, match=r"colours\.png cannot be read as a label map"):
        PngLabels(tmp_path).read(0)


def test_the_digest_depends_on_every_pixel(tmp_path: Path) -> None:
    labels = np.zeros((4, 4), np.uint8)
    write_png(tmp_path, "a.png", labels)
    before = PngLabels(tmp_path).digest()
    labels[3, 3] = 1
    write_png(tmp_path, "a.png", labels)
    assert PngLabels(tmp_path).digest() != before


def test_small_instances_lie_on_top_and_crowds_ignore_what_is_still_background(tmp_path: Path) -> None:
    objects = [
        annotation(1, 10, 3, (2, 2, 4, 4)),
        annotation(2, 10, 5, (0, 0, 10, 10)),
        annotation(3, 10, 8, (12, 0, 4, 4)),
        annotation(4, 10, 5, (8, 0, 12, 20), iscrowd=1),
        annotation(5, 10, 8, (0, 15, 20, 5), iscrowd=1),
    ]
    scenes = write_scenes(tmp_path, [(20, 20)], objects)
    labels = CocoLabels(scenes.annotations, classes={3: 1, 5: 2}).read(0)
    expected = np.zeros((20, 20), int)
    expected[:10, :10] = 2
    expected[2:6, 2:6] = 1
    expected[:20, 8:20][expected[:20, 8:20] == 0] = 255
    np.testing.assert_array_equal(labels, expected)
    other = CocoLabels(scenes.annotations, classes={3: 1}, background=7, ignore_label=9).read(0)
    assert set(np.unique(other)) == {1, 7}


def test_equal_areas_are_painted_in_file_order(tmp_path: Path) -> None:
    objects = [annotation(9, 10, 3, (0, 0, 4, 4)), annotation(2, 10, 5, (2, 0, 4, 4))]
    source = CocoLabels(write_scenes(tmp_path, [(4, 6)], objects).annotations, classes={3: 1, 5: 2})
    assert source.read(0)[0].tolist() == [1, 1, 2, 2, 2, 2]


def test_unknown_categories_are_refused_and_settings_are_in_the_digest(scenes: Scenes) -> None:
    with pytest.raises(AnnotationError, match=r"has no categories \[4\], which classes= maps. It has 3"):
        CocoLabels(scenes.annotations, classes={4: 1})
    sources = [
        CocoLabels(scenes.annotations, classes={3: 1}),
        CocoLabels(scenes.annotations, classes={3: 2}),
        CocoLabels(scenes.annotations, classes={3: 1}, background=3),
        CocoLabels(scenes.annotations, classes={3: 1}, ignore_label=254),
    ]
    assert len({source.digest() for source in sources}) == 4
