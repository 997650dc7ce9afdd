"""The verdict on each layer: what was planned, what the engine says it ran, and what it computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sensitivity.contracts import EngineLayer
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.doctor.saturation import can_saturate, saturates_here
from sensitivity.deploy.graph.cut import Finder
from sensitivity.deploy.prepare.omission import OmissionKind
from sensitivity.deploy.verify.layer_alone import NOTHING_COMPARED, Agreement, Counts
from sensitivity.deploy.verify.layer_inside import InsideGraphs
from sensitivity.deploy.verify.timing import is_simulation
from sensitivity.errors import PrecisionNotHonouredError
from sensitivity.records import Layer
from sensitivity.records.results.verification import Cause, Gates, LayerCheck, LayerStatus


@dataclass(frozen=True, slots=True)
class LayerVerdict:
    """What is said of one layer.

    Attributes:
        status: What was found.
        reason: The same for people; empty where there is nothing to add.
        cause: What made it disagree; None for every other status.
    """

    status: LayerStatus
    reason: str = ""
    cause: Cause | None = None


@dataclass(frozen=True)
class Evidence:
    """What was found out about the layers.

    Attributes:
        ran: What the engines say they ran, by node.
        alone: What each layer computes by itself.
        inside: Codes behind each layer inside the whole graph, from the same input codes.
    """

    ran: Mapping[str, EngineLayer]
    alone: Mapping[str, Agreement]
    inside: InsideGraphs


def check_layer(layer: Layer, deployed: Deployed, evidence: Evidence, thresholds: Gates) -> LayerCheck:
    """One layer, judged.

    Args:
        layer: One of the plan's layers.
        deployed: What was deployed.
        evidence: What was found out.
        thresholds: What is required.
    """
    nodes = [name for part in deployed.parts for name in part.qdq.nodes.get(layer.name, ())]
    operations = [evidence.ran[node] for node in nodes if node in evidence.ran]
    times = [operation.time_s for operation in operations if operation.time_s is not None]
    agreement = evidence.alone.get(layer.name, Agreement())
    codes, different, steps = agreement.counts
    check = LayerCheck(
        layer.name,
        layer.module,
        planned=deployed.plan.expected_precision(layer),
        executed="+".join(sorted({operation.precision for operation in operations})) or None,
        status=LayerStatus.VERIFIED,
        time_s=sum(times) if times else None,
        codes=codes,
        code_steps=steps if codes else None,
        code_share=different / codes if codes else None,
        output_sqnr_db=agreement.sqnr_db,
    )
    not_told = [node for node in nodes if node not in evidence.ran]
    verdict = _by_precision(check, deployed, not_told) or _by_results(check, evidence, thresholds)
    return replace(check, status=verdict.status, reason=verdict.reason, cause=verdict.cause)


def _by_precision(check: LayerCheck, deployed: Deployed, not_told: list[str]) -> LayerVerdict | None:
    """The verdict where the executed precision decides; None where it is the planned one and codes decide."""
    omission = deployed.plan.omissions.get(check.layer)
    if omission is not None and omission.kind is OmissionKind.NOT_EXPORTED:
        return LayerVerdict(LayerStatus.SIMULATED_ONLY, omission.reason)
    in_float = LayerVerdict(LayerStatus.IN_FLOAT)
    if omission is not None:
        in_float = LayerVerdict(LayerStatus.LEFT_IN_FLOAT, omission.reason)
    quantized = check.layer in deployed.plan.recipes
    if is_simulation(deployed):
        simulated = LayerVerdict(LayerStatus.AGREES_IN_FLOAT, "the engine is the simulation itself")
        return simulated if quantized else in_float
    if not_told and _all_read_constants(deployed, not_told):
        return None if quantized else in_float
    if not_told:
        return LayerVerdict(LayerStatus.NOT_CHECKED, f"the engine does not tell what it ran for {', '.join(not_told)}")
    if check.executed is None:  # in no exported graph: it runs in torch
        return LayerVerdict(LayerStatus.NOT_CHECKED, "no exported graph has a node for it") if quantized else in_float
    if check.executed != check.planned and not (quantized and _is_declared(check, deployed)):
        reason = f"planned in {check.planned}, the engine ran {check.executed}"
        return LayerVerdict(LayerStatus.OTHER_PRECISION, reason)
    return None if quantized else in_float


def _all_read_constants(deployed: Deployed, nodes: list[str]) -> bool:
    """Whether nodes multiply constants: an engine computes them once, when it is built, and runs none of them."""
    finders = [
        (Finder(part.qdq), {name for calls in part.qdq.nodes.values() for name in calls}) for part in deployed.parts
    ]
    return all(any(node in held and finder.reads_a_constant(node) for finder, held in finders) for node in nodes)


def _is_declared(check: LayerCheck, deployed: Deployed) -> bool:
    """Whether the engine is a reference that is known to compute in float between quantizers, and did so."""
    reference = all(engine.computes_in_float for engine in deployed.engines)
    return reference and check.planned == "int8" and check.executed in ("fp32", "fp16")


def _by_results(check: LayerCheck, evidence: Evidence, thresholds: Gates) -> LayerVerdict:
    """The verdict by what the layer computed."""
    agreement = evidence.alone.get(check.layer, Agreement())
    inside = evidence.inside.counts.get(check.layer, NOTHING_COMPARED)
    if _differs(agreement.counts, thresholds):
        return LayerVerdict(LayerStatus.DISAGREES, _codes(agreement.counts), Cause.CODES)
    if agreement.sqnr_db is not None and agreement.sqnr_db < thresholds.float_sqnr_db:
        reason = f"its float output has {agreement.sqnr_db:.1f} dB to the simulation's from the same input"
        return LayerVerdict(LayerStatus.DISAGREES, reason, Cause.FLOAT_OUTPUT)
    if _differs(inside, thresholds):
        compared, different, steps = inside
        behind = f"{different} of {compared} codes behind it differ, by up to {steps}"
        reason = f"by itself it is right, inside the whole graph {behind}, from the same input codes"
        return LayerVerdict(LayerStatus.DISAGREES, reason, Cause.INSIDE_GRAPH)
    if agreement.reason or not (check.codes or agreement.sqnr_db is not None):
        return LayerVerdict(LayerStatus.NOT_CHECKED, agreement.reason or "nothing that it computes was compared")
    if check.executed is None:
        reason = "its input is a constant, so that the engine computes it once, when it is built; by itself it is right"
        return LayerVerdict(LayerStatus.AGREES_IN_FLOAT, reason)
    if check.executed != check.planned:
        reason = "this engine computes in float between quantizers, and is a reference for that"
        return LayerVerdict(LayerStatus.AGREES_IN_FLOAT, reason)
    in_float = f"no codes to compare; its float output: {agreement.sqnr_db:.1f} dB" if not check.codes else ""
    return LayerVerdict(LayerStatus.VERIFIED, in_float)


def _differs(counts: Counts, thresholds: Gates) -> bool:
    """Whether more codes differ than is allowed, or by more steps; a single code may always differ by a step."""
    compared, different, steps = counts
    return steps > thresholds.code_steps or different > max(1, thresholds.code_share * compared)


def _codes(counts: Counts) -> str:
    compared, different, steps = counts
    return f"{different / compared:.1e} of {compared} codes differ, by up to {steps}"


def explained(checks: Sequence[LayerCheck], deployed: Deployed) -> tuple[LayerCheck, ...]:
    """The checks, with saturation named as the cause where it explains codes that differ.

    It does where the engine's sums of 8-bit products saturate on this machine, which is tried on one convolution, and
    the layer has weights that can make them: of more than 7 bits.
    """
    by_codes = [check for check in checks if check.cause in (Cause.CODES, Cause.INSIDE_GRAPH)]
    if not any(_can_saturate(check, deployed) for check in by_codes) or not saturates_here(deployed.kind):
        return tuple(checks)
    return tuple(_saturated(check) if _can_saturate(check, deployed) else check for check in checks)


def _can_saturate(check: LayerCheck, deployed: Deployed) -> bool:
    if check.cause not in (Cause.CODES, Cause.INSIDE_GRAPH):
        return False
    return can_saturate(deployed.plan, deployed.plan.layers[check.layer])


def _saturated(check: LayerCheck) -> LayerCheck:
    reason = (
        f"{check.reason}: on this machine the engine's large sums of 8-bit products saturate. Quantize its weights in "
        "7 bits, QuantSpec('int7', 'per-channel'), or protect it"
    )
    return replace(check, reason=reason, cause=Cause.SATURATION)


def raise_if_other(checks: tuple[LayerCheck, ...], engine: str) -> None:
    """Nothing, if no layer is known to run in another precision than planned.

    Raises:
        PrecisionNotHonouredError: If some do; declared references among them.
    """
    may_differ = (LayerStatus.OTHER_PRECISION, LayerStatus.AGREES_IN_FLOAT)
    wrong = [check for check in checks if check.status in may_differ and check.executed not in (None, check.planned)]
    if wrong:
        layers = "; ".join(
            f"{check.layer} ({check.module}): planned in {check.planned}, the engine ran {check.executed}"
            for check in wrong[:3]
        )
        raise PrecisionNotHonouredError(
            f"{engine} runs {len(wrong)} of {len(checks)} layers in another precision than planned: {layers}. Protect "
            "them in the scheme, or verify with strict=False to see all."
        )
