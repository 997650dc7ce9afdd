"""What a reader of a study should know, with the kind that code decides on."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Self


class NoteKind(StrEnum):
    """What a note is about; code asks for the kind and never for the words.

    Attributes:
        REMARK: Anything that only people need to know.
        NOT_REPLAYED: Every pass was run in full, because the model cannot be replayed.
        REPLAY_DIFFERS: The same, because a replayed pass was found to differ from a full one.
        REPLAYED_BY_FUNCTIONS: Torch functions alone are replayed, because a pass replayed by modules differed.
        INTERRUPTED: The sweep was ended before it was complete.
        NO_INTERVAL: Some drops have no interval.
        NOT_REACHED: No image of the calibration or of the task reached some layers.
    """

    REMARK = "remark"
    NOT_REPLAYED = "not-replayed"
    REPLAY_DIFFERS = "replay-differs"
    REPLAYED_BY_FUNCTIONS = "replayed-by-functions"
    INTERRUPTED = "interrupted"
    NO_INTERVAL = "no-interval"
    NOT_REACHED = "not-reached"

    @property
    def ends_replay(self) -> bool:
        """Whether every pass is run in full from then on."""
        return self in (NoteKind.NOT_REPLAYED, NoteKind.REPLAY_DIFFERS)

    @property
    def doubts_replay(self) -> bool:
        """Whether predictions that were replayed before cannot be trusted."""
        return self in (NoteKind.REPLAY_DIFFERS, NoteKind.REPLAYED_BY_FUNCTIONS)


class Note(str):
    """A sentence for people, and its kind for programs; as text it is the sentence.

    Args:
        kind: What it is about.
        text: The sentence.
    """

    __slots__ = ("kind",)

    kind: NoteKind

    def __new__(cls, kind: NoteKind, text: str) -> Self:  # noqa: D102 - the class says it
        note = super().__new__(cls, text)
        note.kind = NoteKind(kind)
        return note

    @property
    def text(self) -> str:
        """The sentence alone."""
        return str.__str__(self)

    def __getnewargs__(self) -> tuple[NoteKind, str]:  # type: ignore[override]
        """How ``copy`` and ``pickle`` make it again."""
        return self.kind, self.text


def noted(text: str) -> Note:
    """A note as it is; any other text as a remark."""
    return text if isinstance(text, Note) else Note(NoteKind.REMARK, text)


def of_kind(notes: Iterable[str], kind: NoteKind) -> list[Note]:
    """The notes of one kind, in their order."""
    return [note for note in map(noted, notes) if note.kind is kind]


def notes_of(texts: Iterable[str], kinds: Iterable[str] = ()) -> tuple[Note, ...]:
    """Notes from their texts and kinds; texts without any kinds are remarks.

    Raises:
        ValueError: If a kind is unknown, or there are not as many kinds as texts.
        TypeError: If a text is none.
    """
    texts, kinds = list(texts), list(kinds)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"a note is a text, given: {texts!r:.80}")
    return tuple(Note(NoteKind(kind), text) for text, kind in zip(texts, kinds or ["remark"] * len(texts), strict=True))
