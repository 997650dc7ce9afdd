"""Changed images as JSON, and files that are refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sensitivity.errors import RecipeError, StudyError
from sensitivity.records.results.changed_images import ChangedImagesRecord
from tests.report.test_images import RECORD


def test_they_come_back_from_json_as_they_were() -> None:
    plain = json.loads(json.dumps(RECORD.to_json(), allow_nan=False))
    assert ChangedImagesRecord.from_json(plain) == RECORD
    assert [image.change for image in RECORD] == [-0.5, -0.25, -1.0]
    assert RECORD[1:] == RECORD.shown[1:]
    assert RECORD[0] in RECORD
    assert len(repr(RECORD[0])) < 600


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jpeg": "no base64"}, "jpeg of a changed image is no base64"),
        ({"jpeg": base64.b64encode(b"<svg>").decode()}, "jpeg of image 'street.jpg' is no such picture"),
        ({"jpeg": base64.b64encode(b"\xff\xd8\xff" + bytes(500_000)).decode()}, "is no such picture of at most"),
        ({"jpeg": None}, "jpeg=None"),
        ({"overlay": base64.b64encode(b"\xff\xd8\xff").decode()}, "overlay of image 'street.jpg' is no such picture"),
        ({"width": 0}, "an image of 0 x 60 pixels"),
        ({"name": 5}, "name=5: give text"),
        ({"changed_pixels": "half"}, "changed_pixels='half'"),
        ({"before": {"score": "high", "answer": "", "boxes": []}}, "score='high'"),
        ({"before": {"score": 1.0, "answer": "", "boxes": [{"label": "cat", "score": 1.0, "corners": [1, 2]}]}},
         "corners="),
        ({"before": 5}, "not a complete record of changed images"),
        ({"colour": 1}, "colour"),
    ],
)  # fmt: skip
def test_a_file_that_is_damaged_is_refused(changes: dict[str, Any], message: str) -> None:
    plain = RECORD.to_json()
    plain["shown"][0] = plain["shown"][0] | changes
    with pytest.raises(StudyError, match=message):
        ChangedImagesRecord.from_json(plain)


def test_a_corner_at_infinity_and_a_scheme_that_is_none_are_refused() -> None:
    plain = RECORD.to_json()
    plain["shown"][0]["before"]["boxes"][0]["corners"][0] = {"number": "inf"}
    with pytest.raises(StudyError, match="a box with a corner at inf"):
        ChangedImagesRecord.from_json(plain)
    with pytest.raises((StudyError, RecipeError), match="scheme"):
        ChangedImagesRecord.from_json(RECORD.to_json() | {"scheme": 5})
