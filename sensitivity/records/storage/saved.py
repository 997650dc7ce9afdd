"""Records that are kept as JSON, with the version of their schema: one way to save, load and read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from sensitivity.errors import SensitivityError, StudyError
from sensitivity.records.arguments import checked
from sensitivity.records.storage.files import load_json, write_json
from sensitivity.records.storage.plain import from_plain, to_plain


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file holds.

    Attributes:
        what: In messages, without an article: ``study``.
        writer: What writes such files, in messages: ``Study.save``.
        version: Of its schema.
        error: Raised where a file holds something else.
    """

    what: str
    writer: str
    version: int = 1
    error: type[SensitivityError] = StudyError

    def described(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Plain values with the version of the schema; what JSON has no number for as objects.

        Args:
            facts: The record's fields, those that are records themselves as plain values.
        """
        plain: dict[str, Any] = to_plain(facts)
        return {"schema": self.version} | plain

    def facts_in(self, plain: object) -> dict[str, Any]:
        """What ``described`` was given, with lists in the place of tuples.

        Args:
            plain: What a file held.

        Raises:
            SensitivityError: As ``error``, if it has no schema, or that of another version.
            ValueError: If an object stands for a number that is none.
        """
        if not isinstance(plain, Mapping) or "schema" not in plain:
            raise self.error(f"not a {self.what}: it has no 'schema'. Give a file written by {self.writer}.")
        version = plain["schema"]
        if type(version) is not int or version != self.version:
            raise self.error(
                f"{self.what} of schema {version!r:.40}; this version reads {self.version}. Update sensitivity."
            )
        facts: dict[str, Any] = from_plain({name: value for name, value in plain.items() if name != "schema"})
        return facts


class Saved:
    """A record that is kept in a file; a class says of what kind, and how it is made of the facts in it."""

    __slots__ = ()
    _kind: ClassVar[FileKind]

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal record."""
        raise NotImplementedError

    @classmethod
    def _of_facts(cls, facts: dict[str, Any]) -> Self:
        """The record of the facts in a file; it may fail on facts that are incomplete or of the wrong kind."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The record that ``to_json`` described.

        Args:
            plain: Plain values.

        Raises:
            StudyError: If this is something else, incomplete, or of a newer version.
            RecipeError: If a recipe or a scheme in it is none.
        """
        kind = cls._kind
        try:
            return cls._of_facts(kind.facts_in(plain))
        except SensitivityError:
            raise  # some are ValueErrors, and say more
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            raise kind.error(f"not a complete {kind.what}: {why}. Give a file written by {kind.writer}.") from error

    @checked(StudyError)
    def save(self, path: str | Path) -> None:
        """Write the record as JSON, in one step: a reader never sees half a file."""
        write_json(path, self.to_json())

    @classmethod
    @checked(StudyError)
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            StudyError: If the file is missing or holds something else.
            RecipeError: If a recipe or a scheme in it is none.
        """
        kind = cls._kind
        return load_json(path, f"a {kind.what}", kind.writer, kind.error, cls.from_json)
