from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from sensitivity.cli.commands.demo import SCENES
from sensitivity.demo.scenes import CLEAR, CROWDED, HELD_OUT_SEED, Style, draw_scene, draw_scenes, write_scenes
from sensitivity.demo.shapes import OUTLINES, Outline
from sensitivity.demo.textures import TEXTURES, paint
from sensitivity.tasks.annotations.annotation_file import CocoAnnotations


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 24, 5)


def test_the_same_seed_draws_the_same_scenes_and_another_seed_others() -> None:
    images, coco = draw_scenes(3, 5)
    again, coco_again = draw_scenes(3, 5)
    other, _ = draw_scenes(3, 6)
    assert coco == coco_again
    assert all(np.array_equal(image, two) for image, two in zip(images, again, strict=True))
    assert not any(np.array_equal(image, two) for image, two in zip(images, other, strict=True))


def test_a_scene_does_not_depend_on_how_many_are_drawn() -> None:
    images, _ = draw_scenes(4, 5)
    alone, _ = draw_scene(5, 3)
    assert np.array_equal(images[3], alone)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
def test_pycocotools_reads_what_is_written(written: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder, annotations = written
    coco = COCO(str(annotations))
    capsys.readouterr()  # it reports its progress
    assert sorted(coco.imgs) == list(range(1, 25))
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    assert {annotation["category_id"] for annotation in coco.anns.values()} == set(range(1, len(OUTLINES) + 1))
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        left, top, width, height = annotation["bbox"]
        image = coco.imgs[annotation["image_id"]]
        assert mask.shape == (image["height"], image["width"])
        assert mask.sum() == annotation["area"] > 0
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
    for image in coco.imgs.values():
        with Image.open(folder / image["file_name"]) as file:
            assert file.size == (image["width"], image["height"])


def test_this_library_accepts_the_annotations(written: tuple[Path, Path]) -> None:
    annotations = CocoAnnotations.load(written[1], with_masks=True)
    assert len(annotations.annotations) == len(json.loads(written[1].read_text())["annotations"])


def test_png_files_hold_the_images_drawn(written: tuple[Path, Path]) -> None:
    with Image.open(written[0] / "000007.png") as file:
        assert np.array_equal(np.asarray(file), draw_scene(5, 6)[0])


@pytest.mark.parametrize("style", [CLEAR, CROWDED], ids=["clear", "crowded"])
def test_every_scene_has_at_least_two_things_that_do_not_share_a_pixel(style: Style) -> None:
    counts = set()
    for index in range(40):
        image, objects = draw_scene(5, index, style)
        assert np.sum([mask for _, mask in objects], axis=0).max() == 1
        assert image.shape == (*objects[0][1].shape, 3)
        assert image.dtype == np.uint8
        counts.add(len(objects))
    assert counts <= set(range(2, style.most_things + 1))
    assert len(counts) >= style.most_things - 2


def test_all_three_sizes_of_coco_occur_in_the_scenes_of_the_demo() -> None:
    areas = np.array([mask.sum() for index in range(SCENES) for _, mask in draw_scene(HELD_OUT_SEED, index)[1]])
    assert (areas < 32**2).mean() > 0.15
    assert ((areas > 32**2) & (areas < 96**2)).mean() > 0.3
    assert (areas > 96**2).sum() >= 5


def test_nearer_things_hide_farther_ones() -> None:
    """A disc that nothing hides fills at least pi / 4 of its box when upright: some fill much less."""
    fills = []
    for index in range(60):
        for category, mask in draw_scene(5, index, CROWDED)[1]:
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            if category == "disc":
                fills.append(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean())
    assert min(fills) < 0.6 < np.pi / 4 < max(fills)


def test_a_style_sets_the_smallest_thing_and_how_much_of_it_must_be_seen() -> None:
    def areas(style: Style) -> list[int]:
        return [mask.sum() for index in range(40) for _, mask in draw_scene(5, index, style)[1]]

    usual = areas(CLEAR)
    assert min(areas(replace(CLEAR, smallest_radius=40.0))) > 2 * min(usual)
    assert len(areas(replace(CLEAR, least_visible=0.99))) < len(usual) < len(areas(replace(CLEAR, least_visible=0.1)))


def test_a_disc_covers_the_area_of_an_ellipse() -> None:
    rng = np.random.default_rng(0)
    placed = OUTLINES["disc"](rng).placed(centre=(50, 40), radius=20, stretch=1.4, angle=0.7)
    assert placed.coverage(80, 100).sum() == pytest.approx(np.pi * 20**2, rel=0.02)


def test_a_ring_has_a_hole_and_a_turn_moves_the_corners() -> None:
    square = Outline(
        np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]), np.array([[-0.5, 0.0], [0.0, 0.5], [0.5, 0.0]])
    )
    upright = square.placed(centre=(20, 20), radius=10, stretch=1.0, angle=0.0).coverage(40, 40)
    turned = square.placed(centre=(20, 20), radius=10, stretch=1.0, angle=np.pi / 4).coverage(40, 40)
    assert upright[20, 12] == 1
    assert upright[21, 20] == 0, "in the hole"
    assert (upright[12, 12], turned[12, 12]) == (1, 0)
    assert (upright[20, 32], turned[20, 32]) == (0, 1)


@pytest.mark.parametrize("texture", TEXTURES, ids=lambda texture: texture.__name__)
def test_every_texture_mixes_two_colours(texture: object) -> None:
    assert callable(texture)
    shades = texture(np.random.default_rng(1), 60, 80)
    assert shades.shape == (60, 80)
    assert shades.min() >= 0
    assert shades.max() <= 1
    assert shades.std() > 0.02


def test_without_contrast_a_surface_has_one_colour() -> None:
    assert np.ptp(paint(np.random.default_rng(2), 20, 30, contrast=0.0), axis=(0, 1)).max() == 0
    assert np.ptp(paint(np.random.default_rng(2), 20, 30, contrast=1.0), axis=(0, 1)).max() > 0
