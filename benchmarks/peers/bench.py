"""What the rows of one network share, and the process of its own in which each network that a tool made is measured.

OpenVINO may crash on a tool's graph and takes its process with it. So graphs are compiled and run in a child process; a
child that dies is a row with its reason, and an ONNX file is scored on ONNX Runtime then.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch

import sensitivity as sv
from benchmarks.peers.measure import (
    Network,
    compiled,
    difference,
    in_order_of,
    int8_layers,
    latency_ratio,
    on_onnxruntime,
    on_openvino,
    predictions_of,
    sqnr_db,
)
from benchmarks.peers.own_process import Row, Say, in_own_process
from benchmarks.peers.workers.job import flattened
from benchmarks.real_nets import RealNet, groups_of_views, real_nets, views_task
from sensitivity.contracts import Task
from sensitivity.deploy.doctor.saturation import saturates_here

OPENVINO = f"OpenVINO {openvino.__version__.split('-')[0]}"
ONNX_RUNTIME = f"ONNX Runtime {onnxruntime.__version__}"
COMPARED = 8
"""Images on which OpenVINO's outputs are compared with ONNX Runtime's."""
WRONG_DB = 6.0
"""OpenVINO computes a network wrongly where its outputs have so much less SQNR than those of ONNX Runtime."""


@dataclass(frozen=True)
class Bench:
    """One network with everything that its rows share, made when it is first asked for.

    Attributes:
        name: Of the network.
        data: Folder of the shared data.
        work: Folder of everything that is kept.
        views: Of each image.
        max_drop: For ways with a target, a fraction.
    """

    name: str
    data: Path
    work: Path
    views: int
    max_drop: float

    @property
    def net(self) -> RealNet:
        return real_nets()[self.name]

    @property
    def folder(self) -> Path:
        return self.work / self.name

    def prepare(self) -> None:
        """Write the files that the peers read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        np.save(self.folder / "calibration.npy", self.calibration.numpy())
        if not self.float_file.exists():
            model, image = flattened(self.wrapped.model), self.calibration[:1]
            torch.onnx.export(
                model, (image,), str(self.float_file), input_names=["input"], opset_version=17, dynamo=False
            )

    @property
    def float_file(self) -> Path:
        """The float network as an ONNX file of batch 1."""
        return self.folder / "float.onnx"

    @cached_property
    def wrapped(self) -> sv.Wrapped:
        return self.net.wrapped(self.data)

    @cached_property
    def task(self) -> Task:
        return views_task(self.net, self.data, self.views, self.work / "views")

    @cached_property
    def calibration(self) -> torch.Tensor:
        """(N, 3, H, W) float32, the images of the train split."""
        return torch.cat([batch.inputs[0] for batch in self.net.split(self.data, "train").batches()])

    def images(self) -> list[Any]:
        """The images of the val split, (1, 3, H, W) float32 each."""
        return [
            image.numpy()[None] for batch in self.net.split(self.data, "val").batches() for image in batch.inputs[0]
        ]

    def references(self) -> list[list[np.ndarray[Any, Any]]]:
        """What the float network gives on OpenVINO for each of ``images()``, kept in files."""
        pattern = "float-output-*.npy"
        if not list(self.folder.glob(pattern)):
            run = on_openvino(compiled(self.float_file))
            for number, outputs in enumerate(zip(*map(run, self.images()), strict=True)):
                np.save(self.folder / pattern.replace("*", f"{number:03d}"), np.stack(outputs))
        columns = [np.load(file, mmap_mode="r") for file in sorted(self.folder.glob(pattern))]
        return [list(outputs) for outputs in zip(*columns, strict=True)]

    def row(self, label: str, file: Path | None, report: Row) -> Row:
        """All that is known of one network that a tool made, or why there is none."""
        known = self.folder / f"{label}-{self.views}-row.json"
        if known.exists():
            return dict(json.loads(known.read_text(encoding="utf-8")))
        row = {"net": self.name, "tool": label} | {key: report.get(key) for key in ("seconds", "lines", "error")}
        if file is not None:
            row |= in_own_process(measured, replace(self), label, file)
            if "signal" in row and file.suffix == ".onnx":
                row = in_own_process(measured_on_onnxruntime, replace(self), label, file) | row
        known.write_text(json.dumps(row, indent=1), encoding="utf-8")
        return row


def measured(say: Say, bench: Bench, label: str, file: Path) -> Row:
    """How good a network is on OpenVINO, and how fast; scored on ONNX Runtime where OpenVINO computes it wrongly.

    Where OpenVINO's sums saturate on this machine, that is part of what a user gets: such a network is scored as it is.
    """
    torch.set_num_threads(1)
    say((OPENVINO, "compiled the graph"))
    network = compiled(file)
    say((OPENVINO, "ran the graph"))
    images = bench.images()
    run = in_order_of(bench.float_file, file, on_openvino(network))
    in_int8, all_layers = int8_layers(network)
    facts: Row = {
        "int8": in_int8,
        "layers": all_layers,
        "latency": latency_ratio(network, compiled(bench.float_file), images[0]),
        "engine": "OpenVINO",
    }
    if file.suffix == ".onnx" and file != bench.float_file:
        say((ONNX_RUNTIME, "ran the graph"))
        other = in_order_of(bench.float_file, file, on_onnxruntime(file))
        references = bench.references()[:COMPARED]
        own_db, other_db = (sqnr_db(each, references, images[:COMPARED]) for each in (run, other))
        if own_db < other_db - WRONG_DB:
            facts |= {"wrong_db": own_db, "other_db": other_db}
            if not saturates_here("openvino"):
                run, facts = other, facts | {"engine": "ONNX Runtime"}
    say((facts["engine"], "ran the graph"))
    return facts | scored(bench, label, run, facts["engine"])


def measured_on_onnxruntime(say: Say, bench: Bench, label: str, file: Path) -> Row:
    """How good a network is that OpenVINO does not survive."""
    torch.set_num_threads(1)
    say((ONNX_RUNTIME, "ran the graph"))
    engine = "ONNX Runtime"
    run = in_order_of(bench.float_file, file, on_onnxruntime(file))
    return {"engine": engine} | scored(bench, label, run, engine)


def scored(bench: Bench, label: str, run: Network, engine: str) -> Row:
    """A network's metric, and how far its outputs are from those of the float network on OpenVINO."""
    predictions = _predicted(bench, label if engine == "OpenVINO" else f"{label} on {engine}", lambda: run)
    task, base = bench.task, _predicted(bench, "fp32", lambda: on_openvino(compiled(bench.float_file)))
    gain, half = difference(task, predictions, base, groups_of_views(len(task), bench.views))
    return {
        "metric": task.metric,
        "score": task.score(predictions)[task.metric],
        "gain": gain,
        "half": half,
        "sqnr_db": sqnr_db(run, bench.references(), bench.images()),
    }


def _predicted(bench: Bench, label: str, make: Callable[[], Network]) -> dict[int, Any]:
    """The predictions of a network on all views, kept in a file; the network is made where there is none."""
    file = bench.folder / f"{label}-{bench.views}.pickle"
    if not file.exists():
        file.write_bytes(pickle.dumps(predictions_of(bench.task, make())))
    return dict(pickle.loads(file.read_bytes()))
