"""What a deployed model returns, tensor by tensor: the engine's against the simulation's, and that against fp32."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

from sensitivity.deploy.deployed import Deployed, EngineModule
from sensitivity.deploy.prepare.measures import sqnr_of_all_db
from sensitivity.deploy.prepare.signature import opened
from sensitivity.records.verification import Gates, OutputCheck

Tensors = dict[str, Tensor]
"""The tensors of one pass, by where they are."""


def compare_outputs(deployed: Deployed, calls: Mapping[str, Sequence[Any]]) -> tuple[OutputCheck, ...]:
    """One check for each tensor that the exported parts return.

    Args:
        deployed: What is compared.
        calls: Arguments of each part, by path.
    """
    checks: list[OutputCheck] = []
    for one in deployed.parts:
        module = deployed.plan.model.get_submodule(one.path)
        engine = EngineModule(one.engine, one.part.signature, module, one.path or "the model")
        passes = []
        for args, kwargs in calls[one.path]:
            with torch.no_grad():
                wanted = _tensors(module(*args, **kwargs), one.path)
                computed = _tensors(engine(*args, **kwargs), one.path)
            with deployed.plan.simulated():
                passes.append((wanted, _tensors(module(*args, **kwargs), one.path), computed))
        names = dict.fromkeys(name for several in passes for tensors in several for name in tensors)
        checks += [
            check_output(name, [tuple(one.get(name) for one in several) for several in passes]) for name in names
        ]
    return tuple(checks)


def worst(checks: Sequence[OutputCheck], gates: Gates) -> OutputCheck | None:
    """The float tensor that is worst in relation to its gate; None where there is none."""
    compared = [one for one in checks if one.sqnr_db is not None]
    return min(compared, key=lambda one: one.slack_db(gates), default=None)


def check_output(name: str, passes: Sequence[tuple[Tensor | None, ...]]) -> OutputCheck:
    """One tensor over several passes.

    Args:
        name: Where it is.
        passes: Of each pass the tensor in fp32, simulated, and by the engine; None where there is none.
    """
    unlike = [_unlike(simulated, computed) for _, simulated, computed in passes]
    shapes = next((told for told in unlike if told), "")
    pairs = [(one[1], one[2]) for one in passes if _shape(one[1]) == _shape(one[2]) and one[1] is not None]
    basis = [(one[0], one[1]) for one in passes if _shape(one[0]) == _shape(one[1]) and one[0] is not None]
    elements = sum(0 if one is None else one.numel() for one, _ in pairs)
    reason = f"shapes differ: {shapes}" if shapes else ""
    if not reason and len(basis) < len(passes):
        reason = "shapes differ between simulation and fp32: quantization changes how much is returned"
    if not elements and not shapes:
        return OutputCheck(name, 0, reason=reason or "no elements")
    if any(one is not None and one.is_floating_point() for several in passes for one in several):
        sqnr = -math.inf if shapes else _sqnr_db(pairs)
        return OutputCheck(name, elements, sqnr, _sqnr_db(basis) if basis else None, reason=reason)
    share = 1.0 if shapes else _share(pairs)
    return OutputCheck(name, elements, share=share, simulation_share=_share(basis) if basis else None, reason=reason)


def _tensors(outputs: Any, part: str) -> Tensors:
    leaves, _ = tree_flatten_with_path(opened(outputs))
    return {f"{part}{keystr(path)}": leaf.clone() for path, leaf in leaves if isinstance(leaf, Tensor)}


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _unlike(simulated: Tensor | None, computed: Tensor | None) -> str:
    if _shape(simulated) == _shape(computed):
        return ""
    told = ["nothing" if one is None else str(_shape(one)) for one in (computed, simulated)]
    return f"the engine returns {told[0]}, the simulation {told[1]}"


def _sqnr_db(pairs: Sequence[tuple[Any, Any]]) -> float:
    return sqnr_of_all_db([one for one, _ in pairs], [other for _, other in pairs])


def _share(pairs: Sequence[tuple[Any, Any]]) -> float:
    """Share of elements that are not equal; 0 where there are none."""
    total = sum(one.numel() for one, _ in pairs)
    return sum(int((one.cpu() != other.cpu()).sum()) for one, other in pairs) / total if total else 0.0
