"""What of deployment works on this machine: every engine is tried, not only looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sensitivity.deploy.packages import need
from sensitivity.errors import EngineError, SensitivityError

ENGINES = ("torch", "openvino", "onnxruntime", "tensorrt")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    Attributes:
        name: An engine, ``cuda``, or ``export``.
        works: Whether it does.
        version: Version of its package; None where it is not installed.
        note: What it can do here, or why it does not work and what to do.
    """

    name: str
    works: bool
    version: str | None
    note: str


def examine() -> list[Finding]:
    """Try everything; nothing is raised."""
    trials = {
        "torch": _torch,
        "cuda": _cuda,
        "export": _export,
        "openvino": _openvino,
        "onnxruntime": _onnxruntime,
        "tensorrt": _tensorrt,
    }
    return [_tried(name, trial) for name, trial in trials.items()]


def _tried(name: str, trial: Callable[[], str]) -> Finding:
    package = {"cuda": "torch", "export": "onnx"}.get(name, name)
    try:
        note, works = trial(), True
    except (SensitivityError, ImportError, AttributeError, OSError, RuntimeError) as error:  # as broken packages do
        note, works = " ".join(str(error).split()), False
    try:
        found = version(package)
    except PackageNotFoundError:
        found = None
    return Finding(name, works, None if name == "cuda" else found, note)


def _torch() -> str:
    torch = import_module("torch")
    torch.zeros(1).add_(1)
    return f"the simulation; {torch.get_num_threads()} threads"


def _cuda() -> str:
    from sensitivity.deploy.trt_device import CudaDevice, no_cuda

    refusal = no_cuda()
    if refusal is not None:
        raise EngineError(refusal)
    return CudaDevice().name


def _export() -> str:
    need("onnx", "onnx")
    need("onnxscript", "onnx")
    return "models can be exported to ONNX, which every engine but torch needs"


def _openvino() -> str:
    openvino = need("openvino", "openvino")
    core = openvino.Core()
    if "CPU" not in core.available_devices:
        raise EngineError(f"OpenVINO finds no CPU device; it has: {', '.join(core.available_devices) or 'none'}.")
    return f"true int8 on {core.get_property('CPU', 'FULL_DEVICE_NAME')}{_vnni()}"


def _vnni() -> str:
    """Whether int8 products are summed in 32 bits, which Linux tells; without that they saturate."""
    cpus = Path("/proc/cpuinfo")
    if not cpus.is_file():
        return ""
    has = any(word in cpus.read_text(encoding="utf-8") for word in ("avx512_vnni", "avx_vnni", "asimddp"))
    return ", exact sums" if has else "; this CPU has no VNNI: sums saturate, and codes differ from the simulation"


def _onnxruntime() -> str:
    runtime = need("onnxruntime", "onnx")
    return f"the float Q/DQ reference; providers: {', '.join(runtime.get_available_providers())}"


def _tensorrt() -> str:
    from sensitivity.deploy.trt_build import started
    from sensitivity.deploy.trt_device import CudaDevice
    from sensitivity.deploy.trt_package import tensorrt

    builder = tensorrt().Builder
    device = CudaDevice()
    started(builder)
    return f"int8 on {device.name}"
