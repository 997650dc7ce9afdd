"""A distribution as JSON, and what is refused as one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from sensitivity.errors import StudyError
from sensitivity.records.results.diagnosis import DiagnosisRecord, Finding
from sensitivity.records.results.distribution import Distribution
from tests.made_studies import INT8

COUNTED = Distribution(-1.0, 0.5, (1, 20, 9, 0), (0, 21, 8, 1), -0.9, 0.8, 0.7, (-1.0, 0.99), (-0.5, 0.5), 3, 40.0)
DIAGNOSIS = DiagnosisRecord("Net", INT8, (Finding("a", 12.0, inputs=COUNTED), Finding("b", 40.0)), 30.0, 8)


def test_a_diagnosis_with_distributions_comes_back_from_json_as_it_was() -> None:
    plain = json.loads(json.dumps(DIAGNOSIS.to_json(), allow_nan=False))
    assert DiagnosisRecord.from_json(plain) == DIAGNOSIS
    assert DIAGNOSIS["a"].inputs is not None
    assert DIAGNOSIS["a"].inputs.largest == 0.9


def test_what_is_printed_of_a_finding_leaves_the_counts_out() -> None:
    assert "before" not in repr(DIAGNOSIS["a"])
    assert "most_within=0.7" in repr(DIAGNOSIS["a"])


def test_a_diagnosis_of_an_older_version_has_none() -> None:
    plain = DIAGNOSIS.to_json()
    for finding in plain["findings"]:
        del finding["inputs"], finding["weights"]
    assert DiagnosisRecord.from_json(plain) == replace(DIAGNOSIS, findings=(Finding("a", 12.0), Finding("b", 40.0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"before": [1] * 65, "after": []}, "a distribution with 65 bins before and 0 after"),
        ({"before": []}, "a distribution with 0 bins before and 4 after"),
        ({"after": [1]}, "a distribution with 4 bins before and 1 after"),
        ({"before": [1, -1, 0, 0]}, "a bin that holds fewer than 0 values"),
        ({"before": ["1", 0, 0, 0]}, "before holds '1'"),
        ({"width": 0.0}, "bins 0 wide"),
        ({"low": {"number": "inf"}}, "give finite numbers"),
        ({"low": {"number": "nan"}}, "low=nan"),
        ({"covered": [0.0]}, "covered=.*give a tuple of a number, a number or None"),
        ({"channel": 1.5}, "channel=1.5"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_file_with_a_distribution_that_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    plain = DIAGNOSIS.to_json()
    plain["findings"][0]["inputs"] = json.loads(json.dumps(asdict(COUNTED))) | changes
    with pytest.raises(StudyError, match=message):
        DiagnosisRecord.from_json(plain)
