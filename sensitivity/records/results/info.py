"""Where the numbers of a study or a verification come from: which weights, which versions, how long it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Self

from sensitivity.errors import StudyError
from sensitivity.records.arguments import check
from sensitivity.records.results.times import Times


@dataclass(frozen=True, eq=False, repr=False)
class Facts(Mapping[str, Any]):
    """A frozen dataclass that is also a mapping: what is not known is None and is no key.

    ``facts.torch`` and ``facts["torch"]`` are the same; equality is that of the mapping. A subclass adds the fields.

    Attributes:
        extra: Facts that this version does not know; they are kept and saved.
    """

    extra: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    _known: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        cls._known = tuple(cls.__annotations__)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """Facts given as a mapping, e.g. those of a saved file, as fields.

        Raises:
            StudyError: If this is no mapping, or a fact makes no sense.
        """
        if isinstance(facts, cls):
            return facts
        if not isinstance(facts, Mapping):
            raise StudyError(f"info={facts!r:.80}: give a {cls.__name__}, or a mapping of names to facts.")
        known = {name: cls._read(name, facts[name]) for name in cls._known if facts.get(name) is not None}
        return cls(**known, extra={name: value for name, value in facts.items() if name not in cls._known})

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:  # noqa: ARG003 - for those that override it
        """The value of a field, of what a file holds for it."""
        return value

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``of`` turns back into equal facts."""
        return dict(self)

    def __getitem__(self, name: str) -> Any:
        value = getattr(self, name) if name in self._known else self.extra[name]
        if value is None and name in self._known:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self._known if getattr(self, name) is not None)
        yield from self.extra

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"


class IntervalOf(StrEnum):
    """What the interval of a drop is about; equal to its text.

    Attributes:
        OTHER_IMAGES: The drop on other images of the same kind.
        THIS_DATA_SET: The drop on all images of this data set, of which some were scored.
    """

    OTHER_IMAGES = "other-images"
    THIS_DATA_SET = "this-data-set"


@dataclass(frozen=True, eq=False, repr=False)
class StudyInfo(Facts):
    """Facts about how a study was made.

    Attributes:
        seconds: Seconds that ``analyze`` took.
        torch: Version of torch.
        version: Version of this library.
        weights: Digest of the model's parameters and buffers.
        data: Digest of the task: its images, labels and settings.
        calibration_images: Images that activation ranges were measured on; by recipe where these differ.
        intervals: What the bounds of the drops mean, in words.
        interval_level: Chance that the intervals of all layers hold at once, e.g. 0.95.
        interval_of: What the intervals are about.
        tolerance: Largest drop that does not matter, in the unit people see; None takes the default of ``verdicts``.
        images: Images of the whole task, some of which a ``stop`` may have left out.
        source: Name of the file that the numbers were read from.
        latency: Name of a recipe to the times that ``Study.with_latency`` added.
    """

    seconds: float | None = None
    torch: str | None = None
    version: str | None = None
    weights: str | None = None
    data: str | None = None
    calibration_images: int | Mapping[str, int] | None = None
    intervals: str | None = None
    interval_level: float | None = None
    interval_of: IntervalOf | None = None
    tolerance: float | None = None
    images: int | None = None
    source: str | None = None
    latency: Mapping[str, Times] | None = None

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if name in ("interval_level", "tolerance"):
            check(name, value, float, StudyError)
        if name == "images":
            check(name, value, int, StudyError)
        if name == "interval_of":
            return _interval_of(value)
        return _times(value) if name == "latency" else value

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``of`` turns back into equal facts."""
        latency = {} if self.latency is None else {name: times.to_json() for name, times in self.latency.items()}
        return super().to_json() | ({"latency": latency} if latency else {})


@dataclass(frozen=True, eq=False, repr=False)
class VerificationInfo(Facts):
    """Facts about how a verification was made.

    Attributes:
        torch: Version of torch.
        engine_version: Version of the engine.
        parts: Paths of the submodules that were exported; empty for the whole model.
        exporters: What exported each of them.
        not_exported: What could not be exported, with the reasons.
        not_reached: Paths of the submodules that the task did not run, which were checked on the example inputs.
        not_inside: Submodules whose layers were compared one by one and not inside the whole graph: the engine runs no
            graph with so many outputs; with its error.
        scheme: Pattern and name of the recipe of each rule of the scheme; None protects.
    """

    torch: str | None = None
    engine_version: str | None = None
    parts: tuple[str, ...] | None = None
    exporters: tuple[str, ...] | None = None
    not_exported: tuple[str, ...] | None = None
    not_reached: tuple[str, ...] | None = None
    not_inside: tuple[str, ...] | None = None
    scheme: tuple[tuple[str, str | None], ...] | None = None

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if isinstance(value, str) and name not in ("torch", "engine_version"):
            raise StudyError(f"info: {name}={value!r:.80}: give several in a list.")
        return tuple(map(tuple, value)) if name == "scheme" else tuple(value) if isinstance(value, list) else value

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``of`` turns back into equal facts."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in self.items()}
        return plain | ({} if self.scheme is None else {"scheme": [list(rule) for rule in self.scheme]})


def _interval_of(text: object) -> IntervalOf:
    try:
        return IntervalOf(str(text))
    except ValueError as error:
        raise StudyError(f"info: interval_of={text!r:.40} is none of {', '.join(IntervalOf)}.") from error


def _times(plain: Mapping[str, Any]) -> dict[str, Times]:
    try:
        return {name: times if isinstance(times, Times) else Times.from_json(times) for name, times in plain.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StudyError(
            f"info: latency={plain!r:.80} has no complete times: {error!r}. Study.with_latency adds them."
        ) from error
