from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO

from sensitivity.errors import AnnotationError, TaskError
from sensitivity.tasks.annotations.annotation_file import CocoAnnotations
from sensitivity.tasks.annotations.segmentations import as_rle, decode_mask, encode_mask
from tests.tasks.made_scenes import Scenes, annotation


def test_ids_are_renumbered_from_one_in_file_order(scenes: Scenes) -> None:
    scenes.edit(
        lambda plain: [
            annotation.update(id=number) for number, annotation in zip((7, 0, 3, 5), plain["annotations"], strict=True)
        ]
    )
    loaded = CocoAnnotations.load(scenes.annotations)
    assert [annotation["id"] for annotation in loaded.annotations] == [1, 2, 3, 4]
    assert [annotation["image_id"] for annotation in loaded.annotations] == [10, 10, 12, 12]


def test_what_was_given_is_not_changed(scenes: Scenes) -> None:
    plain = json.loads(scenes.annotations.read_text())
    before = json.dumps(plain)
    CocoAnnotations.load(plain, with_masks=True)
    assert json.dumps(plain) == before


def test_a_missing_iscrowd_is_zero(scenes: Scenes) -> None:
    scenes.edit(lambda plain: [annotation.pop("iscrowd") for annotation in plain["annotations"]])
    assert [annotation["iscrowd"] for annotation in CocoAnnotations.load(scenes.annotations).annotations] == [0] * 4


def test_an_image_without_annotations_has_an_empty_list(scenes: Scenes) -> None:
    assert {
        image: len(annotations) for image, annotations in CocoAnnotations.load(scenes.annotations).by_image.items()
    } == {
        10: 2,
        11: 0,
        12: 2,
    }


def test_first_keeps_the_annotations_of_the_images_kept(scenes: Scenes) -> None:
    first = CocoAnnotations.load(scenes.annotations).first(2)
    assert [image["id"] for image in first.images] == [10, 11]
    assert {annotation["image_id"] for annotation in first.annotations} == {10}
    with pytest.raises(TaskError, match="limit=0"):
        first.first(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain.pop("images"), "no list 'images'"),
        (lambda plain: plain["images"][0].pop("width"), r"images\[0\] .* lacks \['width'\]"),
        (lambda plain: plain["annotations"][1].pop("bbox"), r"annotations\[1\] .* lacks \['bbox'\]"),
        (lambda plain: plain["annotations"][1].pop("segmentation"), r"lacks \['segmentation'\]"),
        (lambda plain: plain["categories"][0].pop("name"), r"categories\[0\] .* lacks \['name'\]"),
        (lambda plain: plain["annotations"][1].update(id=1), "annotations .* has the id 1 twice"),
        (lambda plain: plain["images"][1].update(id=10), "images .* has the id 10 twice"),
        (lambda plain: plain["annotations"][1].update(image_id=99), "1 annotations .* image_id .* has 99"),
        (lambda plain: plain["annotations"][1].update(category_id=4), "category_id .* has 4"),
        (lambda plain: plain["annotations"][1].update(bbox=[1, 2, 3]), r"annotation 2 .* bbox \[1, 2, 3\]"),
        (lambda plain: plain["annotations"][1].update(bbox=[1, 2, 3, float("nan")]), "annotation 2 .* bbox"),
        (lambda plain: plain["annotations"][1].update(area="9"), "annotation 2 .* area '9'"),
        (lambda plain: plain["annotations"][1].update(segmentation=[]), "annotation 2 .* empty segmentation"),
        (lambda plain: plain["annotations"][1].update(segmentation=[[]]), "annotation 2 .* empty segmentation"),
    ],
)
def test_a_file_that_breaks_the_format_is_refused_with_the_place(scenes: Scenes, change: Any, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        CocoAnnotations.load(scenes.edit(change).annotations, with_masks=True)


def test_a_segmentation_is_only_demanded_where_masks_are_scored(scenes: Scenes) -> None:
    scenes.edit(lambda plain: plain["annotations"][1].pop("segmentation"))
    assert set(CocoAnnotations.load(scenes.annotations).masks) == {1, 3, 4}


def test_files_that_are_no_coco_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"no file at .*absent.json"):
        CocoAnnotations.load(tmp_path / "absent.json")
    broken = tmp_path / "broken.json"
    broken.write_text("<xml/>")
    with pytest.raises(AnnotationError, match=r"broken.json is not JSON"):
        CocoAnnotations.load(broken)
    broken.write_text("[1]")
    with pytest.raises(AnnotationError, match="holds a list; expected a COCO object"):
        CocoAnnotations.load(broken)


def test_image_names_come_from_file_name_or_from_the_end_of_the_url(scenes: Scenes) -> None:
    def change(plain: dict[str, Any]) -> None:
        plain["images"][0].update(coco_url="http://host/val2017/a.jpg")
        plain["images"][1] = {"id": 11, "width": 1, "height": 1, "coco_url": "http://host/val2017/b.jpg"}

    names = CocoAnnotations.load(scenes.edit(change).annotations).file_names()
    assert names == [("0.png", "a.jpg", "val2017/a.jpg"), ("b.jpg", "val2017/b.jpg"), ("2.png",)]


def test_an_image_without_any_name_is_refused(scenes: Scenes) -> None:
    scenes.edit(lambda plain: plain["images"][2].pop("file_name"))
    with pytest.raises(AnnotationError, match="image 12 has neither file_name nor coco_url"):
        CocoAnnotations.load(scenes.annotations).file_names()


def test_the_digest_depends_on_content_and_not_on_formatting(scenes: Scenes) -> None:
    digest = CocoAnnotations.load(scenes.annotations).digest()
    plain = json.loads(scenes.annotations.read_text())
    scenes.annotations.write_text(json.dumps(plain, indent=4, sort_keys=True))
    assert CocoAnnotations.load(scenes.annotations).digest() == digest
    scenes.edit(lambda plain: plain["annotations"][0].update(area=601))
    assert CocoAnnotations.load(scenes.annotations).digest() != digest


def test_numbers_of_numpy_and_bytes_of_pycocotools_mean_the_same_as_json(scenes: Scenes) -> None:
    plain = json.loads(scenes.annotations.read_text())
    plain["annotations"][0]["segmentation"] = encode_mask(np.ones((60, 80), bool))
    digest = CocoAnnotations.load(plain).digest()
    plain["annotations"][1]["area"] = np.int64(plain["annotations"][1]["area"])
    plain["annotations"][0]["segmentation"]["counts"] = plain["annotations"][0]["segmentation"]["counts"].encode()
    assert CocoAnnotations.load(plain, with_masks=True).digest() == digest


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
def test_every_form_of_segmentation_becomes_the_mask_that_pycocotools_makes(shared_data: Path) -> None:
    file = shared_data / "tiny_coco" / "annotations" / "instances_val2017.json"
    loaded, coco = CocoAnnotations.load(file, with_masks=True), COCO(str(file))
    assert {type(annotation["segmentation"]) for annotation in coco.dataset["annotations"]} == {list, dict}
    for own, reference in zip(loaded.annotations, coco.dataset["annotations"], strict=True):
        np.testing.assert_array_equal(decode_mask(loaded.masks[own["id"]]), coco.annToMask(reference).astype(bool))


def test_a_compressed_rle_stays_as_it_is_and_fits_json() -> None:
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    rle = mask_tools.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert as_rle(rle, 4, 6) == json.loads(json.dumps(encode_mask(mask)))
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)


def test_annotation_builder_of_these_tests_draws_what_its_box_says() -> None:
    drawn = annotation(1, 10, 3, (2, 3, 4, 5))
    assert decode_mask(as_rle(drawn["segmentation"], 20, 20)).sum() == drawn["area"] == 20
