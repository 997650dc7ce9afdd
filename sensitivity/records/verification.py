"""Whether an engine computes what was simulated, as facts: layer by layer, at the outputs and in the task's metric."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from sensitivity.errors import StudyError
from sensitivity.records.plain import from_plain, to_plain

SCHEMA_VERSION = 1

VERIFIED, OTHER_PRECISION, DISAGREES, IN_FLOAT, NOT_CHECKED, SIMULATED_ONLY = (
    "verified",
    "other precision",
    "disagrees",
    "in float",
    "not checked",
    "simulated only",
)
STATUSES = (VERIFIED, OTHER_PRECISION, DISAGREES, IN_FLOAT, NOT_CHECKED, SIMULATED_ONLY)


@dataclass(frozen=True, slots=True)
class Gates:
    """How near an engine must be to the simulation.

    Measured on OpenVINO with VNNI: at most 6.4e-5 of a layer's codes differ, by one step. A CPU path that saturates
    (no VNNI) gives 7e-3 and steps of up to 24: far outside.

    Attributes:
        code_steps: Largest difference of two codes of one layer given the same input codes.
        code_share: Largest share of its codes that differ.
        metric_points: Largest difference of the metric, in points where the unit is ``%``.
        metric_share: Or as a share of the predicted drop, where that is more.
        output_margin_db: How much nearer the engine's outputs must be to the simulated ones than those are to fp32.
    """

    code_steps: int = 1
    code_share: float = 2e-4
    metric_points: float = 0.1
    metric_share: float = 0.1
    output_margin_db: float = 6.0


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """One layer, planned against executed, simulated against computed.

    Attributes:
        layer: Its name.
        module: Its path.
        planned: Precision that the plan says: ``int8`` or ``fp32``.
        executed: What the engine says it ran; None where it does not tell. Several calls that differ: ``fp32+int8``.
        status: One of ``STATUSES``.
        reason: What a status other than ``verified`` means here; empty for plain ones.
        time_s: Time of the operation that holds it, in seconds; None where the engine does not tell.
        codes: Output codes compared, from the same input codes; 0 where none were.
        code_steps: Largest difference; None where none were compared.
        code_share: Share of codes that differ; None where none were compared.
    """

    layer: str
    module: str
    planned: str
    executed: str | None
    status: str
    reason: str = ""
    time_s: float | None = None
    codes: int = 0
    code_steps: int | None = None
    code_share: float | None = None


@dataclass(frozen=True)
class VerificationRecord:
    """What ``verify`` found.

    Numbers of the metric are fractions where ``unit`` is ``%``. What was not measured is None.

    Attributes:
        model: Name of the model.
        engine: Name of the engine.
        layers: One check for each layer, in execution order.
        gates: What was required.
        output_sqnr_db: Outputs, the engine's against the simulation's.
        simulation_sqnr_db: Outputs, the simulation's against fp32.
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
        info: Versions and settings.
    """

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
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layers_pass(self) -> bool:
        """Whether every quantized layer is verified."""
        return all(check.status in (VERIFIED, IN_FLOAT) for check in self.layers)

    @property
    def outputs_pass(self) -> bool | None:
        """Whether the engine's outputs are near enough to the simulation's; None where they were not compared."""
        if self.output_sqnr_db is None or self.simulation_sqnr_db is None:
            return None
        if math.isinf(self.output_sqnr_db):
            return self.output_sqnr_db > 0
        return self.output_sqnr_db >= self.simulation_sqnr_db + self.gates.output_margin_db

    @property
    def metric_difference(self) -> float | None:
        """Deployed minus simulated; None where the task was not run."""
        if self.metric_deployed is None or self.metric_simulated is None:
            return None
        return self.metric_deployed - self.metric_simulated

    @property
    def metric_tolerance(self) -> float | None:
        """Largest difference that the gates allow; None where the task was not run."""
        if self.metric_simulated is None or self.metric_fp32 is None:
            return None
        points = self.gates.metric_points / 100.0 if self.unit == "%" else self.gates.metric_points
        return max(points, self.gates.metric_share * abs(self.metric_fp32 - self.metric_simulated))

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
        """Whether the metric misses its gate by no more than equally good roundings of the simulation differ.

        Few images or a steep metric do that: then the metric cannot tell engine and simulation apart.
        """
        difference, spread = self.metric_difference, self.metric_spread
        return self.metric_pass is False and None not in (difference, spread) and abs(difference or 0) <= (spread or 0)

    @property
    def passed(self) -> bool:
        """Whether all that was checked is within its gate, the metric or else within the prediction's uncertainty."""
        metric = self.metric_pass is not False or self.metric_uncertain
        return self.layers_pass and self.outputs_pass is not False and metric

    @property
    def speedup(self) -> float | None:
        """Latency in fp32 over latency in int8; None where it was not measured."""
        if self.latency_int8_s is None or self.latency_fp32_s is None:
            return None
        return self.latency_fp32_s / self.latency_int8_s

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal record; numbers that JSON lacks as text."""
        plain: dict[str, Any] = to_plain(asdict(self))
        return {"schema": SCHEMA_VERSION} | plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The record that ``to_json`` described.

        Raises:
            StudyError: If this is no verification, or one of a newer version.
        """
        if not isinstance(plain, Mapping) or plain.get("schema") != SCHEMA_VERSION:
            found = plain.get("schema", "none") if isinstance(plain, Mapping) else type(plain).__name__
            raise StudyError(f"not a verification of schema {SCHEMA_VERSION}: {found}. Verification.save writes one.")
        values = from_plain({key: value for key, value in plain.items() if key != "schema"})
        try:
            values["layers"] = tuple(LayerCheck(**check) for check in values["layers"])
            values["gates"] = Gates(**values["gates"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise StudyError(f"not a complete verification: {error!r}. Verification.save writes one.") from error

    def save(self, path: str | Path) -> None:
        """Write the record as JSON, in one step: a reader never sees half a file."""
        path = Path(path)
        draft = path.with_name(path.name + ".part")
        draft.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(draft, path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            StudyError: If the file is missing or holds no verification.
        """
        try:
            plain = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise StudyError(f"no verification at {path}. Verification.save writes one.") from error
        except json.JSONDecodeError as error:
            raise StudyError(f"{path} is not JSON: {error}. Give a file written by Verification.save.") from error
        return cls.from_json(plain)
