"""What a deployed model returns, tensor by tensor: the engine's against the simulation's, and that against fp32."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.engine_module import EngineModule
from sensitivity.deploy.prepare.measures import sqnr_of_all_db
from sensitivity.deploy.prepare.signature import opened_dataclasses
from sensitivity.layers.trace.inputs import copied
from sensitivity.records.results.verification import Gates, OutputCheck

Tensors = dict[str, Tensor]
"""The tensors of one pass, by where they are."""


def check_outputs(deployed: Deployed, calls: Mapping[str, Sequence[Any]]) -> tuple[OutputCheck, ...]:
    """One check for each tensor that the exported parts return.

    Args:
        deployed: What is compared.
        calls: Arguments of each part, by path.
    """
    checks: list[OutputCheck] = []
    for part in deployed.parts:
        module = deployed.plan.model.get_submodule(part.path)
        engine = EngineModule(part.engine, part.part.signature, module, part.path or "the model", part.io)
        passes = []
        for args, kwargs in calls[part.path]:
            with torch.no_grad():
                wanted = _tensors(module(*copied(args), **copied(kwargs)), part.path)
                computed = _tensors(engine(*copied(args), **copied(kwargs)), part.path)
            with deployed.plan.simulated():
                passes.append((wanted, _tensors(module(*copied(args), **copied(kwargs)), part.path), computed))
        names = dict.fromkeys(name for results in passes for tensors in results for name in tensors)
        checks += [
            check_output(name, [tuple(tensors.get(name) for tensors in results) for results in passes])
            for name in names
        ]
    return tuple(checks)


def worst(checks: Sequence[OutputCheck], thresholds: Gates) -> OutputCheck | None:
    """The float tensor that is worst in relation to its threshold; None where there is none."""
    compared = [check for check in checks if check.sqnr_db is not None]
    return min(compared, key=lambda check: check.slack_db(thresholds), default=None)


def check_output(name: str, passes: Sequence[tuple[Tensor | None, ...]]) -> OutputCheck:
    """One tensor over several passes.

    Args:
        name: Where it is.
        passes: Of each pass the tensor in fp32, simulated, and by the engine; None where there is none.
    """
    unlike = [_unlike(simulated, computed) for _, simulated, computed in passes]
    shapes = next((difference for difference in unlike if difference), "")
    pairs = [(simulated, computed) for _, simulated, computed in passes if _comparable(simulated, computed)]
    basis = [(fp32, simulated) for fp32, simulated, _ in passes if _comparable(fp32, simulated)]
    elements = sum(0 if simulated is None else simulated.numel() for simulated, _ in pairs)
    reason = f"shapes differ: {shapes}" if shapes else ""
    if not reason and len(basis) < len(passes):
        reason = "shapes differ between simulation and fp32: quantization changes how much is returned"
    if not elements and not shapes:
        return OutputCheck(name, 0, reason=reason or "no elements")
    if any(simulated is not None and bool(simulated.isnan().any()) for _, simulated, _ in passes):
        return OutputCheck(name, elements, -math.inf, reason="the simulation returns NaN, which proves nothing")
    if any(tensor is not None and tensor.is_floating_point() for tensors in passes for tensor in tensors):
        sqnr = -math.inf if shapes else _sqnr_db(pairs)
        float_sqnr = _sqnr_db(basis) if basis else None
        return OutputCheck(name, elements, sqnr, float_sqnr, reason=reason, not_finite=_not_finite(pairs))
    share = 1.0 if shapes else _share(pairs)
    return OutputCheck(name, elements, share=share, simulation_share=_share(basis) if basis else None, reason=reason)


def _tensors(outputs: Any, part: str) -> Tensors:
    leaves, _ = tree_flatten_with_path(opened_dataclasses(outputs))
    return {f"{part}{keystr(path)}": leaf.clone() for path, leaf in leaves if isinstance(leaf, Tensor)}


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _comparable(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and _shape(first) == _shape(second)


def _unlike(simulated: Tensor | None, computed: Tensor | None) -> str:
    if _shape(simulated) == _shape(computed):
        return ""
    shapes = ["nothing" if tensor is None else str(_shape(tensor)) for tensor in (computed, simulated)]
    return f"the engine returns {shapes[0]}, the simulation {shapes[1]}"


def _sqnr_db(pairs: Sequence[tuple[Any, Any]]) -> float:
    return sqnr_of_all_db([first for first, _ in pairs], [second for _, second in pairs])


def _not_finite(pairs: Sequence[tuple[Any, Any]]) -> int:
    """Numbers that are finite in the first tensor of a pair alone."""
    return sum(int((first.isfinite() & ~second.isfinite()).sum()) for first, second in pairs)


def _share(pairs: Sequence[tuple[Any, Any]]) -> float:
    """Share of elements that are not equal; 0 where there are none."""
    total = sum(tensor.numel() for tensor, _ in pairs)
    return sum(int((tensor.cpu() != other.cpu()).sum()) for tensor, other in pairs) / total if total else 0.0
