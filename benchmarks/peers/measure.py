"""One engine for all: OpenVINO on this CPU runs what each tool made, the task scores it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import torch

from sensitivity.contracts import Task
from sensitivity.deploy.engines.openvino_workarounds.concatenation import with_concatenated_codes
from sensitivity.records.results.resampled import standard_error
from sensitivity.sweep.stopping.jackknife import scores_without, student_quantile

MULTIPLYING = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
PRECISION = "f32"
LATENCY_ROUNDS = 30
LEVEL = 0.95


def compiled(file: Path) -> Any:
    """A network compiled for the CPU: one thread, and fp32 where it is not quantized.

    ONNX files of all tools are given codes that are concatenated where OpenVINO computes quantized concatenations
    wrongly, as this library's engine does; no tool is charged with that fault.
    """
    config = {
        "INFERENCE_PRECISION_HINT": PRECISION,
        "INFERENCE_NUM_THREADS": 1,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "PERFORMANCE_HINT": "LATENCY",
    }
    if file.suffix != ".onnx":
        return openvino.Core().compile_model(str(file), "CPU", config)
    model = onnx.load(file)
    with_concatenated_codes(model)
    core = openvino.Core()
    return core.compile_model(core.read_model(model.SerializeToString()), "CPU", config)


Network = Callable[[Any], "list[np.ndarray[Any, Any]]"]
"""Runs a network of batch 1 on one image (1, C, H, W)."""


def on_openvino(network: Any) -> Network:
    """A compiled OpenVINO model as a function."""
    request = network.create_infer_request()

    def run(image: Any) -> list[np.ndarray[Any, Any]]:
        request.infer([image])
        return [np.array(request.get_output_tensor(number).data) for number in range(len(network.outputs))]

    return run


def on_onnxruntime(file: Path) -> Network:
    """An ONNX model on ONNX Runtime's CPU provider, one thread, with none of its optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: list(session.run(None, {name: image}))


def in_order_of(first: Path, file: Path, network: Network) -> Network:
    """A network whose outputs come in the order that another ONNX file gives the same outputs; tools may change it."""
    if file.suffix != ".onnx":
        return network
    wanted, own = ([output.name for output in onnx.load(each).graph.output] for each in (first, file))
    if wanted == own or set(wanted) != set(own):
        return network
    places = [own.index(name) for name in wanted]

    def run(image: Any) -> list[np.ndarray[Any, Any]]:
        outputs = network(image)
        return [outputs[place] for place in places]

    return run


def predictions_of(
    task: Task, network: Network, rebuild: Callable[[Sequence[Any]], Any] | None = None
) -> dict[int, Any]:
    """A task's predictions of a network of batch 1.

    Args:
        task: What is scored.
        network: Runs it.
        rebuild: Makes the model's outputs of its flat list of tensors; None for the form that the adapters take.
    """

    def run(x: torch.Tensor) -> Any:
        columns = [[torch.from_numpy(output) for output in network(image[None])] for image in x.numpy()]
        joined = [torch.cat(parts) for parts in zip(*columns, strict=True)]
        if rebuild is not None:
            return rebuild(joined)
        return joined[0] if len(joined) == 1 else tuple(joined)

    return {
        position: prediction
        for batch in task.batches()
        for position, prediction in zip(batch.images, task.predict(run, batch), strict=True)
    }


def int8_layers(network: Any) -> tuple[int, int]:
    """How many of the operations that multiply weights ran in int8, and how many there are."""
    kinds = [operation.get_rt_info() for operation in network.get_runtime_model().get_ordered_ops()]
    precisions = [
        str(
            facts["runtimePrecision"].astype(str)
            if hasattr(facts["runtimePrecision"], "astype")
            else facts["runtimePrecision"]
        )
        for facts in kinds
        if str(facts["layerType"].astype(str) if hasattr(facts["layerType"], "astype") else facts["layerType"])
        in MULTIPLYING
    ]
    return sum(precision in ("i8", "u8") for precision in precisions), len(precisions)


def latency_ratio(network: Any, float_network: Any, image: Any) -> float:
    """Median time of a run over that of the float network; runs are interleaved."""
    requests = [compiled.create_infer_request() for compiled in (network, float_network)]
    times: list[list[float]] = [[], []]
    for _ in range(LATENCY_ROUNDS):
        for request, own in zip(requests, times, strict=True):
            started = time.perf_counter()
            request.infer([image])
            own.append(time.perf_counter() - started)
    own_s, float_s = (statistics.median(own[3:]) for own in times)
    return own_s / float_s


def sqnr_db(network: Network, references: Sequence[Sequence[Any]], images: Any) -> float:
    """Signal-to-quantization-noise ratio of all outputs over some images, against those of the float network."""
    signal = noise = 0.0
    for image, expected in zip(images, references, strict=True):
        for output, reference in zip(network(image), expected, strict=True):
            signal += float(np.square(reference.astype(np.float64)).sum())
            noise += float(np.square(output.astype(np.float64) - reference).sum())
    return float(10 * np.log10(signal / noise)) if noise else float("inf")


def difference(
    task: Task, predictions: Mapping[int, Any], float_predictions: Mapping[int, Any], groups: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """How much more the first predictions score, and half the width of its 95 % interval; by leaving groups out."""
    gain = task.score(predictions)[task.metric] - task.score(float_predictions)[task.metric]
    pairs = zip(scores_without(task, predictions, groups), scores_without(task, float_predictions, groups), strict=True)
    error = standard_error([first - second for first, second in pairs])
    return gain, student_quantile(LEVEL, len(groups) - 1) * error
