"""What each layer's damage comes from, and what cures it, measured on the model's output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, ClassVar, Self, overload

from sensitivity.errors import LayerNotFoundError, StudyError
from sensitivity.records.arguments import check_fields, checked
from sensitivity.records.recipes.recipe import Recipe
from sensitivity.records.results.distribution import Distribution
from sensitivity.records.storage.saved import FileKind, Saved


class DamageCause(StrEnum):
    """What a layer's damage comes from: what goes away when this is mended and nothing else.

    Attributes:
        OUTLIERS: A few large activations stretch the range; a clipped range gives the others finer steps.
        ONE_SIDED: The range is not symmetric about zero, so that codes are never used; a zero point moves it.
        UNEVEN_CHANNELS: Channels of the input differ in size; a scale for each would fit them.
        WEIGHTS: The weights are rounded.
        BIAS_SHIFT: The errors do not cancel: every output channel is off by a mean that its bias can take back.
        SATURATION: The engine cuts off large sums of 8-bit products on this machine; weights in 7 bits do not reach
            them. Looked for where an engine is named.
    """

    OUTLIERS = "outliers"
    ONE_SIDED = "one-sided range"
    UNEVEN_CHANNELS = "uneven channels"
    WEIGHTS = "weights"
    BIAS_SHIFT = "bias shift"
    SATURATION = "saturation"


@dataclass(frozen=True, slots=True)
class Finding:
    """One layer, quantized alone.

    Attributes:
        layer: Its name.
        output_db: SQNR of the model's outputs with the recipe on this layer alone, in dB; higher is better. Where an
            engine was named whose sums saturate on this machine, that of the engine's outputs.
        hurt: Whether it does more damage than is let pass.
        causes: What mending each cause alone gives back, in dB; empty where the layer was not treated.
            Mending one cause can make another worse, and then gives back less than nothing.
        cure: The cheapest recipe that brings the layer to where it is not hurt; where none does, the one that brings
            it furthest; None where the layer is not hurt, or nothing helps.
        cured_db: SQNR of the outputs with that cure, measured; None where there is none.
        needs_float: Whether, judged by SQNR, only float saves the layer: it is hurt, and even with its cure it does
            more damage than all other layers with theirs.
        equalized: Whether the cure is for the copy that ``wrapped.equalized()`` makes.
        half_db: SQNR of the outputs with this layer alone in half precision, by its name (``bf16``, ``fp16``); empty
            where the layer was not treated.
        inputs: The values that the layer reads, of all its calls, before and after quantization; None where they were
            not counted.
        weights: The values of its weight, likewise; None where it is computed in each pass.
    """

    layer: str
    output_db: float
    hurt: bool = False
    causes: Mapping[DamageCause, float] = field(default_factory=dict)
    cure: Recipe | None = None
    cured_db: float | None = None
    needs_float: bool = False
    equalized: bool = False
    half_db: Mapping[str, float] = field(default_factory=dict)
    inputs: Distribution | None = None
    weights: Distribution | None = None

    def enough_in_half(self, enough_db: float) -> str | None:
        """The half precision in which the layer is not hurt, ``bf16`` before ``fp16``; None where it is in both.

        Args:
            enough_db: SQNR of the outputs below which a layer counts as hurt.
        """
        return next((name for name, after_db in self.half_db.items() if after_db >= enough_db), None)

    @property
    def cause(self) -> DamageCause | None:
        """The cause whose mending gives back most; None where none gives anything back."""
        helping = {cause: gain for cause, gain in self.causes.items() if gain > 0.0}
        return max(helping, key=helping.__getitem__, default=None)


@dataclass(frozen=True)
class DiagnosisRecord(Sequence[Finding], Saved):
    """The findings of all layers, in execution order.

    Attributes:
        model: Name of the model.
        recipe: What was done to each layer.
        findings: One for each layer that could be measured.
        enough_db: SQNR of the outputs below which a layer counts as hurt.
        images: Images that outputs were compared on.
        failed: Layers that could not be measured, with the reason.
        notes: What a reader should know.
    """

    _kind: ClassVar[FileKind] = FileKind("diagnosis", "Diagnosis.save or sensitivity diagnose")

    model: str
    recipe: Recipe
    findings: tuple[Finding, ...]
    enough_db: float
    images: int
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @overload
    def __getitem__(self, key: int | str) -> Finding: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[Finding, ...]: ...

    def __getitem__(self, key: int | str | slice) -> Finding | tuple[Finding, ...]:
        """A finding by its layer's name or by its place.

        Raises:
            LayerNotFoundError: If no finding has this name.
        """
        if not isinstance(key, str):
            return self.findings[key]
        for finding in self.findings:
            if finding.layer == key:
                return finding
        names = [finding.layer for finding in self.findings]
        nearest = ", ".join(map(repr, get_close_matches(key, names, n=3, cutoff=0.3)))
        raise LayerNotFoundError(
            f"no finding of a layer named {key!r:.80} in the diagnosis of {self.model}. "
            + (f"Nearest: {nearest}." if nearest else f"It has {len(names)} layers.")
        )

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    @property
    def hurt(self) -> tuple[Finding, ...]:
        """The layers that are hurt, worst first."""
        return tuple(sorted((f for f in self.findings if f.hurt), key=lambda finding: finding.output_db))

    @property
    def needs_float(self) -> tuple[str, ...]:
        """Names of the layers that only float saves, worst first."""
        return tuple(finding.layer for finding in self.hurt if finding.needs_float)

    @checked(StudyError)
    def share_of(self, finding: Finding) -> float:
        """Share of the damage of all layers, each quantized alone, that is a layer's, from 0 to 1.

        Args:
            finding: One of these.
        """
        noises = [10.0 ** (-each.output_db / 10.0) for each in self.findings]
        return float(10.0 ** (-finding.output_db / 10.0) / sum(noises))

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal record."""
        plain = {each.name: getattr(self, each.name) for each in fields(DiagnosisRecord)}
        plain["recipe"] = self.recipe.to_json()
        plain["findings"] = [
            {
                **{each.name: getattr(finding, each.name) for each in fields(Finding)},
                "causes": {str(cause): gain for cause, gain in finding.causes.items()},
                "cure": None if finding.cure is None else finding.cure.to_json(),
                "inputs": None if finding.inputs is None else asdict(finding.inputs),
                "weights": None if finding.weights is None else asdict(finding.weights),
            }
            for finding in self.findings
        ]
        return self._kind.described(plain)

    @classmethod
    def _of_facts(cls, facts: dict[str, Any]) -> Self:
        facts["recipe"] = Recipe.from_json(facts["recipe"])
        facts["findings"] = tuple(map(_finding, facts["findings"]))
        facts["notes"] = tuple(facts["notes"])
        record = cls(**facts)
        check_fields(record, StudyError)
        for finding in record.findings:
            check_fields(finding, StudyError)
        return record


def _finding(plain: Mapping[str, Any]) -> Finding:
    causes = {DamageCause(cause): gain for cause, gain in plain["causes"].items()}
    cure = None if plain["cure"] is None else Recipe.from_json(plain["cure"])
    counted = {name: Distribution.of_json(plain.get(name)) for name in ("inputs", "weights")}
    return Finding(**{**plain, "causes": causes, "cure": cure, **counted})
