"""What of deployment works on this machine: every engine is tried on one convolution, not only looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from sensitivity.deploy.doctor.one_convolution import try_export, try_simulation
from sensitivity.deploy.doctor.saturation import trial_of
from sensitivity.deploy.engines.registry import EngineKind, engine_kinds
from sensitivity.deploy.packages import need
from sensitivity.errors import EngineError, SensitivityError


@dataclass(frozen=True, slots=True)
class MachineFinding:
    """One thing that was tried.

    Attributes:
        name: An engine, ``cuda``, or ``export``.
        works: Whether it does.
        version: Version of its package; None where it is not installed.
        note: What it can do here, or why it does not work and what to do.
        saturates: Whether large sums of 8-bit products are cut off in this engine here; None where nothing was tried.
    """

    name: str
    works: bool
    version: str | None
    note: str
    saturates: bool | None = None


def examine() -> list[MachineFinding]:
    """Try everything; nothing is raised."""
    simulations = [_tried(kind.name, kind.package, _simulation) for kind in engine_kinds() if kind.is_simulation]
    engines = [
        _tried(kind.name, kind.package, partial(_engine, kind)) for kind in engine_kinds() if not kind.is_simulation
    ]
    return [*simulations, _tried("cuda", None, _cuda), _tried("export", "onnx", _export), *engines]


def _tried(name: str, package: str | None, trial: Callable[[], tuple[str, bool | None]]) -> MachineFinding:
    try:
        (note, saturates), works = trial(), True
    except (SensitivityError, ImportError, AttributeError, OSError, RuntimeError, TypeError, ValueError) as error:
        # as broken packages raise
        note, saturates, works = " ".join(str(error).split()), None, False
    return MachineFinding(name, works, None if package is None else _version(package), note, saturates)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _simulation() -> tuple[str, bool | None]:
    torch = import_module("torch")
    try_simulation(torch)
    threads = torch.get_num_threads()
    return f"the simulation, exact on one convolution; {threads} threads; as an engine it needs export", False


def _cuda() -> tuple[str, bool | None]:
    from sensitivity.deploy.engines.trt.device import CudaDevice, no_cuda

    refusal = no_cuda()
    if refusal is not None:
        raise EngineError(refusal)
    return CudaDevice().name, None


def _export() -> tuple[str, bool | None]:
    need("onnx", "onnx")
    need("onnxscript", "onnx")
    try_export(import_module("torch"))
    return "torch to ONNX (checked on one convolution), which every engine needs", None


def _engine(kind: EngineKind) -> tuple[str, bool | None]:
    device = kind.check_runs_here()
    trial = trial_of(kind)
    return f"{trial}; {device}" if device else str(trial), trial.saturates
