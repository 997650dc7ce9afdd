"""Where a study's numbers come from: which weights, how long it took, what its intervals mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from sensitivity.errors import StudyError


@dataclass(frozen=True, slots=True)
class Times:
    """Measured times of one recipe on one engine, in seconds; ``records.latency.Latency`` says what they are of.

    Attributes:
        engine: Name of the engine.
        quantized_s: Time of the whole graph with every layer quantized.
        float_s: The same with none.
        layers: For each layer the time quantized, and the time in float.
    """

    engine: str
    quantized_s: float
    float_s: float
    layers: Mapping[str, tuple[float, float]]

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The times that ``StudyInfo.to_json`` described."""
        layers = {name: (float(quantized), float(in_float)) for name, (quantized, in_float) in plain["layers"].items()}
        return cls(str(plain["engine"]), float(plain["quantized_s"]), float(plain["float_s"]), layers)


@dataclass(frozen=True, eq=False)
class StudyInfo(Mapping[str, Any]):
    """Facts about how a study was made; what is not known is None and is no key of the mapping.

    ``info.weights`` and ``info["weights"]`` are the same; equality is that of the mapping.

    Attributes:
        seconds: Seconds that ``analyze`` took.
        torch: Version of torch.
        weights: Digest of the model's parameters and buffers.
        calibration_images: Images that activation ranges were measured on; by recipe where these differ.
        intervals: What the bounds of the drops mean, as a sentence.
        source: Name of the file that the numbers were read from.
        latency: Name of a recipe to the times that ``Study.with_latency`` added.
        extra: Facts that this version does not know; they are kept and saved.
    """

    seconds: float | None = None
    torch: str | None = None
    weights: str | None = None
    calibration_images: int | Mapping[str, int] | None = None
    intervals: str | None = None
    source: str | None = None
    latency: Mapping[str, Times] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> StudyInfo:
        """Facts given as a mapping, e.g. those of a saved study, as fields.

        Raises:
            StudyError: If this is no mapping, or the times in it are incomplete.
        """
        if isinstance(facts, StudyInfo):
            return facts
        if not isinstance(facts, Mapping):
            raise StudyError(f"info={facts!r:.80}: give a StudyInfo, or a mapping of names to facts.")
        known = {name: facts[name] for name in _KNOWN if name in facts}
        if known.get("latency") is not None:
            known["latency"] = _times(known["latency"])
        return cls(**known, extra={name: value for name, value in facts.items() if name not in _KNOWN})

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``of`` turns back into equal facts."""
        latency = {} if self.latency is None else {name: asdict(times) for name, times in self.latency.items()}
        return dict(self) | ({"latency": latency} if latency else {})

    def __getitem__(self, name: str) -> Any:
        value = getattr(self, name) if name in _KNOWN else self.extra[name]
        if value is None and name in _KNOWN:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in _KNOWN if getattr(self, name) is not None)
        yield from self.extra

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"StudyInfo({', '.join(f'{name}={value!r}' for name, value in self.items())})"


_KNOWN = tuple(fact.name for fact in fields(StudyInfo) if fact.name != "extra")


def _times(plain: Mapping[str, Any]) -> dict[str, Times]:
    try:
        return {name: one if isinstance(one, Times) else Times.from_json(one) for name, one in plain.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StudyError(
            f"info: latency={plain!r:.80} has no complete times: {error!r}. Study.with_latency adds them."
        ) from error
