from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from sensitivity.tasks.fingerprint import describe, fingerprint


@dataclass(frozen=True)
class Value:
    number: int

    def call(self) -> int:
        return self.number


class Opaque:
    def __init__(self, number: int) -> None:
        self.number = number


def named(number: int = 0) -> int:
    return number


def captured(number: int):
    return lambda: number


def test_moving_a_letter_to_the_next_text_changes_the_hash() -> None:
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert fingerprint(["ab"]) == fingerprint([b"ab"])


def made(source: str) -> Any:
    """The function that a source defines under the name ``adapter``."""
    names: dict[str, Any] = {"__name__": __name__}
    exec(source, names)
    return names["adapter"]


def test_functions_are_their_qualified_names_and_code() -> None:
    assert describe(named).startswith(f"{__name__}.named#")
    assert describe(functools.partial(named, number=3)) == f"partial({describe(named)}, (), {{'number': 3}})"
    assert describe(fingerprint) == "sensitivity.tasks.fingerprint.fingerprint"


def test_an_edited_function_is_another_one() -> None:
    """Predictions of the old one had been taken from a store."""
    sources = [
        "def adapter(outputs, sizes):\n    return outputs[0]",
        "def adapter(outputs, sizes):\n    return outputs[1]",
        "def adapter(outputs, sizes):\n    return outputs.boxes",
        "def adapter(outputs, sizes):\n    return outputs.scores",
        "def adapter(outputs, sizes, first=0):\n    return outputs[first]",
        "def adapter(outputs, sizes, first=1):\n    return outputs[first]",
        "def adapter(outputs, sizes):\n    return (lambda x: x + 1)(outputs)",
        "def adapter(outputs, sizes):\n    return (lambda x: x + 2)(outputs)",
    ]
    assert len({describe(made(source)) for source in sources}) == len(sources)


def test_comments_docstrings_and_places_do_not_count() -> None:
    plain, documented = (
        "def adapter(x):\n    return x + 1",
        '\n\ndef adapter(x):\n    """Adds."""\n    # one\n    return x + 1',
    )
    assert describe(made(plain)) == describe(made(plain))
    assert describe(made(documented)) == describe(made(documented.replace("Adds", "Increases")))


def test_the_text_is_the_same_in_every_process() -> None:
    program = "from sensitivity.tasks.fingerprint import describe\nprint(describe(lambda x: x in {'a', 'b', 'c', 'd'}))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1


def test_a_function_that_captures_itself_has_a_text() -> None:
    def recursive(number: int) -> int:
        return 0 if number == 0 else recursive(number - 1)

    assert describe(recursive) == describe(recursive)


def test_lambdas_differ_by_code_constants_and_captured_values() -> None:
    texts = [
        describe(function) for function in (lambda x: x + 1, lambda x: x + 2, lambda x: x * 2, captured(1), captured(2))
    ]
    assert len(set(texts)) == 5
    assert describe(captured(1)) == describe(captured(1))


def test_values_differ_by_their_repr_and_other_objects_by_their_attributes() -> None:
    assert describe(Value(1)) != describe(Value(2))
    assert describe(Value(1).call) != describe(Value(2).call)
    assert describe(Opaque(1)) == describe(Opaque(1))
    assert describe(Opaque(1)) != describe(Opaque(2))
    assert "0x" not in describe(Opaque(1))


@dataclass(frozen=True)
class Mapped:
    table: Any


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_long_arrays_differ_by_every_number(kind: Any) -> None:
    """What Python prints of them leaves out the middle."""
    numbers = list(range(3000))
    others = [*numbers[:1500], -1, *numbers[1501:]]
    for wrapped in (captured, Mapped, Opaque, lambda table: table):
        first, same, other = (describe(wrapped(kind(values))) for values in (numbers, list(numbers), others))
        assert first == same != other


def test_containers_and_classes_are_told_apart() -> None:
    texts = [describe(value) for value in (1, "1", [1, 2], (1, 2), [12], {1: 2}, int, Value, None)]
    assert len(set(texts)) == len(texts) - 1  # a list and a tuple of the same things mean the same
