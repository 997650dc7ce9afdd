from __future__ import annotations

import pickle

import pytest

from sensitivity.errors import LayerNotFoundError, MissingPackageError, SensitivityError, StudyError


def test_a_message_for_both_is_the_same_in_the_shell() -> None:
    error = StudyError("no study at a.json. Name another file.")
    assert str(error) == error.in_shell == "no study at a.json. Name another file."


def test_what_to_do_next_has_the_words_of_where_it_is_read() -> None:
    error = LayerNotFoundError(
        "no layer 'x'.", python="wrapped.layers lists all 3.", shell="sensitivity layers MODEL lists all 3."
    )
    assert str(error) == "no layer 'x'. wrapped.layers lists all 3."
    assert error.in_shell == "no layer 'x'. sensitivity layers MODEL lists all 3."


def test_a_whole_message_may_differ() -> None:
    error = StudyError(python="top=9: give 0 to 3.", shell="--top 9: give 0 to 3.")
    assert (str(error), error.in_shell) == ("top=9: give 0 to 3.", "--top 9: give 0 to 3.")


@pytest.mark.parametrize("kind", [SensitivityError, LayerNotFoundError, MissingPackageError])
def test_both_messages_come_back_from_a_worker(kind: type[SensitivityError]) -> None:
    error = pickle.loads(pickle.dumps(kind("no.", python="Do this.", shell="Do that.")))
    assert (type(error), str(error), error.in_shell) == (kind, "no. Do this.", "no. Do that.")
