"""What a search for a scheme tried, in which order, what each step bought, and where it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar, Self

from sensitivity.errors import StudyError
from sensitivity.records.arguments import check_fields, number
from sensitivity.records.recipes.scheme import Scheme
from sensitivity.records.results.study import Score
from sensitivity.records.results.verdict import Verdict, verdict_of_interval
from sensitivity.records.storage.saved import FileKind, Saved
from sensitivity.records.units import drop_text, scale_of


class StepKind(StrEnum):
    """What a step of a search tried.

    Attributes:
        CANDIDATE: One recipe for all layers.
        BUDGET: The recipes that an exact solver chose under a budget of bytes or seconds.
        CURE: Other recipes for some layers.
        PROTECT: Some layers back in float.
        RELEASE: A protected layer quantized again.
    """

    CANDIDATE = "candidate"
    BUDGET = "budget"
    CURE = "cure"
    PROTECT = "protect"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a scheme has to reach.

    Attributes:
        max_drop: Largest drop of the task's metric, in the unit people see (points where the unit is ``%``).
        size_bytes: Most bytes that the parameters of all layers may take.
        latency_s: Most seconds that one run may take on the engine.

    Raises:
        StudyError: If none is given, or a number is out of range.
    """

    max_drop: float | None = None
    size_bytes: int | None = None
    latency_s: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, StudyError)
        if self.max_drop is None and self.size_bytes is None and self.latency_s is None:
            raise StudyError("tune needs a target: give max_drop=, size_bytes= or latency_s=, e.g. max_drop=0.5.")
        if self.max_drop is not None and self.max_drop < 0:
            raise StudyError(
                f"max_drop={self.max_drop!r} asks for a better score than the model has in fp32, which no "
                "quantized model can be held to. Give zero or more, e.g. 0.5."
            )
        if self.size_bytes is not None:
            number("size_bytes", self.size_bytes, least=1, error=StudyError)
        if self.latency_s is not None and not self.latency_s > 0:
            raise StudyError(f"latency_s={self.latency_s!r}: give seconds above zero.")

    def text(self, unit: str) -> str:
        """The goal in words.

        Args:
            unit: Of the task's metric.
        """
        parts = [
            *([f"a drop of at most {drop_text(self.max_drop, unit, 'g')}"] if self.max_drop is not None else []),
            *([f"at most {self.size_bytes} bytes"] if self.size_bytes is not None else []),
            *([f"at most {1e3 * self.latency_s:.3g} ms a run"] if self.latency_s is not None else []),
        ]
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Step:
    """One scheme that was measured.

    Scores and drops are fractions where the unit is ``%``.

    Attributes:
        kind: What was tried.
        what: The same in words, for tables.
        layers: The layers that differ from the scheme before; empty where all do.
        recipe: Name of the recipe that they got; empty for float, or for several recipes.
        score: The metric; None where the measurement failed.
        drop: Score in fp32 minus this score (the other way round where lower is better); None where it failed.
        drop_low: Lower end of the drop's interval; None where there is none.
        drop_high: Upper end.
        images: Images that it was scored on; fewer than all where ``stop=`` had decided it.
        bought: Drop of the best scheme before minus this drop; None for the first one, or where it failed.
        size_bytes: Bytes of all layers' parameters.
        in_float: Layers that stay in float.
        meets: Whether the scheme meets the goal as far as this step could tell; None where it failed.
        chosen: Whether the search went on from this scheme, or ended with it.
        passes: Passes over the task that it cost, those for its proposals included; a replayed one counts as whole.
        seconds: Time that it took in the run that measured it.
        predicted_db: SQNR of the outputs that the search expected of this scheme; None where it expected none.
        output_db: SQNR of the outputs that was measured; None where it was not.
        reason: Why it failed; empty where it did not.
        equalized: Whether it was measured on the copy that ``wrapped.equalized()`` makes.
    """

    kind: StepKind
    what: str
    layers: tuple[str, ...]
    recipe: str
    score: float | None
    drop: float | None
    drop_low: float | None = None
    drop_high: float | None = None
    images: int = 0
    bought: float | None = None
    size_bytes: int = 0
    in_float: int = 0
    meets: bool | None = None
    chosen: bool = False
    passes: float = 0.0
    seconds: float = 0.0
    predicted_db: float | None = None
    output_db: float | None = None
    reason: str = ""
    equalized: bool = False


@dataclass(frozen=True, slots=True)
class EngineScore:
    """What an engine made of the chosen scheme.

    Attributes:
        engine: Name of the engine.
        score: The task's metric on it, on all images.
        latency_s: Median time of one run; None where it was not measured.
        float_latency_s: The same with nothing quantized; None where it was not measured.
        quantized: Layers that run quantized.
        left_out: Layers that the scheme quantizes and the engine does not, with the reason.
    """

    engine: str
    score: float
    latency_s: float | None = None
    float_latency_s: float | None = None
    quantized: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def speedup(self) -> float | None:
        """Latency in float over latency quantized; None where they were not measured."""
        if self.latency_s is None or self.float_latency_s is None:
            return None
        return self.float_latency_s / self.latency_s


@dataclass(frozen=True)
class TunedRecord(Saved):
    """The end of a search and the way there.

    Scores and drops are fractions where ``unit`` is ``%``.

    Attributes:
        model: Name of the model.
        task: Name of the task.
        metric: Its metric.
        unit: Unit for people.
        higher_is_better: Whether a higher score is better.
        layers: Names of all layers in execution order.
        goal: What was asked for.
        baseline: Score in fp32.
        scheme: The scheme that was chosen: it meets the goal, or is the nearest to it that was measured.
        score: Its score on all images, simulated.
        drop: Its drop.
        drop_low: Lower end of the drop's interval; None where there is none.
        drop_high: Upper end.
        size_bytes: Bytes of all layers' parameters under it.
        met: Whether it meets the goal, on the engine where one ran it.
        steps: Every scheme that was measured, in order.
        engine: What the engine made of it; None where none ran it.
        passes: Passes over the task that the search cost.
        seconds: Time that the search took.
        notes: What a reader should know, e.g. candidates that the engine does not run.
    """

    _kind: ClassVar[FileKind] = FileKind("tuned model", "Tuned.save or sensitivity tune")

    model: str
    task: str
    metric: str
    unit: str
    higher_is_better: bool
    layers: tuple[str, ...]
    goal: Goal
    baseline: Score
    scheme: Scheme
    score: Score
    drop: float
    drop_low: float | None
    drop_high: float | None
    size_bytes: int
    met: bool
    steps: tuple[Step, ...]
    engine: EngineScore | None = None
    passes: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    equalized: bool = False

    @property
    def scale(self) -> float:
        """What stored scores are multiplied by for people: 100 where the unit is ``%``."""
        return scale_of(self.unit)

    @property
    def verdict(self) -> Verdict | None:
        """Whether the drop is within ``max_drop`` with confidence; None without that target or an interval.

        ``harmless`` where the whole interval of the drop lies within the target, ``dip`` where it lies above, and
        ``undecided`` where it has the target inside: ``met`` is then about the images at hand.
        """
        if self.goal.max_drop is None or self.drop_low is None or self.drop_high is None:
            return None
        return verdict_of_interval(self.drop_low, self.drop_high, self.goal.max_drop / self.scale)

    @property
    def quantized(self) -> int:
        """How many layers the scheme quantizes."""
        return len(self.layers) - len(self.in_float)

    @property
    def in_float(self) -> tuple[str, ...]:
        """Names of the layers that the scheme leaves in float, in execution order."""
        recipes = {rule.pattern: rule.recipe for rule in self.scheme.rules}
        return tuple(name for name in self.layers if recipes.get(name, recipes.get("*")) is None)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal record; numbers that JSON lacks as objects."""
        plain = {name: getattr(self, name) for name in (each.name for each in fields(TunedRecord))}
        plain |= {"goal": asdict(self.goal), "baseline": asdict(self.baseline), "score": asdict(self.score)}
        plain |= {"scheme": self.scheme.to_json(), "steps": [asdict(step) for step in self.steps]}
        plain["engine"] = None if self.engine is None else asdict(self.engine)
        return self._kind.described(plain)

    @classmethod
    def _of_facts(cls, facts: dict[str, Any]) -> Self:
        facts["goal"] = Goal(**facts["goal"])
        facts["baseline"], facts["score"] = Score(**facts["baseline"]), Score(**facts["score"])
        facts["scheme"] = Scheme.from_json(facts["scheme"])
        facts["steps"] = tuple(_step(step) for step in facts["steps"])
        facts["engine"] = None if facts["engine"] is None else EngineScore(**facts["engine"])
        facts["layers"], facts["notes"] = tuple(facts["layers"]), tuple(facts["notes"])
        record = cls(**facts)
        check_fields(record, StudyError, skip=("scheme",))
        for part in (*record.steps, *([record.engine] if record.engine else [])):
            check_fields(part, StudyError)
        for score in (record.baseline, record.score):
            check_fields(score, StudyError, skip=("metrics",))
        return record


def _step(plain: Mapping[str, Any]) -> Step:
    return Step(**{**plain, "kind": StepKind(plain["kind"]), "layers": tuple(plain["layers"])})
