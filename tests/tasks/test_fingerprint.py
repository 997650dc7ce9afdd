from __future__ import annotations

import functools
from dataclasses import dataclass

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


def test_functions_are_their_qualified_names() -> None:
    assert describe(named) == f"{__name__}.named"
    assert describe(functools.partial(named, number=3)) == f"partial({__name__}.named, (), {{'number': 3}})"


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


def test_containers_and_classes_are_told_apart() -> None:
    texts = [describe(value) for value in (1, "1", [1, 2], (1, 2), [12], {1: 2}, int, Value, None)]
    assert len(set(texts)) == len(texts) - 1  # a list and a tuple of the same things mean the same
