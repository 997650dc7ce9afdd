"""A changed file is read, or refused with an error of the library; nothing else is raised."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import sensitivity as sv
from sensitivity.errors import RecipeError, SensitivityError
from sensitivity.sweep.storage.journal import Journal
from sensitivity.tasks.coco import evaluate_coco

EXAMPLES = 2000 if "SENSITIVITY_SOAK" in os.environ else 60
ANY = settings(
    derandomize=True, max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([2**31, 2**63, 2**70, -(2**63)]),
    st.floats(),
    st.sampled_from(["", "1", "nan", "é", "../a", "*", "int8"]),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2))


def with_one_value_replaced(data: st.DataObject, plain: Any) -> Any:
    """A copy of a nest with one value in it replaced, removed or doubled."""
    changed = copy.deepcopy(plain)
    inner: Any = changed
    while True:
        key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        if not isinstance(inner[key], (dict, list)) or not inner[key] or data.draw(st.integers(0, 4)) == 0:
            break
        inner = inner[key]
    change = data.draw(st.sampled_from(["replace", "replace", "remove", "double"]))
    if change == "replace":
        inner[key] = data.draw(VALUES)
    elif change == "remove":
        del inner[key]
    elif isinstance(inner, list):
        inner.append(copy.deepcopy(inner[key]))
    return changed


ANNOTATIONS = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 20, "height": 16},
        {"id": 2, "file_name": "b.png", "width": 9, "height": 9},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
    "annotations": [
        {
            "id": number,
            "image_id": 1 + number % 2,
            "category_id": 1 + 2 * (number % 2),
            "bbox": [1, 1, 5, 6],
            "area": 30,
            "iscrowd": int(number == 3),
            "segmentation": [[1, 1, 6, 1, 6, 7, 1, 7]] if number % 2 else {"size": [16, 20], "counts": [17, 5, 298]},
        }
        for number in range(4)
    ],
}
RESULTS = [
    {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [1, 1, 5, 6], "segmentation": [[1, 1, 6, 1, 6, 7, 1, 7]]}
]


@ANY
@given(data=st.data(), iou_type=st.sampled_from(["bbox", "segm"]))
def test_annotations_and_results_are_scored_or_refused(data: st.DataObject, iou_type: str) -> None:
    annotations = with_one_value_replaced(data, ANNOTATIONS)
    results = with_one_value_replaced(data, RESULTS) if data.draw(st.booleans()) else RESULTS
    try:
        metrics = evaluate_coco(annotations, results, iou_type)
    except SensitivityError:
        return
    assert all(np.isnan(value) or 0.0 <= value <= 1.0 for value in metrics.values())


@ANY
@given(data=st.data())
def test_a_scheme_is_read_as_it_was_written_or_refused(data: st.DataObject) -> None:
    plain = sv.Scheme.all(sv.INT8).quantize("b:0:0", sv.INT4_WEIGHTS).protect("c:*:*").to_json()
    changed = with_one_value_replaced(data, json.loads(json.dumps(plain)))
    try:
        scheme = sv.Scheme.from_json(changed)
    except SensitivityError:
        return
    assert sv.Scheme.from_json(json.loads(json.dumps(scheme.to_json()))) == scheme
    repr(scheme)


TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=4), inner, max_size=3),
        st.tuples(inner, inner),
    ),
    max_leaves=8,
)


@ANY
@given(trees=st.lists(TREES, min_size=1, max_size=4), data=st.data())
def test_a_damaged_store_gives_what_was_added_or_nothing_or_is_refused(
    trees: list[Any], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("store") / "s.jsonl"
    with Journal(path) as journal:
        for number, tree in enumerate(trees):
            journal.add(str(number), tree)
    content = bytearray(path.read_bytes())
    change = data.draw(st.sampled_from(["cut", "flip", "insert", "remove", "double"]))
    place = data.draw(st.integers(0, len(content) - 1))
    if change == "cut":
        del content[place:]
    elif change == "flip":
        content[place] ^= data.draw(st.integers(1, 255))
    elif change == "insert":
        content[place:place] = data.draw(st.binary(min_size=1, max_size=4))
    elif change == "remove":
        del content[place : place + data.draw(st.integers(1, 5))]
    else:
        content += content[place:]
    path.write_bytes(bytes(content))
    try:
        with Journal(path) as journal:
            for number, tree in enumerate(trees):
                assert str(number) not in journal or journal.read(str(number)) == tree
    except SensitivityError:
        return


@ANY
@given(data=st.data())
def test_a_damaged_calibration_is_read_or_refused(
    data: st.DataObject, calibration: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(calibration)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    assume(bytes(content) != calibration)
    path = tmp_path_factory.mktemp("calibration") / "c.safetensors"
    path.write_bytes(bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))]))
    try:
        repr(sv.Calibration.load(path))
    except SensitivityError:
        return


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a calibration of two layers."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    images = torch.rand(2, 3, 6, 6)
    wrapped = sv.wrap(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval(), images)
    path: Path = tmp_path_factory.mktemp("made") / "c.safetensors"
    wrapped.calibrate(images, sv.INT8).save(path)
    return path.read_bytes()


WRONG: list[Any] = ["no such", (1, 2, 3), ["a", 1], b"x", {"a:0:0": sv.INT8}, 3, None]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_scheme_of_something_else_than_rules_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(RecipeError, match=r"^rules(=| holds ).*: give "):
        sv.Scheme(wrong)
    with pytest.raises(RecipeError, match=r"^predicted_drop"):
        sv.Scheme(predicted_drop=[wrong])  # type: ignore[arg-type]


def test_rules_of_a_list_are_those_of_a_tuple() -> None:
    rules = list(sv.Scheme.all(sv.INT8).protect("@exit").rules)
    assert sv.Scheme(rules) == sv.Scheme(tuple(rules))  # type: ignore[arg-type]
