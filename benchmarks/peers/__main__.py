r"""Six networks, int8, by this library and by its peers: same weights, same calibration images, same engine.

    python -m benchmarks.peers DATA --work FOLDER [--nets fastestdet ...] [--peers NNCF ...] [--views 20]

DATA holds ``weights/`` and ``tiny_coco/``. Each peer gets an environment of its own in FOLDER/environments, which is
made here. Ranges are measured on the 50 images of the train split; the score is that of random views of the 50 images
of the val split, 20 of each. All networks run on OpenVINO, on one thread, in fp32 where they are not quantized. A
network that OpenVINO computes wrongly is scored on ONNX Runtime, and its row says so.

What was quantized, predicted and scored stays in FOLDER and is not computed again. Prints the table in Markdown. A peer
that fails has a row with its reason. So has one whose graph OpenVINO does not survive; that is scored on ONNX Runtime.
``CPU seconds`` are those from the float network to the quantized one, ``lines`` those of user code, counted by hand in
``workers/``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

import sensitivity as sv
from benchmarks.peers.bench import OPENVINO, Bench
from benchmarks.peers.environments import PEERS, WORKERS, Peer, python_of
from benchmarks.peers.own_process import Row, ending
from benchmarks.peers.workers.job import Job, cpu_seconds
from benchmarks.real_nets import real_nets
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine

REPOSITORY = Path(__file__).resolve().parents[2]


def own_schemes(bench: Bench) -> Iterator[tuple[str, Callable[[], sv.Scheme]]]:
    """What this library offers: name, and what makes the scheme."""
    for name in ("INT8_MINMAX", "INT8", "INT8_AFFINE"):
        yield f"sensitivity {name}", partial(sv.Scheme.all, getattr(sv, name))
    yield "sensitivity tune", partial(tuned, bench)


def tuned(bench: Bench) -> sv.Scheme:
    """The scheme of ``tune`` for the target, scored on the val split itself, as NNCF's accuracy control is."""
    task = bench.net.split(bench.data, "val")
    target = 100 * bench.max_drop
    return bench.wrapped.tune(task, max_drop=target, engine="openvino", calibration=bench.calibration).scheme


def our_row(bench: Bench, label: str, make: Callable[[], sv.Scheme]) -> Row:
    """Calibrate, deploy to OpenVINO's graph, and measure as the peers are."""
    known = bench.folder / f"{label}-{bench.views}-row.json"
    if known.exists():
        return bench.row(label, None, {})
    wrapped, images = bench.wrapped, bench.calibration
    started = cpu_seconds()
    scheme = make()
    wrapped.calibrate(images, scheme_recipes(scheme))
    file = bench.folder / f"{label.replace(' ', '-')}.onnx"

    def keep(graph: bytes) -> OpenVinoEngine:
        file.write_bytes(graph)
        return OpenVinoEngine(graph, threads=1)

    wrapped.deploy(scheme, keep)
    seconds = cpu_seconds() - started
    return bench.row(label, file, {"seconds": seconds, "lines": 3})


def scheme_recipes(scheme: sv.Scheme) -> Any:
    """The recipes of a scheme that need ranges, one alone as itself."""
    known = [rule.recipe for rule in scheme.rules if rule.recipe is not None and rule.recipe.needs_calibration]
    recipes = {recipe.digest: recipe for recipe in known}
    return next(iter(recipes.values())) if len(recipes) == 1 else list(recipes.values())


def peer_row(bench: Bench, peer: Peer, variant: str, limit_s: int) -> Row:
    """Run a peer's worker in its environment, and measure what it made."""
    label = f"{peer.name} {variant}"
    out = bench.folder / f"{label.replace(' ', '-')}"
    answer = out.with_suffix(".json")
    if not answer.exists():
        job = Job(
            net=bench.name,
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
        answer.write_text(json.dumps(run_worker(peer, out, bench.work / "environments", limit_s)), encoding="utf-8")
    report = json.loads(answer.read_text(encoding="utf-8"))
    return bench.row(label, bench.folder / report["file"] if "file" in report else None, report)


def run_worker(peer: Peer, out: Path, environments: Path, limit_s: int) -> Row:
    """What a worker answered; its own words stay in a log beside it."""
    try:
        python = python_of(peer, environments)
    except subprocess.CalledProcessError as error:
        return {"error": f"cannot be installed: {error}"}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [python, WORKERS / peer.worker, out.with_suffix(".job")]
    with out.with_suffix(".log").open("w") as log:
        try:
            done = subprocess.run(command, stdout=log, stderr=log, env=environment, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {limit_s} s"}
    answer = out.with_suffix(".json")
    if not answer.exists():
        return {"error": ending(done.returncode)}
    return dict(json.loads(answer.read_text(encoding="utf-8")))


def table(rows: Iterable[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| network | tool | score | against fp32, points (95 %) | SQNR, dB | layers in int8 | time of fp32 "
        "| CPU seconds | lines |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "score" not in row:
            lines.append(f"| {row['net']} | {row['tool']} | {row['error'].replace('|', '/')} | | | | | | |")
            continue
        lines.append(
            f"| {row['net']} | {row['tool']} | {row['score']:.4f} | {100 * row['gain']:+.2f} ± {100 * row['half']:.2f} "
            f"| {row['sqnr_db']:.1f} | {_in_int8(row)} | {_speed(row)} "
            f"| {row['seconds'] or 0:.0f} | {row['lines']} |"
        )
    return "\n".join(lines)


def _in_int8(row: Row) -> str:
    return f"{row['int8']} of {row['layers']}" if "int8" in row else "unknown"


def _speed(row: Row) -> str:
    if row["engine"] == "OpenVINO":
        return f"{row['latency']:.2f}"
    reason = row["error"] or f"OpenVINO is wrong ({row['wrong_db']:.1f} dB)"
    return f"{reason}: scored on {row['engine']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for environments and results")
    parser.add_argument("--nets", nargs="+", choices=real_nets(), default=list(real_nets()))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--without", nargs="*", default=[], help='ways to leave out, such as "AIMET AdaRound"')
    parser.add_argument("--views", type=int, default=20, help="of each image (default: %(default)s, 1,000 in all)")
    parser.add_argument("--max-drop", type=float, default=0.005, help="for ways with a target, a fraction")
    parser.add_argument("--limit-s", type=int, default=3600, help="for one way of a peer (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.nets:
        bench = Bench(name, arguments.data, arguments.work, arguments.views, arguments.max_drop)
        bench.prepare()
        rows.append(bench.row("fp32", bench.float_file, {"seconds": 0.0, "lines": 0}))
        ways: list[tuple[str, Callable[[], Row]]] = [
            (label, partial(our_row, bench, label, make)) for label, make in own_schemes(bench)
        ]
        for peer in map(PEERS.__getitem__, arguments.peers):
            ways += [
                (f"{peer.name} {variant}", partial(peer_row, bench, peer, variant, arguments.limit_s))
                for variant in peer.variants
            ]
        for label, make_row in ways:
            if label not in arguments.without:
                rows.append(make_row())
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(f"\n{date.today()}, {platform.machine()} {cpu()}, one thread, {OPENVINO}\n")
    print(table(rows))


def cpu() -> str:
    """Who made the CPU, and the instructions that its int8 sums are made with."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return platform.processor()
    lines = file.read_text(encoding="utf-8").splitlines()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    known = [name for flag, name in (("vnni", "VNNI"), ("amx_int8", "AMX")) if flag in facts.get("flags", "")]
    return f"{facts.get('vendor_id', 'CPU')} with {' and '.join(known) or 'AVX2'}"


if __name__ == "__main__":
    main()
