"""What a worker is asked, and what it answers; imported in every peer's environment, so by standard library alone.

A worker is run as ``python with_PEER.py JOB.json``. It writes the quantized network to ``job.out`` and ``answer.json``
beside it, with the CPU seconds from the float model to the quantized one.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One network for one way of quantizing it.

    Attributes:
        net: Name of the network.
        variant: Which of the peer's ways.
        data: Folder of the shared data, with the weights.
        repository: Folder of this project, with the networks' modules.
        onnx: The float network as an ONNX file of batch 1.
        calibration: npy file (N, 3, H, W) float32, the images that ranges are measured on.
        out: Where the quantized network goes; the worker chooses the ending, ``.onnx`` or ``.xml``.
        max_drop: Largest loss of the metric, as a fraction, for ways that aim at one.
        folder: Scratch folder of views, for ways that score.
    """

    net: str
    variant: str
    data: str
    repository: str
    onnx: str
    calibration: str
    out: str
    max_drop: float
    folder: str

    def write(self, path: Path) -> None:
        """As a JSON file."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def cpu_seconds() -> float:
    """CPU time of this process and of its children that ended: programs beside it do not make it longer."""
    return sum(os.times()[:4])


def answer(work: Callable[[Job], dict[str, Any]]) -> None:
    """Do a job: the worker's main function.

    Args:
        work: Quantizes, and returns ``file`` (name of what was written) and what it wants to tell besides.
    """
    path = Path(sys.argv[1])
    job = Job(**json.loads(path.read_text(encoding="utf-8")))
    started = cpu_seconds()
    try:
        report = work(job)
    except Exception as error:  # noqa: BLE001 - a peer that fails is a row of the table, with its reason
        traceback.print_exc()
        report = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    report.setdefault("seconds", cpu_seconds() - started)
    Path(job.out).with_suffix(".json").write_text(json.dumps(report, indent=1), encoding="utf-8")


def torch_model(job: Job) -> Any:
    """The float network, in evaluation mode, for peers that take a torch module."""
    for example in ("01_coco_detector", "02_semantic_segmentation"):
        sys.path.insert(0, str(Path(job.repository) / "examples" / example))
    weights = Path(job.data) / "weights" / f"{job.net}.safetensors"
    if job.net.startswith("yolo"):
        import yolo_fastest

        return yolo_fastest.load(weights, xl=job.net.endswith("xl"))
    if job.net.startswith("fastestdet"):
        import fastestdet

        return fastestdet.load(weights)
    import espnetv2

    width = "s" + job.net.split("_s")[1].removesuffix("_voc384").replace("_", ".")
    return espnetv2.load(weights, width=width)


def flattened(model: Any) -> Any:
    """The network with a tuple of tensors as its output, in the order of a depth-first walk.

    Adaptive pooling and channel shuffles are spelled out, for torch's older exporter does not take all of them.
    """
    from unittest.mock import patch

    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            functions = torch.nn.functional
            average = patch.object(functions, "adaptive_avg_pool2d", adaptive_average)
            with average, patch.object(functions, "channel_shuffle", shuffled_channels):
                return tuple(_leaves(self.model(x)))

    return Flat().eval()


def shuffled_channels(x: Any, groups: int) -> Any:
    """``torch.nn.functional.channel_shuffle``, in operators that every exporter has."""
    samples, channels, height, width = map(int, x.shape)  # numbers, or the graph computes the shape
    return (
        x.reshape(samples, groups, channels // groups, height, width)
        .transpose(1, 2)
        .reshape(samples, channels, height, width)
    )


def adaptive_average(x: Any, size: Any) -> Any:
    """``torch.nn.functional.adaptive_avg_pool2d``, in operators that every exporter has."""
    import torch

    sides = (size, size) if isinstance(size, int) else tuple(map(int, size))
    lengths = tuple(map(int, x.shape[-2:]))
    if all(length % side == 0 for length, side in zip(lengths, sides, strict=True)):
        steps = [length // side for length, side in zip(lengths, sides, strict=True)]
        return torch.nn.functional.avg_pool2d(x, steps, stride=steps)
    for axis, length, side in zip((2, 3), lengths, sides, strict=True):
        starts = [length * index // side for index in range(side)]
        ends = [-(-length * (index + 1) // side) for index in range(side)]
        sizes = {end - start for start, end in zip(starts, ends, strict=True)}
        if len(sizes) == 1:  # windows of one size: slide by one, and take those that begin where a window does
            window = [sizes.pop() if other == axis else 1 for other in (2, 3)]
            x = torch.nn.functional.avg_pool2d(x, window, stride=1).index_select(axis, torch.tensor(starts))
        else:
            parts = [x.narrow(axis, start, end - start) for start, end in zip(starts, ends, strict=True)]
            x = torch.cat([part.mean(dim=axis, keepdim=True) for part in parts], dim=axis)
    return x


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]


def with_one_pair_a_tensor(file: Path) -> None:
    """Merge equal Q/DQ pairs of one tensor in an ONNX file, which changes no value.

    Exporters that write a pair for each consumer make the engine quantize the same tensor several times.
    """
    import onnx_ir
    from onnx_ir.passes import common

    model = onnx_ir.load(file)
    common.ShapeInferencePass()(model)
    for node in list(model.graph):
        before, after = node.inputs[:1], node.outputs[0]
        if node.op_type == "Cast" and before[0] is not None and before[0].dtype == after.dtype:
            after.replace_all_uses_with(before[0], replace_graph_outputs=True)
            model.graph.remove(node, safe=True)
    passes = (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.IdentityEliminationPass(),
        common.CommonSubexpressionEliminationPass(),
    )
    for merge in passes:
        merge(model)
    onnx_ir.save(model, file)
