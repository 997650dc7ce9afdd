"""The verdict on each layer: what was planned, what the engine says it ran, and what it computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sensitivity.contracts import EngineLayer
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.verify.latency import is_simulation
from sensitivity.deploy.verify.layer_alone import Agreement, Counts
from sensitivity.errors import PrecisionNotHonouredError
from sensitivity.records import Layer
from sensitivity.records.verification import (
    AGREES_IN_FLOAT,
    DISAGREES,
    IN_FLOAT,
    LEFT_IN_FLOAT,
    NOT_CHECKED,
    OTHER_PRECISION,
    SIMULATED_ONLY,
    VERIFIED,
    Gates,
    LayerCheck,
)

Verdict = tuple[str, str]
"""Status and reason."""

_MARK = f"{SIMULATED_ONLY}: "


@dataclass(frozen=True)
class Evidence:
    """What was found out about the layers.

    Attributes:
        ran: What the engines say they ran, by node.
        alone: What each layer computes by itself.
        inside: Counts of codes behind each layer inside the whole graph, from the same input codes.
    """

    ran: Mapping[str, EngineLayer]
    alone: Mapping[str, Agreement]
    inside: Mapping[str, Counts]


def check_layer(layer: Layer, deployed: Deployed, evidence: Evidence, gates: Gates) -> LayerCheck:
    """One layer, judged.

    Args:
        layer: One of the plan's layers.
        deployed: What was deployed.
        evidence: What was found out.
        gates: What is required.
    """
    nodes = [name for one in deployed.parts for name in one.qdq.nodes.get(layer.name, ())]
    operations = [evidence.ran[node] for node in nodes if node in evidence.ran]
    times = [one.time_s for one in operations if one.time_s is not None]
    found = evidence.alone.get(layer.name, Agreement())
    codes, different, steps = found.counts
    check = LayerCheck(
        layer.name,
        layer.module,
        planned=deployed.plan.expected_precision(layer),
        executed="+".join(sorted({one.precision for one in operations})) or None,
        status=VERIFIED,
        time_s=sum(times) if times else None,
        codes=codes,
        code_steps=steps if codes else None,
        code_share=different / codes if codes else None,
        output_sqnr_db=found.sqnr_db,
    )
    untold = [node for node in nodes if node not in evidence.ran]
    status, reason = _precision(check, deployed, untold) or _computed(check, evidence, gates)
    return replace(check, status=status, reason=reason)


def _precision(check: LayerCheck, deployed: Deployed, untold: list[str]) -> Verdict | None:
    """The verdict where the executed precision decides; None where it is the planned one and codes decide."""
    left = deployed.plan.left_out.get(check.layer, "")
    if left.startswith(_MARK):
        return SIMULATED_ONLY, left.removeprefix(_MARK)
    in_float = (LEFT_IN_FLOAT, left) if left else (IN_FLOAT, "")
    quantized = check.layer in deployed.plan.recipes
    if is_simulation(deployed):
        return (AGREES_IN_FLOAT, "the engine is the simulation itself") if quantized else in_float
    if untold:
        return NOT_CHECKED, f"the engine does not tell what it ran for {', '.join(untold)}"
    if check.executed is None:  # in no exported graph: it runs in torch
        return (NOT_CHECKED, "no exported graph has a node for it") if quantized else in_float
    if check.executed != check.planned and not (quantized and _is_declared(check, deployed)):
        return OTHER_PRECISION, f"planned in {check.planned}, the engine ran {check.executed}"
    return None if quantized else in_float


def _is_declared(check: LayerCheck, deployed: Deployed) -> bool:
    """Whether the engine is a reference that is known to compute in float between quantizers, and did so."""
    reference = all(getattr(engine, "computes_in_float", False) for engine in deployed.engines)
    return reference and (check.planned, check.executed) == ("int8", "fp32")


def _computed(check: LayerCheck, evidence: Evidence, gates: Gates) -> Verdict:
    """The verdict by what the layer computed."""
    found = evidence.alone.get(check.layer, Agreement())
    codes, different, steps = found.counts
    if codes and (steps > gates.code_steps or different > max(1, gates.code_share * codes)):
        return DISAGREES, f"{different / codes:.1e} of {codes} codes differ, by up to {steps}"
    if found.sqnr_db is not None and found.sqnr_db < gates.float_sqnr_db:
        return DISAGREES, f"its float output has {found.sqnr_db:.1f} dB to the simulation's from the same input"
    if told := _inside(evidence.inside.get(check.layer), gates):
        return DISAGREES, f"by itself it is right, inside the whole graph {told}, from the same input codes"
    if found.reason or not (codes or found.sqnr_db is not None):
        return NOT_CHECKED, found.reason or "nothing that it computes was compared"
    if check.executed != check.planned:
        return AGREES_IN_FLOAT, "this engine computes in float between quantizers, and is a reference for that"
    return VERIFIED, "" if codes else f"no codes to compare; its float output: {found.sqnr_db:.1f} dB"


def _inside(counts: Counts | None, gates: Gates) -> str:
    if counts is None:
        return ""
    compared, different, steps = counts
    if steps <= gates.code_steps and different <= max(1, gates.code_share * compared):
        return ""
    return f"{different} of {compared} codes behind it differ, by up to {steps}"


def raise_if_other(checks: tuple[LayerCheck, ...], engine: str) -> None:
    """Nothing, if no layer is known to run in another precision than planned.

    Raises:
        PrecisionNotHonouredError: If some do; declared references among them.
    """
    known = (OTHER_PRECISION, AGREES_IN_FLOAT)
    wrong = [check for check in checks if check.status in known and check.executed != check.planned]
    if wrong:
        told = "; ".join(
            f"{one.layer} ({one.module}): planned in {one.planned}, the engine ran {one.executed}" for one in wrong[:3]
        )
        raise PrecisionNotHonouredError(
            f"{engine} runs {len(wrong)} of {len(checks)} layers in another precision than planned: {told}. Protect "
            "them in the scheme, or verify with strict=False to see all."
        )
