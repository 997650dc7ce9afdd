"""Whatever an annotation or result file holds, it is scored as pycocotools does, or refused with the record's place."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_tools

from sensitivity.errors import AnnotationError, PredictionError
from sensitivity.tasks.annotations.annotation_file import CocoAnnotations
from sensitivity.tasks.annotations.segmentations import lowest_and_total
from sensitivity.tasks.coco import evaluate_coco
from sensitivity.tasks.lvis import evaluate_lvis

POLYGON = [10, 10, 30, 10, 30, 30, 10, 30]
FILE = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
    "categories": [{"id": 1, "name": "a"}, {"id": 3, "name": "b"}],
    "annotations": [
        {
            "id": 7,
            "image_id": 1,
            "category_id": 1,
            "bbox": [10, 10, 20, 20],
            "area": 400,
            "iscrowd": 0,
            "segmentation": [POLYGON],
        }
    ],
}
RESULT = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "segmentation": [POLYGON], "score": 0.9}
NAN, INF = float("nan"), float("inf")

SEGMENTATIONS = {
    "a flat list": (POLYGON, "has a int where a polygon should be"),
    "a polygon of four": ([POLYGON, [10, 10, 30, 30]], "has a polygon of 4 numbers"),
    "an odd count": ([POLYGON[:-1]], "has a polygon of 7 numbers"),
    "text": ([["10", "10", "30", "10", "30", "30"]], "has a polygon with something that is no finite number"),
    "NaN": ([[NAN, *POLYGON[1:]]], "has a polygon with something that is no finite number"),
    "infinity": ([[*POLYGON[:-1], INF]], "has a polygon with something that is no finite number"),
    "bools": ([[True, *POLYGON[1:]]], "has a polygon with something that is no finite number"),
    "10**400": ([[10**400, *POLYGON[1:]]], "has a polygon with something that is no finite number"),
    "far away": ([[1e9, *POLYGON[1:]]], r"has a polygon that reaches 1e\+09 pixels far"),
    "a long outline": ([[0, 0, 4e6, 0, 0, 1, 4e6, 1]], "pixels along its outline"),
    "nothing": ([], "has an empty segmentation"),
    "null": (None, "has a segmentation that is a NoneType"),
    "too few pixels": ({"size": [80, 100], "counts": [5, 10]}, "counts add up to 15 pixels, but its image has 8000"),
    "too many pixels": ({"size": [80, 100], "counts": [5, 100000]}, "counts add up to 100005 pixels"),
    "another size": ({"size": [100, 80], "counts": [0, 8000]}, r"\(height, width\) \[100, 80\], but its image has"),
    "a huge size": ({"size": [10**9, 10**9], "counts": "0"}, r"\(height, width\) \[1000000000, 1000000000\]"),
    "a negative count": ({"size": [80, 100], "counts": [5, -3, 7998]}, "a count that is no whole number of 0 or more"),
    "half a count": ({"size": [80, 100], "counts": [0.5, 7999.5]}, "a count that is no whole number of 0 or more"),
    "no counts": ({"size": [80, 100]}, r"lacks \['counts'\]"),
    "counts null": ({"size": [80, 100], "counts": None}, "counts are a NoneType"),
    "other characters": ({"size": [80, 100], "counts": "zzzz"}, "counts 'zzzz', which are no RLE text"),
    "no ASCII": ({"size": [80, 100], "counts": "é"}, "counts 'é', which are no RLE text"),
    "a cut number": ({"size": [80, 100], "counts": "0P"}, "counts '0P', which are no RLE text"),
    "negative text": ({"size": [80, 100], "counts": "O"}, "a negative count"),
    "other text": ({"size": [80, 100], "counts": "5"}, "counts add up to 5 pixels"),
}


def load(change: Callable[[dict[str, Any]], object], *, with_masks: bool = True) -> CocoAnnotations:
    plain = copy.deepcopy(FILE)
    change(plain)
    return CocoAnnotations.load(plain, with_masks=with_masks)


def score(plain: dict[str, Any], results: list[Any], iou_type: str = "bbox") -> float:
    return evaluate_coco(plain, results, iou_type)["AP"]


@pytest.mark.parametrize(("segmentation", "message"), SEGMENTATIONS.values(), ids=SEGMENTATIONS)
def test_a_segmentation_that_cannot_be_scored_is_refused_where_it_stands(segmentation: Any, message: str) -> None:
    with pytest.raises(AnnotationError, match=rf"annotation 7 of .*{message}"):
        load(lambda plain: plain["annotations"][0].update(segmentation=segmentation))
    with pytest.raises(PredictionError, match=rf"detections\[1\] .*{message}"):
        score(FILE, [RESULT, {**RESULT, "segmentation": segmentation}], "segm")


def test_a_broken_segmentation_is_found_when_masks_are_asked_for_later() -> None:
    loaded = load(lambda plain: plain["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), with_masks=False)
    with pytest.raises(AnnotationError, match=r"annotation 7 of .* has a polygon of 4 numbers"):
        _ = loaded.masks


def test_the_first_of_several_faults_is_named() -> None:
    def change(plain: dict[str, Any]) -> None:
        first = {**plain["annotations"][0], "segmentation": {"size": [80, 100], "counts": "5"}}
        plain["annotations"] = [first, {**first, "id": 8, "segmentation": [[1, 2]]}]

    with pytest.raises(AnnotationError, match=r"annotation 7 of .* add up to 5 pixels"):
        load(change)


def test_lowest_and_total_agree_with_masks_that_pycocotools_encodes() -> None:
    draw = np.random.default_rng(0)
    masks = [draw.random(tuple(draw.integers(1, 40, 2))) < draw.choice([0, 0.03, 0.5, 1]) for _ in range(300)]
    strings = [mask_tools.encode(np.asfortranarray(mask, np.uint8))["counts"] for mask in masks]
    lowest, totals = lowest_and_total(strings)
    assert lowest.tolist() == [0] * 300
    assert totals.tolist() == [mask.size for mask in masks]


RECORDS = {
    "image id text": ("images", "id", "1", r"images\[0\] of .* has the id '1'"),
    "image id half": ("images", "id", 0.5, r"images\[0\] of .* has the id 0.5"),
    "image id null": ("images", "id", None, r"images\[0\] of .* has the id None"),
    "image id list": ("images", "id", [1], r"images\[0\] of .* has the id \[1\]"),
    "category id name": ("categories", "id", "cat", r"categories\[0\] of .* has the id 'cat'"),
    "category id huge": ("categories", "id", 2**70, r"categories\[0\] of .* has the id 1180"),
    "category id bool": ("categories", "id", True, r"categories\[0\] of .* has the id True"),
    "category name": ("categories", "name", ["a"], r"category 1 of .* has the name \['a'\]"),
    "width null": ("images", "width", None, "image 1 of .* has the width None"),
    "width text": ("images", "width", "100", "image 1 of .* has the width '100'"),
    "height 0": ("images", "height", 0, "image 1 of .* has the height 0"),
    "height huge": ("images", "height", 10**12, "image 1 of .* has the height 1000000000000"),
    "annotation id text": ("annotations", "id", "x", r"annotations\[0\] of .* has the id 'x'"),
    "image_id text": ("annotations", "image_id", "1", "annotation 7 of .* has the image_id '1'"),
    "category_id list": ("annotations", "category_id", [1], r"annotation 7 of .* has the category_id \[1\]"),
    "bbox negative": ("annotations", "bbox", [1, 1, -2, 2], "annotation 7 of .* has the bbox"),
    "bbox huge": ("annotations", "bbox", [1, 1, 10**400, 2], "annotation 7 of .* has the bbox"),
    "bbox nested": ("annotations", "bbox", [[1, 2, 3, 4]], "annotation 7 of .* has the bbox"),
    "bbox bool": ("annotations", "bbox", [True, 1, 2, 2], "annotation 7 of .* has the bbox"),
    "area NaN": ("annotations", "area", NAN, "annotation 7 of .* has the area nan"),
    "area negative": ("annotations", "area", -1, "annotation 7 of .* has the area -1"),
    "iscrowd text": ("annotations", "iscrowd", "0", "annotation 7 of .* has the iscrowd '0'"),
    "iscrowd null": ("annotations", "iscrowd", None, "annotation 7 of .* has the iscrowd None"),
    "iscrowd 2": ("annotations", "iscrowd", 2, "annotation 7 of .* has the iscrowd 2"),
}


@pytest.mark.parametrize(("part", "key", "value", "message"), RECORDS.values(), ids=RECORDS)
def test_a_record_with_a_wrong_value_is_refused_by_name(part: str, key: str, value: Any, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        load(lambda plain: plain[part][0].update({key: value}), with_masks=False)


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
def test_a_record_that_is_no_object_is_refused(part: str) -> None:
    with pytest.raises(AnnotationError, match=rf"{part}\[1\] of .* is a NoneType; expected an object"):
        load(lambda plain: plain[part].insert(1, None))


def test_whole_floats_mean_the_same_as_ints() -> None:
    def change(plain: dict[str, Any]) -> None:
        plain["images"][0].update(id=1.0, width=100.0, height=80.0)
        plain["annotations"][0].update(image_id=1.0, category_id=1.0, iscrowd=False)

    assert load(change).digest() == load(lambda plain: None).digest()


def test_ids_of_any_sign_and_size_score_as_others_do() -> None:
    plain = copy.deepcopy(FILE)
    plain["images"][0]["id"] = plain["annotations"][0]["image_id"] = 0
    plain["categories"][0]["id"] = plain["annotations"][0]["category_id"] = -(2**62)
    plain["images"][0] |= {"neg_category_ids": [3], "not_exhaustive_category_ids": [-(2**62)]}
    for category in plain["categories"]:
        category["frequency"] = "f"
    detected = {**RESULT, "image_id": 0, "category_id": -(2**62)}
    missed = {**detected, "bbox": [60, 60, 9, 9], "score": 0.95}
    assert score(plain, [detected]) == pytest.approx(1.0)
    assert evaluate_lvis(plain, [detected, missed])["AP"] == pytest.approx(1.0)  # excused: not annotated exhaustively


@pytest.mark.parametrize("value", [[4], ["3"], 3, None, [[3]]])
def test_lvis_lists_that_name_no_category_are_refused(value: Any) -> None:
    plain = copy.deepcopy(FILE)
    plain["images"][0] |= {"neg_category_ids": value, "not_exhaustive_category_ids": []}
    with pytest.raises(AnnotationError, match=r"image 1 has the neg_category_ids .*; expected a list"):
        evaluate_lvis(plain, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "0.9"}, "has the score '0.9'"),
        ({"score": None}, "has the score None"),
        ({"score": [0.9]}, r"has the score \[0.9\]"),
        ({"score": True}, "has the score True"),
        ({"bbox": None}, "has the bbox None"),
        ({"bbox": [[10, 10, 20, 20]]}, "has the bbox"),
        ({"image_id": [1]}, r"has the unknown image_id \[1\]"),
        ({"image_id": True}, "has the unknown image_id True"),
        ({"category_id": "1"}, "has the unknown category_id '1'"),
    ],
)
def test_a_result_with_a_wrong_value_is_refused_where_it_stands(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PredictionError, match=rf"detections\[1\] {message}"):
        score(FILE, [RESULT, {**RESULT, **change}])


def test_a_result_that_is_no_object_is_refused() -> None:
    with pytest.raises(PredictionError, match=r"detections\[0\] is a str"):
        score(FILE, ["x"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"images": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"", "is not JSON"),
    ],
    ids=["deep", "long number", "no UTF-8", "empty"],
)
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(AnnotationError, match=rf"a\.json .*{message}"):
        CocoAnnotations.load(tmp_path / "a.json")


def test_a_folder_is_no_annotation_file_and_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"cannot be read: .*Is a directory"):
        CocoAnnotations.load(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(FILE), encoding="utf-8-sig")
    assert CocoAnnotations.load(tmp_path / "a.json").digest() == load(lambda plain: None).digest()


def test_a_pipe_is_no_annotation_file_and_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AnnotationError, match="cannot be read: it is a pipe or a device"):
        CocoAnnotations.load(tmp_path / "pipe")
    with pytest.raises(AnnotationError, match="cannot be read: it is a pipe or a device"):
        evaluate_coco(FILE, tmp_path / "pipe")
    (tmp_path / "a.json").write_text(json.dumps(FILE), encoding="utf-8")
    monkeypatch.setattr("sensitivity.tasks.annotations.annotation_file.MAX_ANNOTATION_BYTES", 100)
    with pytest.raises(AnnotationError, match="more than the 100 bytes of the largest annotation file"):
        CocoAnnotations.load(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", "b/../../a.jpg", "C:\\a.jpg", "..\\a.jpg", "", 5, None])
def test_a_file_name_that_leaves_the_folder_is_refused(name: Any) -> None:
    with pytest.raises(AnnotationError, match=r"image 1 has the file name .*; expected a name or a path inside"):
        load(lambda plain: plain["images"][0].update(file_name=name)).file_names()
