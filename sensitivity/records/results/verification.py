"""Whether an engine computes what was simulated, as facts: layer by layer, at the outputs and in the task's metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, Self

from sensitivity.errors import EngineError, StudyError
from sensitivity.records.arguments import check_fields, checked
from sensitivity.records.results.first_difference import FirstDifference
from sensitivity.records.results.info import VerificationInfo
from sensitivity.records.storage.saved import FileKind, Saved
from sensitivity.records.units import scale_of

_MAY_BE_NAN = ("output_sqnr_db", "simulation_sqnr_db", "sqnr_db", "metric_variants")
"""What an engine that computes NaN gives."""


class LayerStatus(StrEnum):
    """What a verification says of one layer."""

    VERIFIED = "verified"
    """Runs in the planned precision, and computes what was simulated."""

    OTHER_PRECISION = "other precision"
    """The engine ran another precision than planned."""

    DISAGREES = "disagrees"
    """Computes something else than was simulated."""

    AGREES_IN_FLOAT = "agrees in float"
    """Computes what was simulated, in float between its quantizers, on an engine that is declared a reference."""

    IN_FLOAT = "in float"
    """Not to be quantized, and it was not."""

    LEFT_IN_FLOAT = "left in float"
    """The scheme quantizes it, the plan does not, for the reason told; simulation and engine agree on that."""

    NOT_CHECKED = "not checked"
    """The engine does not tell what it ran, or nothing that the layer computes could be compared."""

    SIMULATED_ONLY = "simulated only"
    """The scheme quantizes it, and no exported graph holds it."""


PASSING = frozenset(
    {LayerStatus.VERIFIED, LayerStatus.AGREES_IN_FLOAT, LayerStatus.IN_FLOAT, LayerStatus.LEFT_IN_FLOAT}
)
"""What a layer may be where all is as planned."""


class Cause(StrEnum):
    """What made an engine disagree with the simulation; the sentence for people is the check's ``reason``."""

    CODES = "codes"
    """The layer by itself gives other codes from the same input codes."""

    FLOAT_OUTPUT = "float output"
    """The layer by itself gives another float output from the same input."""

    INSIDE_GRAPH = "inside graph"
    """By itself the layer agrees; inside the whole graph it gives other codes from the same input codes."""

    SATURATION = "saturation"
    """The codes differ, and on this machine the engine's sums of 8-bit products saturate: weights in 7 bits do not."""


_UNSURE_DB = 17.4
"""Two standard deviations of the ratio of two noises in dB, each estimated from one number; sqrt(n) less from n."""


CHECKED_SAMPLES = 2
"""Samples that outputs and codes are compared on."""


@dataclass(frozen=True, slots=True)
class Gates:
    """How near an engine must be to the simulation.

    Measured on OpenVINO with VNNI: at most 6.4e-5 of a layer's codes differ, by one step. A CPU path that saturates
    (no VNNI) gives 7e-3 and steps of up to 24: far outside.

    Attributes:
        code_steps: Largest difference of two codes of one layer given the same input codes.
        code_share: Largest share of its codes that differ.
        metric_points: Largest difference of the metric, in points where the unit is ``%``.
        metric_share: Or as a share of the predicted drop, where that is more; not where the unit is dB.
        output_margin_db: How much nearer the engine's outputs must be to the simulated ones than those are to fp32.
        metric_db: Largest difference of a metric in dB: a difference that is 6 dB below the simulation's noise, and
            independent of it, changes the SQNR by 0.97 dB. Seen on three nets: at most 0.24 dB.
        single_layer_db: The same where one layer alone is quantized (``verify_study``). Seen: at most 0.023 dB.
        float_sqnr_db: What counts as the same in float: outputs of layers of which only weights or only activations are
            quantized, and outputs of the model that nothing quantized reaches. Float rounding gives 120 to 150 dB, an
            engine that quantizes on its own 40.
    """

    code_steps: int = 1
    code_share: float = 2e-4
    metric_points: float = 0.1
    metric_share: float = 0.1
    output_margin_db: float = 6.0
    metric_db: float = 1.0
    single_layer_db: float = 0.1
    float_sqnr_db: float = 80.0

    def __post_init__(self) -> None:
        check_fields(self, EngineError)

    @checked(EngineError)
    def metric_tolerance(self, unit: str, drop: float, *, single_layer: bool = False) -> float:
        """Largest difference of a metric that is allowed, in the metric's own numbers (fractions where it is ``%``).

        Args:
            unit: The task's.
            drop: What the simulation predicts. A drop in dB is one from an exact copy, so no share of it is allowed.
            single_layer: Whether one layer alone is quantized.
        """
        if unit == "dB":
            return self.single_layer_db if single_layer else self.metric_db
        return max(self.metric_points / scale_of(unit), self.metric_share * abs(drop))


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """One layer, planned against executed, simulated against computed.

    Attributes:
        layer: Its name.
        module: Its path.
        planned: Precision that the plan says: ``int8`` or ``fp32``.
        executed: What the engine says it ran; None where it does not tell. Several calls that differ: ``fp32+int8``.
        status: What was found.
        reason: What a status other than ``verified`` means here; empty for plain ones.
        time_s: Time of the operation that holds it, in seconds; None where the engine does not tell.
        codes: Output codes compared, from the same input codes; 0 where none were.
        code_steps: Largest difference; None where none were compared.
        code_share: Share of codes that differ; None where none were compared.
        output_sqnr_db: Of a layer that has no codes, because weights or activations alone are quantized: its float
            output on the engine against the simulation's from the same input; None where that was not compared.
        cause: What made it disagree; None for every other status.
    """

    layer: str
    module: str
    planned: str
    executed: str | None
    status: LayerStatus
    reason: str = ""
    time_s: float | None = None
    codes: int = 0
    code_steps: int | None = None
    code_share: float | None = None
    output_sqnr_db: float | None = None
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """One tensor that the model returns, over all samples compared.

    Attributes:
        name: Where it is in what the model returns: ``['boxes']``, ``[0]``; empty where it is all of it. The path of
            the exported part stands before it.
        elements: Numbers compared.
        sqnr_db: Of a float tensor: the engine's against the simulation's; minus infinity where shapes differ.
        simulation_sqnr_db: The simulation's against fp32; None where shapes differ.
        share: Of any other tensor: share of elements in which engine and simulation differ; 1 where shapes differ.
        simulation_share: Share in which simulation and fp32 differ; None where shapes differ.
        reason: What made a comparison impossible; empty if nothing did.
        not_finite: Numbers that are NaN or infinite on the engine, and finite in the simulation.
    """

    name: str
    elements: int
    sqnr_db: float | None = None
    simulation_sqnr_db: float | None = None
    share: float | None = None
    simulation_share: float | None = None
    reason: str = ""
    not_finite: int = 0

    @property
    def described(self) -> str:
        """What the tensor is called in a sentence."""
        return f"output {self.name}" if self.name else "the output"

    def required_db(self, thresholds: Gates) -> float | None:
        """SQNR that the thresholds ask of a float tensor; None where there is nothing to measure by.

        The margin over the simulation's own, but no more than float rounding allows, and less where the noises are
        estimated from few numbers.
        """
        if self.simulation_sqnr_db is None:
            return None
        wanted = min(self.simulation_sqnr_db + thresholds.output_margin_db, thresholds.float_sqnr_db)
        return wanted - _UNSURE_DB / math.sqrt(self.elements) if self.elements else wanted

    def slack_db(self, thresholds: Gates) -> float:
        """How far a float tensor is above its threshold: infinite where it is equal, or was not compared."""
        required = self.required_db(thresholds)
        if self.sqnr_db is None or math.isinf(self.sqnr_db):
            return math.inf if self.sqnr_db is None else self.sqnr_db
        return math.inf if required is None else self.sqnr_db - required

    def passes(self, thresholds: Gates) -> bool | None:
        """Whether the engine's tensor is near enough to the simulated one; None where they were not compared."""
        if self.sqnr_db is None and self.share is None:
            return None
        if self.sqnr_db is not None and math.isinf(self.sqnr_db):
            return self.sqnr_db > 0
        if self.sqnr_db is not None:
            return None if self.required_db(thresholds) is None else self.slack_db(thresholds) >= 0.0
        if self.share == 0.0:
            return True
        if self.simulation_share is None:
            return None
        # of the noise's amplitude, which moves the elements
        nearer: float = 10.0 ** (-thresholds.output_margin_db / 20.0)
        return (self.share or 0.0) <= max(self.simulation_share * nearer, thresholds.code_share)


@dataclass(frozen=True)
class VerificationRecord(Saved):
    """What ``verify`` found.

    Numbers of the metric are fractions where ``unit`` is ``%``. What was not measured is None.

    Attributes:
        model: Name of the model.
        engine: Name of the engine.
        layers: One check for each layer, in execution order.
        gates: What was required.
        output_sqnr_db: Engine against simulation at the float output that is worst in relation to its threshold.
        simulation_sqnr_db: Simulation against fp32 at the same output.
        task: Name of the task.
        metric: Its metric.
        unit: Unit for people.
        images: Images scored.
        metric_fp32: With nothing quantized.
        metric_simulated: The prediction.
        metric_deployed: On the engine.
        metric_variants: The prediction under other, equally good roundings: what it can be trusted to.
        latency_int8_s: Median time of one run.
        latency_fp32_s: The same of the same engine with nothing quantized.
        latency_int8_spread_s: Interquartile range of the first between the rounds in which both were timed by turns.
        latency_fp32_spread_s: The same of the second.
        info: Versions, and what was exported; a mapping is turned into one.
        outputs: One check for each tensor that is returned.
        first_differences: Where outputs differ and every layer agrees by itself: for each exported part the first
            tensor inside the graph that parts from the simulation, with the node at which it begins.
    """

    _kind: ClassVar[FileKind] = FileKind("verification", "Verification.save or sensitivity verify --out")

    model: str
    engine: str
    layers: tuple[LayerCheck, ...]
    gates: Gates = field(default_factory=Gates)
    output_sqnr_db: float | None = None
    simulation_sqnr_db: float | None = None
    task: str = ""
    metric: str = ""
    unit: str = ""
    images: int = 0
    metric_fp32: float | None = None
    metric_simulated: float | None = None
    metric_deployed: float | None = None
    metric_variants: Mapping[str, float] = field(default_factory=dict)
    latency_int8_s: float | None = None
    latency_fp32_s: float | None = None
    latency_int8_spread_s: float | None = None
    latency_fp32_spread_s: float | None = None
    info: VerificationInfo = field(default_factory=VerificationInfo)
    outputs: tuple[OutputCheck, ...] = ()
    first_differences: tuple[FirstDifference, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "info", VerificationInfo.of(self.info))

    @property
    def layers_pass(self) -> bool:
        """Whether every layer is as planned, and computes what was simulated."""
        return all(check.status in PASSING for check in self.layers)

    @property
    def outputs_pass(self) -> bool | None:
        """Whether every output is near enough to the simulation's; None where none was compared."""
        if not self.outputs and (self.output_sqnr_db is None or self.simulation_sqnr_db is None):
            return None
        whole = OutputCheck("", 0, self.output_sqnr_db, self.simulation_sqnr_db)
        verdicts = [check.passes(self.gates) for check in self.outputs or (whole,)]
        if False in verdicts:
            return False
        return True if True in verdicts else None

    @property
    def metric_difference(self) -> float | None:
        """Deployed minus simulated; None where the task was not run."""
        if self.metric_deployed is None or self.metric_simulated is None:
            return None
        return self.metric_deployed - self.metric_simulated

    @property
    def metric_tolerance(self) -> float | None:
        """Largest difference that the thresholds allow; None where the task was not run."""
        if self.metric_simulated is None or self.metric_fp32 is None:
            return None
        return self.gates.metric_tolerance(self.unit, self.metric_fp32 - self.metric_simulated)

    @property
    def metric_spread(self) -> float | None:
        """How far the roundings of the prediction lie apart; None where there is only one."""
        if self.metric_simulated is None or not self.metric_variants:
            return None
        values = [self.metric_simulated, *self.metric_variants.values()]
        return max(values) - min(values)

    @property
    def metric_pass(self) -> bool | None:
        """Whether the metric is as predicted; None where the task was not run."""
        difference, tolerance = self.metric_difference, self.metric_tolerance
        return None if difference is None or tolerance is None else abs(difference) <= tolerance

    @property
    def metric_uncertain(self) -> bool:
        """Whether the metric misses its threshold by no more than equally good roundings of the simulation differ.

        Few images or a steep metric do that: then the metric cannot tell engine and simulation apart.
        """
        difference, spread = self.metric_difference, self.metric_spread
        return self.metric_pass is False and None not in (difference, spread) and abs(difference or 0) <= (spread or 0)

    @property
    def passed(self) -> bool:
        """Whether layers, outputs and metric are within their thresholds, the metric at least within its uncertainty.

        Outputs that were not compared have not passed; a metric that was not asked for is not missed.
        """
        metric = self.metric_pass is not False or self.metric_uncertain
        return self.layers_pass and self.outputs_pass is True and metric

    @property
    def speedup(self) -> float | None:
        """Latency in fp32 over latency in int8; None where it was not measured."""
        if self.latency_int8_s is None or self.latency_fp32_s is None:
            return None
        return self.latency_fp32_s / self.latency_int8_s

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal record; numbers that JSON lacks as text."""
        facts = asdict(replace(self, info=VerificationInfo())) | {"info": self.info.to_json()}
        return self._kind.described(facts)

    @classmethod
    def _of_facts(cls, facts: dict[str, Any]) -> Self:
        facts["layers"] = tuple(_layer_check(check) for check in facts["layers"])
        facts["outputs"] = tuple(OutputCheck(**check) for check in facts.get("outputs", ()))
        facts["first_differences"] = tuple(map(FirstDifference.of_json, facts.get("first_differences", ())))
        facts["gates"] = Gates(**facts["gates"])
        facts["info"] = VerificationInfo.of(facts.get("info", {}))
        record = cls(**facts)
        check_fields(record, StudyError, skip=("info", *_MAY_BE_NAN))
        for part in (*record.layers, *record.outputs):
            check_fields(part, StudyError, skip=_MAY_BE_NAN)
        return record


def _layer_check(plain: Mapping[str, Any]) -> LayerCheck:
    cause = plain.get("cause")
    values = {**plain, "status": LayerStatus(plain["status"]), "cause": None if cause is None else Cause(cause)}
    return LayerCheck(**values)
