"""What of deployment works on this machine: every engine is tried on one convolution, not only looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from sensitivity.deploy.doctor.one_convolution import try_engine, try_export, try_simulation
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
    except (SensitivityError, ImportError, AttributeError, OSError, RuntimeError, TypeError, ValueError) as error:
        # as broken packages raise
        note, works = " ".join(str(error).split()), False
    try:
        found = version(package)
    except PackageNotFoundError:
        found = None
    return Finding(name, works, None if name == "cuda" else found, note)


def _torch() -> str:
    torch = import_module("torch")
    try_simulation(torch)
    return f"the simulation, exact on one convolution; {torch.get_num_threads()} threads; as an engine it needs export"


def _cuda() -> str:
    from sensitivity.deploy.engines.trt.device import CudaDevice, no_cuda

    refusal = no_cuda()
    if refusal is not None:
        raise EngineError(refusal)
    return CudaDevice().name


def _export() -> str:
    need("onnx", "onnx")
    need("onnxscript", "onnx")
    try_export(import_module("torch"))
    return "torch to ONNX (checked on one convolution), which every engine needs"


def _openvino() -> str:
    openvino = need("openvino", "openvino")
    core = openvino.Core()
    if "CPU" not in core.available_devices:
        raise EngineError(f"OpenVINO finds no CPU device; it has: {', '.join(core.available_devices) or 'none'}.")
    from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine

    found = try_engine(OpenVinoEngine, "openvino")
    return f"{found}; on {core.get_property('CPU', 'FULL_DEVICE_NAME')}"


def _onnxruntime() -> str:
    runtime = need("onnxruntime", "onnx")
    from sensitivity.deploy.engines.ort_engine import OrtEngine

    found = try_engine(OrtEngine, "onnx")
    return f"{found}: the float reference; providers: {', '.join(runtime.get_available_providers())}"


def _tensorrt() -> str:
    need("tensorrt", "tensorrt")
    from sensitivity.deploy.engines.trt.device import CudaDevice
    from sensitivity.deploy.engines.trt.engine import TensorRTEngine

    device = CudaDevice()
    return f"{try_engine(TensorRTEngine.build, 'tensorrt')}; on {device.name}"
