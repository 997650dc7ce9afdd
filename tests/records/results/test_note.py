"""A note reads as its text everywhere, and keeps its kind through copies, pickles and files."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest

from sensitivity.errors import StudyError
from sensitivity.records import Note, NoteKind
from sensitivity.records.results.note import of_kind
from sensitivity.study import Study
from tests.made_studies import make_study

NOTE = Note(NoteKind.INTERRUPTED, "stopped at noon")


def test_a_note_is_its_text_for_whoever_reads_it() -> None:
    assert NOTE == "stopped at noon"
    assert f"{NOTE}." == "stopped at noon."
    assert json.dumps([NOTE]) == '["stopped at noon"]'


@pytest.mark.parametrize("again", [copy.copy(NOTE), copy.deepcopy(NOTE), pickle.loads(pickle.dumps(NOTE))])
def test_a_copy_of_a_note_keeps_its_kind(again: Note) -> None:
    assert (again, again.kind) == (NOTE, NoteKind.INTERRUPTED)


def test_a_saved_study_keeps_the_kinds_of_its_notes(tmp_path: Path) -> None:
    study = make_study([0.1], notes=("a remark of the reader's", NOTE))
    study.save(tmp_path / "study.json")
    loaded = Study.load(tmp_path / "study.json")
    assert loaded.notes == study.notes
    assert of_kind(loaded.notes, NoteKind.INTERRUPTED) == [NOTE]
    assert of_kind(loaded.notes, NoteKind.REMARK) == ["a remark of the reader's"]


def test_a_study_written_before_notes_had_kinds_is_read() -> None:
    plain = make_study([0.1], notes=(NOTE,)).to_json()
    del plain["note_kinds"]
    assert [note.kind for note in of_kind(Study.from_json(plain).notes, NoteKind.REMARK)] == [NoteKind.REMARK]


def test_an_unknown_kind_of_note_is_no_study() -> None:
    plain = make_study([0.1], notes=(NOTE,)).to_json() | {"note_kinds": ["gossip"]}
    with pytest.raises(StudyError, match="gossip"):
        Study.from_json(plain)


def test_an_unknown_status_is_no_study() -> None:
    plain = make_study([0.1]).to_json()
    plain["measurements"][0]["status"] = "guessed"
    with pytest.raises(StudyError, match="guessed"):
        Study.from_json(plain)
