"""Whether an engine computes what is simulated, by its outputs for the example inputs: told when it is deployed.

Two correct computations of a quantized network differ where a number falls between two codes. However deep the network
is, they differ no more than two independent quantization noises do: an engine is at most 3 dB further from the
simulation than the simulation is from float. What is further off computes something else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.engine_module import DeployedPart
from sensitivity.deploy.outputs import check_outputs, worst
from sensitivity.deploy.prepare.overflow import calibrated_reach
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.errors import EngineError
from sensitivity.records import Scheme
from sensitivity.records.results.verification import Gates, OutputCheck

MARGIN_DB = -3.0
"""How much nearer the engine is to the simulation than that is to float, at least: two independent noises."""

FLOAT_DB = 60.0
"""What is the same in float: rounding to 24 bits does not cost more, even in a deep network."""

HALF_FLOAT_DB = 40.0
"""The same where layers are in half precision: the engine rounds elsewhere than the simulation."""

_IMAGE_DIMENSIONS, _SMOOTH = 4, 16


def check_example(deployed: Deployed) -> tuple[OutputCheck, ...]:
    """One check for each tensor that the parts return for the example inputs; none where the simulation runs itself.

    Raises:
        EngineError: If the engine returns NaN or infinity where the simulation does not.
    """
    if deployed.kind.is_simulation:
        return ()
    try:
        checks = check_outputs(deployed, {part.path: [_call(deployed.plan, part)] for part in deployed.parts})
    except Exception:  # noqa: BLE001 - a model may refuse noise; what it refuses of its own example is raised
        checks = check_outputs(deployed, {part.path: [_filled(part, part.part.example)] for part in deployed.parts})
    for check in checks:
        if check.not_finite:
            raise EngineError(
                f"{deployed.name} returns NaN or infinity for the example inputs, in {check.not_finite} of "
                f"{check.elements} numbers of {check.described}, where the simulation does not. Deploy to another "
                "engine, or protect layers until it no longer does."
            )
    return checks


def disagreement(checks: Sequence[OutputCheck], scheme: Scheme) -> OutputCheck | None:
    """The output that is furthest from what rounding can explain; None where there is none.

    Tensors of integers are left to ``verify``, and so are those of which simulation or engine return another number.
    """
    thresholds = Gates(output_margin_db=MARGIN_DB, float_sqnr_db=FLOAT_DB if scheme.rest == "fp32" else HALF_FLOAT_DB)
    wrong = [check for check in checks if not check.reason and _is_off(check, thresholds)]
    return worst(wrong, thresholds)


def _is_off(check: OutputCheck, thresholds: Gates) -> bool:
    compared = check.sqnr_db is not None and check.simulation_sqnr_db is not None
    return compared and abs(check.slack_db(thresholds)) < float("inf") and check.passes(thresholds) is False


def _call(plan: Plan, part: DeployedPart) -> tuple[tuple[object, ...], dict[str, object]]:
    """The example inputs of a part; noise where they hold one number each, by which hardly anything can be told."""
    tensors: Sequence[Tensor] = part.part.example
    if all(_is_constant(tensor) for tensor in tensors):
        random, size = torch.Generator().manual_seed(0), _usual_size(plan, part)
        tensors = [tensor + _noise(tensor, random, size) for tensor in tensors]
    return _filled(part, tensors)


def _filled(part: DeployedPart, tensors: Sequence[Tensor]) -> tuple[tuple[object, ...], dict[str, object]]:
    args, kwargs = part.part.signature.inputs.filled([tensor.clone() for tensor in tensors])
    return tuple(args), dict(kwargs)


def _is_constant(tensor: Tensor) -> bool:
    return tensor.numel() == 0 or bool((tensor == tensor.reshape(-1)[0]).all())


def _usual_size(plan: Plan, part: DeployedPart) -> float:
    """A third of what the part's first quantized layer reads at most; 1 where nothing tells."""
    prefix = f"{part.path}." if part.path else ""
    layer = next((layer for layer in plan.quantized if f"{layer.module}.".startswith(prefix)), None)
    reach = None if layer is None else calibrated_reach(plan, layer, 0)
    return reach / 3 if reach else 1.0


def _noise(like: Tensor, random: torch.Generator, size: float) -> Tensor:
    """Random numbers; smooth ones for images, as networks are calibrated for those."""
    if not like.is_floating_point():
        return torch.zeros_like(like)
    if like.dim() != _IMAGE_DIMENSIONS:
        return size * torch.randn(like.shape, generator=random).to(like)
    coarse = torch.randn((*like.shape[:2], *(-(-side // _SMOOTH) for side in like.shape[2:])), generator=random)
    return size * F.interpolate(coarse, like.shape[2:], mode="bilinear").to(like)
