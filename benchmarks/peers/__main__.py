r"""Six networks, int8, by this library and by its peers: same weights, same calibration images, same engine.

    python -m benchmarks.peers DATA --work FOLDER [--nets fastestdet ...] [--peers NNCF ...] [--views 20]

DATA holds ``weights/`` and ``tiny_coco/``. Each peer gets an environment of its own in FOLDER/environments, which is
made here. Ranges are measured on the 50 images of the train split; the score is that of random views of the 50 images
of the val split, 20 of each. All networks run on OpenVINO, on one thread, in fp32 where they are not quantized. A
network that OpenVINO computes wrongly is scored on ONNX Runtime, and its row says so.

What was quantized, predicted and scored stays in FOLDER and is not computed again. Prints the table in Markdown. A peer
that fails has a row with its reason. ``seconds`` are those from the float network to the quantized one, ``lines`` those
of user code, counted by hand in ``workers/``.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch

import sensitivity as sv
from benchmarks.peers.environments import PEERS, WORKERS, Peer, python_of
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
from benchmarks.peers.workers.job import Job, flattened
from benchmarks.real_nets import RealNet, groups_of_views, real_nets, views_task
from sensitivity.contracts import Task
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine

REPOSITORY = Path(__file__).resolve().parents[2]
LONGEST_S = 3600
COMPARED = 8
"""Images on which OpenVINO's outputs are compared with ONNX Runtime's."""
WRONG_DB = 6.0
"""OpenVINO computes a network wrongly where its outputs have so much less SQNR than those of ONNX Runtime."""


@dataclass
class Bench:
    """One network with everything that its rows share."""

    net: RealNet
    data: Path
    work: Path
    views: int
    max_drop: float
    predictions: dict[str, dict[int, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.work / self.net.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.wrapped = self.net.wrapped(self.data)
        self.task: Task = views_task(self.net, self.data, self.views, self.work / "views")
        self.calibration = torch.cat([batch.inputs[0] for batch in self.net.split(self.data, "train").batches()])
        self.float_file = self.folder / "float.onnx"
        np.save(self.folder / "calibration.npy", self.calibration.numpy())
        if not self.float_file.exists():
            model, image = flattened(self.wrapped.model), self.calibration[:1]
            torch.onnx.export(
                model, (image,), str(self.float_file), input_names=["input"], opset_version=17, dynamo=False
            )
        self.float_network = compiled(self.float_file)
        self.float_run = on_openvino(self.float_network)
        self.val = [batch.inputs[0].numpy() for batch in self.net.split(self.data, "val").batches()]

    def predicted(self, label: str, network: Network) -> dict[int, Any]:
        """The predictions of a network, kept in a file."""
        file = self.folder / f"{label}-{self.views}.pickle"
        if not file.exists():
            file.write_bytes(pickle.dumps(predictions_of(self.task, network)))
        return dict(pickle.loads(file.read_bytes()))

    def row(self, label: str, file: Path | None, report: dict[str, Any]) -> dict[str, Any]:
        """All that is known of one network that a tool made, or why there is none."""
        known = self.folder / f"{label}-{self.views}-row.json"
        if known.exists():
            return dict(json.loads(known.read_text(encoding="utf-8")))
        row = {"net": self.net.name, "tool": label} | {key: report.get(key) for key in ("seconds", "lines", "error")}
        if file is not None:
            try:
                row |= self._measured(label, file)
            except RuntimeError as error:
                row["error"] = f"OpenVINO: {str(error).splitlines()[-1][:200]}"
        known.write_text(json.dumps(row, indent=1), encoding="utf-8")
        return row

    def _measured(self, label: str, file: Path) -> dict[str, Any]:
        network = compiled(file)
        images = [image[None] for batch in self.val for image in batch]
        run, wrong_db = self._checked(in_order_of(self.float_file, file, on_openvino(network)), file, images[:COMPARED])
        engine = "OpenVINO" if wrong_db is None else "ONNX Runtime"
        predictions = self.predicted(label if wrong_db is None else f"{label} on {engine}", run)
        base = self.predicted("float", self.float_run)
        gain, half = difference(self.task, predictions, base, groups_of_views(len(self.task), self.views))
        in_int8, all_layers = int8_layers(network)
        return {
            "metric": self.task.metric,
            "score": self.task.score(predictions)[self.task.metric],
            "gain": gain,
            "half": half,
            "sqnr_db": sqnr_db(run, self.float_run, images),
            "int8": in_int8,
            "layers": all_layers,
            "latency": latency_ratio(network, self.float_network, images[0]),
            "engine": engine,
            "wrong_db": wrong_db,
        }

    def _checked(self, run: Network, file: Path, images: Sequence[Any]) -> tuple[Network, float | None]:
        """What runs a network: ONNX Runtime, with the SQNR on OpenVINO, where that computes it wrongly."""
        if file.suffix != ".onnx" or file == self.float_file:
            return run, None
        other = in_order_of(self.float_file, file, on_onnxruntime(file))
        first_db, second_db = (sqnr_db(each, self.float_run, images) for each in (run, other))
        return (other, first_db) if first_db < second_db - WRONG_DB else (run, None)


def own_schemes(bench: Bench) -> Iterator[tuple[str, Callable[[], sv.Scheme]]]:
    """What this library offers: name, and what makes the scheme."""
    for name in ("INT8_MINMAX", "INT8", "INT8_AFFINE"):
        if hasattr(sv, name):
            yield f"sensitivity {name}", lambda name=name: sv.Scheme.all(getattr(sv, name))  # type: ignore[misc]
    if hasattr(bench.wrapped, "tune"):
        yield "sensitivity tune", lambda: tuned(bench)


def tuned(bench: Bench) -> sv.Scheme:
    """The scheme of ``tune`` for the target, scored on the val split itself, as NNCF's accuracy control is."""
    task = bench.net.split(bench.data, "val")
    wrapped: Any = bench.wrapped
    return wrapped.tune(task, max_drop=100 * bench.max_drop, engine="openvino", calibration=bench.calibration).scheme


def our_row(bench: Bench, label: str, make: Callable[[], sv.Scheme]) -> dict[str, Any]:
    """Calibrate, deploy to OpenVINO's graph, and measure as the peers are."""
    known = bench.folder / f"{label}-{bench.views}-row.json"
    if known.exists():
        return bench.row(label, None, {})
    started = time.perf_counter()
    scheme = make()
    bench.wrapped.calibrate(bench.calibration, scheme_recipes(scheme))
    file = bench.folder / f"{label.replace(' ', '-')}.onnx"

    def keep(graph: bytes) -> OpenVinoEngine:
        file.write_bytes(graph)
        return OpenVinoEngine(graph, threads=1)

    bench.wrapped.deploy(scheme, keep)
    seconds = time.perf_counter() - started
    return bench.row(label, file, {"seconds": seconds, "lines": 3})


def scheme_recipes(scheme: sv.Scheme) -> Any:
    """The recipes of a scheme that need ranges, one alone as itself."""
    known = [rule.recipe for rule in scheme.rules if rule.recipe is not None and rule.recipe.needs_calibration]
    recipes = {recipe.digest: recipe for recipe in known}
    return next(iter(recipes.values())) if len(recipes) == 1 else list(recipes.values())


def peer_row(bench: Bench, peer: Peer, variant: str, environments: Path) -> dict[str, Any]:
    """Run a peer's worker in its environment, and measure what it made."""
    label = f"{peer.name} {variant}"
    out = bench.folder / f"{label.replace(' ', '-')}"
    answer = out.with_suffix(".json")
    if not answer.exists():
        job = Job(
            net=bench.net.name,
            variant=variant,
            data=str(bench.data),
            repository=str(REPOSITORY),
            onnx=str(bench.float_file),
            calibration=str(bench.folder / "calibration.npy"),
            out=str(out),
            max_drop=bench.max_drop,
            folder=str(bench.work / "views"),
        )
        job.write(out.with_suffix(".job"))
        answer.write_text(json.dumps(run_worker(peer, out, environments)), encoding="utf-8")
    report = json.loads(answer.read_text(encoding="utf-8"))
    return bench.row(label, bench.folder / report["file"] if "file" in report else None, report)


def run_worker(peer: Peer, out: Path, environments: Path) -> dict[str, Any]:
    """What a worker answered; its own words stay in a log beside it."""
    try:
        python = python_of(peer, environments)
    except subprocess.CalledProcessError as error:
        return {"error": f"cannot be installed: {error}"}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [python, WORKERS / peer.worker, out.with_suffix(".job")]
    with out.with_suffix(".log").open("w") as log:
        try:
            done = subprocess.run(command, stdout=log, stderr=log, env=environment, timeout=LONGEST_S, check=False)
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {LONGEST_S} s"}
    answer = out.with_suffix(".json")
    if not answer.exists():
        return {"error": f"ended with exit status {done.returncode}"}
    return dict(json.loads(answer.read_text(encoding="utf-8")))


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| network | tool | score | against fp32, points (95 %) | SQNR, dB | layers in int8 | time of fp32 | seconds "
        "| lines |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row.get("error"):
            lines.append(f"| {row['net']} | {row['tool']} | {row['error'].replace('|', '/')} | | | | | | |")
            continue
        lines.append(
            f"| {row['net']} | {row['tool']} | {row['score']:.4f} | {100 * row['gain']:+.2f} ± {100 * row['half']:.2f} "
            f"| {row['sqnr_db']:.1f} | {row['int8']} of {row['layers']} | {_speed(row)} "
            f"| {row['seconds'] or 0:.0f} | {row['lines']} |"
        )
    return "\n".join(lines)


def _speed(row: dict[str, Any]) -> str:
    if row.get("wrong_db") is None:
        return f"{row['latency']:.2f}"
    return f"OpenVINO is wrong ({row['wrong_db']:.1f} dB): scored on {row['engine']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for environments and results")
    parser.add_argument("--nets", nargs="+", choices=real_nets(), default=list(real_nets()))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--without", nargs="*", default=[], help='ways to leave out, such as "AIMET AdaRound"')
    parser.add_argument("--views", type=int, default=20, help="of each image (default: %(default)s, 1,000 in all)")
    parser.add_argument("--max-drop", type=float, default=0.005, help="for ways with a target, a fraction")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.nets:
        bench = Bench(real_nets()[name], arguments.data, arguments.work, arguments.views, arguments.max_drop)
        rows.append(bench.row("fp32", bench.float_file, {"seconds": 0.0, "lines": 0}))
        for label, make in own_schemes(bench):
            rows.append(our_row(bench, label, make))
        for peer in (PEERS[peer] for peer in arguments.peers):
            for variant in peer.variants:
                if f"{peer.name} {variant}" in arguments.without:
                    continue
                rows.append(peer_row(bench, peer, variant, arguments.work / "environments"))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(
        f"\n{date.today()}, {platform.machine()} {cpu()}, one thread, OpenVINO {openvino.__version__.split('-')[0]}\n"
    )
    print(table(rows))


def cpu() -> str:
    """Whether the CPU has VNNI, which int8 sums do not saturate with."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return "with VNNI" if "vnni" in flags else "without VNNI"


if __name__ == "__main__":
    main()
