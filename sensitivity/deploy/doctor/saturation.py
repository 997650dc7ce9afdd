"""Do an engine's sums of 8-bit products saturate on this machine? Tried on one convolution, once on a machine.

On an x86 CPU without VNNI two products of 8 bits are added in 16 bits, and large ones are cut off. With weights in 7
bits no two products leave 16 bits, so that the sums are exact on every CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from sensitivity.contracts import EngineCapabilities, RunsGraph
from sensitivity.deploy.doctor.kept_trials import keep_trial, read_trial
from sensitivity.deploy.doctor.one_convolution import ConvolutionTrial, try_engine
from sensitivity.deploy.engines.registry import EngineKind, kind_of
from sensitivity.errors import EngineError, MissingPackageError

if TYPE_CHECKING:  # the doctor answers where torch is missing
    from sensitivity.deploy.prepare.plan import Plan
    from sensitivity.records import Layer

LARGEST_SAFE_WEIGHT = 64
"""Largest weight code with which two products of 8-bit activations fit 16 bits: 2 * 255 * 64 < 2**15."""


@lru_cache(maxsize=64)
def trial_of(kind: EngineKind) -> ConvolutionTrial:
    """What an engine makes of one convolution on this machine; run once in a process, and kept for others.

    Raises:
        EngineError: If it computes something else, or cannot be built.
        MissingPackageError: If a package is not installed.
    """
    trial = try_engine(kind.build, kind.extra or "onnx")
    keep_trial(kind, trial)
    return trial


@lru_cache(maxsize=64)
def _known_trial(kind: EngineKind) -> ConvolutionTrial:
    """The same as another process kept it, or else run now."""
    return read_trial(kind) or trial_of(kind)


def saturates_here(engine: str | Callable[..., RunsGraph] | EngineKind) -> bool | None:
    """Whether large sums of 8-bit products are cut off on this machine.

    Args:
        engine: Name of an engine, a function that makes one of an ONNX file's bytes, or an entry of the registry.

    Returns:
        None where the engine cannot be tried here.

    Raises:
        EngineError: If no engine has this name.
    """
    kind = engine if isinstance(engine, EngineKind) else kind_of(engine)
    if kind.capabilities.saturates is not None:
        return kind.capabilities.saturates
    try:
        return _known_trial(kind).saturates
    except (EngineError, MissingPackageError, TypeError):  # TypeError: a function that asks for settings
        return None


def can_saturate(plan: Plan, layer: Layer) -> bool:
    """Whether a layer runs in int8 with weights of more than 7 bits, so that two of its products can leave 16 bits."""
    codes = plan.weight_codes(layer) if plan.expected_precision(layer) == "int8" else None
    return codes is not None and int(codes.codes.abs().max()) > LARGEST_SAFE_WEIGHT


def capabilities_here(engine: str | Callable[..., RunsGraph] | EngineKind) -> EngineCapabilities:
    """What an engine can run on this machine, saturation included.

    Args:
        engine: As for ``saturates_here``.

    Raises:
        EngineError: If no engine has this name.
    """
    kind = engine if isinstance(engine, EngineKind) else kind_of(engine)
    return replace(kind.capabilities, saturates=saturates_here(kind))
