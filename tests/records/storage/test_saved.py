"""Records kept as JSON: each kind of file reads its own schema, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sensitivity as sv
from sensitivity.errors import RecipeError, StudyError

KINDS: dict[str, Any] = {
    "study": sv.Study,
    "verification": sv.Verification,
    "tuned model": sv.Tuned,
    "diagnosis": sv.Diagnosis,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plain", [{}, [], None, 3, "text"])
def test_what_has_no_schema_is_refused(kind: str, plain: Any) -> None:
    with pytest.raises(StudyError, match=rf"not a {kind}: it has no 'schema'. Give a file written by "):
        KINDS[kind].from_json(plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", [0, 2, "1", True, 1.0, None, {}])
def test_a_schema_of_another_version_or_kind_is_refused(kind: str, version: Any) -> None:
    with pytest.raises(StudyError, match=rf"{kind} of schema .*; this version reads 1. Update sensitivity"):
        KINDS[kind].from_json({"schema": version})


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_which_all_but_the_schema_is_missing_is_refused_by_its_path(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text('{"schema": 1}', encoding="utf-8")
    with pytest.raises(StudyError, match=rf"record\.json: not a complete {kind}: "):
        KINDS[kind].load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_nests_in_nests_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text('{"schema": 1, "layers": ' + "[" * 900 + "]" * 900 + "}", encoding="utf-8")
    with pytest.raises(StudyError, match=r"record\.json"):
        KINDS[kind].load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=rf"no {kind} at .*none\.json"):
        KINDS[kind].load(tmp_path / "none.json")


def test_a_recipe_that_is_none_is_told_as_such(tmp_path: Path) -> None:
    plain = {"schema": 1, "model": "net", "recipe": {"name": 3}, "findings": [], "enough_db": 20.0, "images": 1}
    (tmp_path / "diagnosis.json").write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"diagnosis\.json: "):
        sv.Diagnosis.load(tmp_path / "diagnosis.json")
