"""Rows of a table: what this library or a peer makes of a network, measured; and the table in Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import sensitivity as sv
from benchmarks.peers.bench import Bench
from benchmarks.peers.environments import Peer, run_worker
from benchmarks.peers.own_process import Row
from benchmarks.peers.workers.job import Job, cpu_seconds
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine

REPOSITORY = Path(__file__).resolve().parents[2]


def our_row(bench: Bench, label: str, make: Callable[[], tuple[sv.Wrapped, sv.Scheme]]) -> Row:
    """Calibrate, deploy to OpenVINO's graph, and measure as the peers are.

    Args:
        bench: The network.
        label: Of the row.
        make: Gives the network, which may be the equalized copy, and how it is quantized.
    """
    known = bench.folder / f"{label}-{bench.views}-row.json"
    if known.exists():
        return bench.row(label, None, {})
    images = bench.calibration
    started = cpu_seconds()
    wrapped, scheme = make()
    if recipes := scheme_recipes(scheme):
        wrapped.calibrate(images, recipes)
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
        cut_off = f", {row['wrong_db']:.1f} dB for {row['other_db']:.1f} dB" if "wrong_db" in row else ""
        return f"{row['latency']:.2f}{cut_off}"
    reason = row["error"] or f"OpenVINO is wrong ({row['wrong_db']:.1f} dB)"
    return f"{reason}: scored on {row['engine']}"
