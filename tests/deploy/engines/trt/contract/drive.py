"""Drive the whole TensorRT backend through the real bindings and the mock, one scenario after the other.

Run in a process of its own with the bindings of one version; the tests read what each scenario returned, the error it
met and the calls that reached the mock.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_bindings
import torch
from torch import nn

import sensitivity as sv
from sensitivity.deploy.engines.trt.engine import TensorRTEngine
from sensitivity.errors import SensitivityError
from tests.deploy.engines.trt.contract.drive_facts import MODEL
from tests.deploy.engines.trt.contract.host_device import HostDevice
from tests.deploy.engines.trt.contract.inspector_texts import INSPECTOR

sys.modules["tensorrt"] = tensorrt_bindings  # the package tensorrt is these bindings and NVIDIA's libraries

IMAGE = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
FIXED = ["input x 0 1x3x2x2", "output y 0 1x3x2x2", "output z 0 1x5"]
DYNAMIC = ["input x 0 -1x3x2x2", "output y 0 -1x3x2x2"]
LAYERS = ["layer 0.5 conv1", "layer 0.25 Reformatting CopyNode for Input Tensor 0 to conv1"]

SCENARIOS: dict[str, tuple[list[str], Callable[[Path], Any]]] = {}


def scenario(*script: str) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    """Name a function of this file as a scenario, with what the mock answers in it."""

    def add(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
        SCENARIOS[function.__name__] = (list(script), function)
        return function

    return add


def built(**settings: Any) -> TensorRTEngine:
    return TensorRTEngine.build(MODEL, **settings, device=HostDevice())


@scenario(*FIXED)
def fixed_shape(folder: Path) -> Any:
    device = HostDevice()
    engine = TensorRTEngine.build(MODEL, device=device)
    outputs = engine.run(IMAGE)
    expected = [2 * IMAGE + 1, 2 * IMAGE.reshape(1, 12)[:, :5] + 1]
    return {
        "right": [bool(np.array_equal(*pair)) for pair in zip(outputs, expected, strict=True)],
        "addresses": device.addresses,
        "waited": device.waited,
        "text": repr(engine),
    }


@scenario("input a 0 1x3x2x2", "input b 0 1x2", "output y 0 1x3x2x2", "output z 0 1x5", "fault reversed")
def another_order_in_the_plan(folder: Path) -> Any:
    other = np.ones((1, 2), np.float32)
    built().save(folder / "a.engine")
    loaded = TensorRTEngine.load(folder / "a.engine", MODEL, device=HostDevice())
    return [[list(output.shape) for output in engine.run(IMAGE, other)] for engine in (built(), loaded)]


@scenario(*DYNAMIC)
def dynamic_batch(folder: Path) -> Any:
    engine = built(batch=(1, 4, 16))
    images = np.concatenate([IMAGE, IMAGE + 1, IMAGE + 2])
    return [bool(np.array_equal(engine.run(batch)[0], 2 * batch + 1)) for batch in (IMAGE, images)]


@scenario(*DYNAMIC)
def dynamic_batch_too_large(folder: Path) -> Any:
    return built(batch=(1, 4, 16)).run(np.zeros((17, 3, 2, 2), np.float32))


@scenario(*DYNAMIC)
def dynamic_batch_not_said(folder: Path) -> Any:
    return built()


@scenario("input x 0 1x3x-1x2", "output y 0 1x3x2x2")
def dynamic_height(folder: Path) -> Any:
    return built(batch=(1, 1, 1))


@scenario(*FIXED)
def batch_of_a_fixed_model(folder: Path) -> Any:
    return built(batch=(2, 4, 8))


@scenario(*FIXED)
def settings(folder: Path) -> Any:
    built(workspace_bytes=1 << 20, optimization_level=2)


@scenario(*FIXED)
def timing_cache(folder: Path) -> Any:
    path = folder / "deep" / "gpu.cache"
    sizes = []
    for _ in range(2):
        built(timing_cache=path)
        sizes.append(path.stat().st_size)
    return {"sizes": sizes, "files": [file.name for file in path.parent.iterdir()]}


@scenario(*FIXED, "fault setTimingCache")
def timing_cache_of_another_gpu(folder: Path) -> Any:
    built(timing_cache=folder / "gpu.cache")


@scenario(*FIXED)
def timing_cache_is_a_folder(folder: Path) -> Any:
    built(timing_cache=folder)


@scenario(*FIXED, *LAYERS)
def latency_and_profile(folder: Path) -> Any:
    engine = built()
    before = [layer.time_s for layer in engine.layer_info()]
    latency_s = engine.latency_s(IMAGE, repeats=3)
    times_s = dict(engine.profile(IMAGE, repeats=4))
    after = [(layer.name, list(layer.nodes), layer.precision, layer.time_s) for layer in engine.layer_info()]
    return {"before": before, "latency_s": latency_s, "times_s": times_s, "after": after}


@scenario(*FIXED, *LAYERS)
def layers_after_a_run(folder: Path) -> Any:
    engine = built()
    engine.run(IMAGE)
    return [[layer.name, layer.time_s] for _ in range(2) for layer in engine.layer_info()], engine.version


@scenario(*FIXED)
def no_repeats(folder: Path) -> Any:
    built().latency_s(IMAGE, repeats=0)


@scenario(*FIXED, "debug conv1.in_quantized 2 2x3", "debug conv1.out 0 2", "debug packed 9 4")
def debug_tensors(folder: Path) -> Any:
    engine = built(debug_tensors=True)
    tensors = engine.debug_tensors(IMAGE)
    values = {name: [str(tensor.dtype), tensor.tolist()] for name, tensor in tensors.items()}
    return {"found": values, "unread": engine.unread}


@scenario(*FIXED)
def debug_tensors_wanted(folder: Path) -> Any:
    built(debug_tensors=True)


@scenario(*FIXED)
def debug_tensors_not_built_in(folder: Path) -> Any:
    built().debug_tensors(IMAGE)


@scenario(*FIXED, "parser_error 4 stage1:0:0 Conv Invalid zero point", "parser_error 8 pool MaxPool No importer")
def parser_errors(folder: Path) -> Any:
    built()


@scenario(*FIXED, "fault buildSerializedNetwork")
def build_fails(folder: Path) -> Any:
    built()


@scenario(*FIXED, "fault createInferBuilder")
def tensorrt_cannot_start(folder: Path) -> Any:
    built()


@scenario(*FIXED, "fault deserializeCudaEngine")
def plan_cannot_be_loaded(folder: Path) -> Any:
    built()


@scenario(*FIXED, "fault createExecutionContext")
def no_room_to_run(folder: Path) -> Any:
    built()


@scenario(*FIXED, "fault enqueueV3")
def running_fails(folder: Path) -> Any:
    built().run(IMAGE)


@scenario(*FIXED, "fault setInputShape")
def shape_refused_by_tensorrt(folder: Path) -> Any:
    built().run(IMAGE)


@scenario("input x 0 1x3x2x2", "output boxes 0 1x-1x4")
def output_shape_depends_on_data(folder: Path) -> Any:
    engine = built()
    engine.run(IMAGE)


@scenario("input x 9 1x3x2x2", "output y 0 1")
def input_in_int4(folder: Path) -> Any:
    built()


@scenario(*FIXED)
def two_inputs_given(folder: Path) -> Any:
    built().run(IMAGE, IMAGE)


@scenario(*FIXED)
def wrong_dtype(folder: Path) -> Any:
    built().run(IMAGE.astype(np.float64))


@scenario(*FIXED)
def wrong_shape(folder: Path) -> Any:
    built().run(IMAGE[:, :2])


@scenario(*FIXED)
def awkward_inputs(folder: Path) -> Any:
    engine = built()
    read_only = IMAGE.copy()
    read_only.flags.writeable = False
    inputs = (read_only, IMAGE[:, ::-1], np.repeat(IMAGE, 2, axis=-1)[..., ::2], torch.from_numpy(IMAGE))
    return [bool(np.array_equal(engine.run(array)[0], 2 * np.asarray(array) + 1)) for array in inputs]


@scenario(*FIXED)
def text_as_input(folder: Path) -> Any:
    built().run(np.full((1, 3, 2, 2), "text"))


@scenario(*FIXED)
def saved_and_loaded(folder: Path) -> Any:
    built().save(folder / "a.engine")
    (folder / "model.onnx").write_bytes(MODEL)
    engine = TensorRTEngine.load(folder / "a.engine", folder / "model.onnx", device=HostDevice())
    return bool(np.array_equal(engine.run(IMAGE)[0], 2 * IMAGE + 1))


@scenario(*FIXED)
def loaded_for_another_model(folder: Path) -> Any:
    built().save(folder / "a.engine")
    TensorRTEngine.load(folder / "a.engine", b"another model", device=HostDevice())


@scenario(*FIXED)
def loaded_on_another_gpu(folder: Path) -> Any:
    built().save(folder / "a.engine")
    TensorRTEngine.load(folder / "a.engine", MODEL, device=HostDevice("other GPU, compute capability 9.9"))


@scenario(*FIXED)
def loaded_with_another_tensorrt(folder: Path) -> Any:
    engine = built()
    engine.save(folder / "a.engine")
    version = tensorrt_bindings.__version__
    tensorrt_bindings.__version__ = "99.0.0"
    try:
        TensorRTEngine.load(folder / "a.engine", MODEL, device=HostDevice())
    finally:
        tensorrt_bindings.__version__ = version


@scenario(*FIXED)
def too_old(folder: Path) -> Any:
    version = tensorrt_bindings.__version__
    tensorrt_bindings.__version__ = "8.6.1"
    try:
        built()
    finally:
        tensorrt_bindings.__version__ = version


@scenario("input image 0 1x16x4x4", "output codes 0 1x16x4x4")
def from_a_model(folder: Path) -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1)).eval()
    image = torch.rand(1, 16, 4, 4)
    wrapped = sv.wrap(net, image)
    wrapped.calibrate([image])
    deployed = wrapped.deploy(sv.Scheme.all(sv.INT8), "tensorrt", device=HostDevice())
    (part,) = deployed.parts
    return {
        "right": torch.equal(deployed(image), 2 * image + 1),
        "quantized": sorted(deployed.plan.recipes),
        "bytes": part.qdq.graph.SerializeToString().hex(),
    }


@scenario("input image 0 1x16x4x4", "output codes 0 1x16x4x4")
def refit_of_a_model(folder: Path) -> Any:
    image = torch.rand(1, 16, 4, 4)
    return sv.wrap(nn.Conv2d(16, 16, 1).eval(), image).deploy(sv.Scheme(), "tensorrt", refit=True, device=HostDevice())


class Normed(nn.Module):
    """Two convolutions with a norm between them that is to stay in fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(torch.relu(self.norm(self.conv1(x))))


@scenario("input x 0 1x16x4x4", "output y 0 1x16x4x4")
def with_the_rest_in_fp16(folder: Path) -> Any:
    torch.manual_seed(0)
    image = torch.rand(1, 16, 4, 4)
    wrapped = sv.wrap(Normed().eval(), image)
    wrapped.calibrate([image])
    scheme = sv.Scheme.all(sv.INT8).with_rest("fp16", keep_fp32="norms")
    deployed = wrapped.deploy(scheme, "tensorrt", device=HostDevice())
    (part,) = deployed.parts
    deployed.save(folder / "engines")
    try:
        wrapped.deploy(scheme.with_rest("fp16"), "tensorrt", load=folder / "engines", device=HostDevice())
        refusal = ""
    except SensitivityError as error:
        refusal = str(error)
    return {
        "right": torch.equal(deployed(image), 2 * image + 1),
        "bytes": part.graph.SerializeToString().hex(),
        "plain": part.qdq.graph.SerializeToString().hex(),
        "refusal": refusal,
    }


@scenario("input x 1 1x16x4x4", "output y 1 1x16x4x4")
def with_inputs_and_outputs_in_fp16(folder: Path) -> Any:
    torch.manual_seed(0)
    image = torch.rand(1, 16, 4, 4)
    wrapped = sv.wrap(Normed().eval(), image)
    wrapped.calibrate([image])
    deployed = wrapped.deploy(sv.Scheme.all(sv.INT8).with_rest("fp16"), "tensorrt", io="fp16", device=HostDevice())
    return {
        "right": torch.equal(deployed(image), image.half().float()),  # of halves, the mock returns what it is given
        "bytes": deployed.parts[0].graph.SerializeToString().hex(),
    }


@scenario("input x 0 1x16x4x4", "output y 0 1x16x4x4")
def with_the_rest_in_bf16(folder: Path) -> Any:
    image = torch.rand(1, 16, 4, 4)
    sv.wrap(Normed().eval(), image).deploy(sv.Scheme().with_rest("bf16"), "tensorrt", device=HostDevice())


@scenario("input x 0 1x16x4x4", "output y 0 1x16x4x4", *LAYERS)
def saved_loaded_and_profiled_through_the_public_verbs(folder: Path) -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(OrderedDict(conv1=nn.Conv2d(16, 16, 3, padding=1))).eval()
    image = torch.randn(1, 16, 4, 4)
    wrapped = sv.wrap(net, image)
    wrapped.calibrate([image])
    scheme = sv.Scheme.all(sv.INT8)
    built = wrapped.deploy(scheme, "tensorrt", device=HostDevice())
    files = built.save(folder / "engines")
    builds = _builds(folder)
    loaded = wrapped.deploy(scheme, "tensorrt", load=folder / "engines", device=HostDevice())
    try:
        wrapped.deploy(sv.Scheme(), "tensorrt", load=folder / "engines", device=HostDevice())
        refusal = ""
    except SensitivityError as error:
        refusal = str(error)
    return {
        "files": [str(path.relative_to(folder)) for path in files],
        "built_again": _builds(folder) - builds,
        "equal": torch.equal(built(image), loaded(image)),
        "profile": loaded.profile(repeats=4),
        "layer": wrapped.layers.names,
        "refusal": refusal,
    }


def _builds(folder: Path) -> int:
    return (folder / "log").read_text(encoding="utf-8").count("builder buildSerializedNetwork")


@scenario(*FIXED)
def no_such_model(folder: Path) -> Any:
    TensorRTEngine.build(folder / "nothing.onnx", device=HostDevice())


@scenario(*FIXED)
def the_flags_of_this_version(folder: Path) -> Any:
    trt = tensorrt_bindings
    return {
        "version": trt.__version__,
        "strongly_typed": int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        "tf32": int(trt.BuilderFlag.TF32),
        "detailed": int(trt.ProfilingVerbosity.DETAILED),
        "workspace": int(trt.MemoryPoolType.WORKSPACE),
        "json": int(trt.LayerInformationFormat.JSON),
    }


def play(name: str, folder: Path, reset: Any) -> dict[str, Any]:
    """One scenario: what it returned, the error of this library that it met, and the calls that reached the mock."""
    script, function = SCENARIOS[name]
    folder.mkdir()
    inspector = folder / "inspector.json"
    inspector.write_text(INSPECTOR[tensorrt_bindings.__version__.split(".")[0]], encoding="utf-8")
    (folder / "script").write_text("\n".join([*script, f"inspector {inspector}"]), encoding="utf-8")
    (folder / "log").touch()
    reset(str(folder / "script").encode(), str(folder / "log").encode())
    outcome: dict[str, Any] = {"returned": None, "error": None, "message": "", "crash": ""}
    try:
        outcome["returned"] = function(folder)
    except SensitivityError as error:
        outcome |= {"error": type(error).__name__, "message": str(error)}
    except (TypeError, ValueError, AttributeError, RuntimeError, OSError, LookupError):
        outcome["crash"] = traceback.format_exc()
    outcome["calls"] = (folder / "log").read_text(encoding="utf-8").splitlines()
    return outcome


def main(folder: Path) -> None:
    reset = ctypes.CDLL(os.environ["MOCK_LIBRARY"]).mock_reset
    for name in SCENARIOS:
        outcome = play(name, folder / name, reset)
        (folder / f"{name}.json").write_text(json.dumps(outcome, default=str), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # the mock keeps no account of what the bindings would free on the way out


if __name__ == "__main__":
    main(Path(sys.argv[1]))
