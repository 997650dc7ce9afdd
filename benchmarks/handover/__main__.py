"""Hand a scheme over to every tool, run the tool, and compare the layers it quantized with those of the scheme.

    python -m benchmarks.handover [TOOL ...] [--nets NET ...] [--environments FOLDER]

Each tool runs in an environment of its own with the lines that the handover gives to paste; it is then asked which
layers have a quantizer at their input and at their weight. TensorRT runs on a GPU alone: there, the ONNX file with Q/DQ
that is handed over is read back.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import sensitivity as sv
from benchmarks.handover.nets import EVERY, NETS, PROTECTED, SIDES, batches, net
from benchmarks.handover.workers.job import layers_of_onnx
from benchmarks.peers.environments import PEERS, Peer, python_of

WORKERS = Path(__file__).resolve().parent / "workers"
_TORCHAO = Peer("torchao", "with_torchao.py", (), ("torch==2.13.0", "torchao==0.18.0"))


@dataclass(frozen=True)
class Target:
    """One tool and what it is given.

    Attributes:
        title: As people call it.
        tool: What ``handover`` calls it.
        worker: File that runs it.
        environment: What is installed for it.
        source: What NNCF reads: ``torch``, ``onnx`` or ``openvino``.
    """

    title: str
    tool: str
    worker: str
    environment: Peer
    source: str = ""


TARGETS = (
    Target("ONNX Runtime", "onnxruntime", "with_onnxruntime.py", PEERS["ONNX Runtime"]),
    Target("NNCF, ONNX file", "nncf", "with_nncf.py", PEERS["NNCF"], "onnx"),
    Target("NNCF, torch module", "nncf", "with_nncf.py", PEERS["NNCF"], "torch"),
    Target("OpenVINO's conversion", "openvino", "with_nncf.py", PEERS["NNCF"], "openvino"),
    Target("ModelOpt", "modelopt", "with_modelopt.py", PEERS["ModelOpt"]),
    Target("AIMET", "aimet", "with_aimet.py", PEERS["AIMET"]),
    Target("PT2E (torchao)", "pt2e", "with_pt2e.py", _TORCHAO),
)


def wrapped_net(name: str) -> tuple[sv.Wrapped, sv.Scheme]:
    """A network, and a scheme that leaves some of its layers in float."""
    wrapped = sv.wrap(net(name), batches(name)[0], name=name)
    wrapped.calibrate(torch.cat(batches(name)), sv.INT8)
    every = EVERY.get(name, len(wrapped.layers) + 1)
    protected = [
        layer.name
        for number, layer in enumerate(wrapped.layers, start=1)
        if layer.module in PROTECTED[name] or number % every == 0
    ]
    return wrapped, sv.Scheme.all(sv.INT8).protect(protected)


def answer_of(target: Target, name: str, environments: Path, limit_s: float) -> dict[str, Any]:
    """What a tool says that it quantized.

    NNCF compiles an extension for torch modules. It waits for one that another process is building, and for ever for
    one whose build was interrupted; so it is built in a folder of its own.

    Raises:
        CalledProcessError: If it fails.
        TimeoutExpired: If it takes longer than ``limit_s``.
    """
    wrapped, scheme = wrapped_net(name)
    handover = scheme.handover(target.tool, wrapped.layers)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        wrapped.deploy(sv.Scheme(), "onnxruntime").save(folder / "float")
        (folder / "float" / "model.onnx").rename(folder / "float.onnx")
        job = {
            "net": name,
            "side": SIDES[name],
            "settings": dict(handover.settings),
            "code": handover.code,
            "layers": [layer.module for layer in wrapped.layers],
        }
        (folder / "job.json").write_text(json.dumps(job))
        (folder / "source").write_text(target.source)
        python = python_of(target.environment, environments)
        command = [str(python), str(WORKERS / target.worker), text]
        own = os.environ | {"TORCH_EXTENSIONS_DIR": str(folder / "extensions"), "NNCF_EXTENSION_LOAD_TIMEOUT": "0"}
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, env=own, timeout=limit_s)
        answer: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    return answer | {"wanted": sorted(handover.quantized), "layers": len(wrapped.layers)}


def answer_of_tensorrt(name: str) -> dict[str, Any]:
    """The layers with Q/DQ in the file that is handed over."""
    import onnx

    wrapped, scheme = wrapped_net(name)
    handover = scheme.handover("tensorrt", wrapped.layers)
    with tempfile.TemporaryDirectory() as folder:
        exec(handover.code, {"wrapped": wrapped, "scheme": scheme, "folder": folder})
        quantized = sorted(set(layers_of_onnx(onnx.load(Path(folder) / "model.onnx"))))
    wanted = {node.split("#")[0] for node in handover.settings["int8_nodes"]}
    return {"quantized": quantized, "version": "", "wanted": sorted(wanted), "layers": len(wrapped.layers)}


def row(title: str, name: str, answer: dict[str, Any]) -> str:
    """One line of the table."""
    quantized, wanted = set(answer["quantized"]), set(answer["wanted"])
    differences = [f"not quantized: {', '.join(sorted(wanted - quantized))}"] if wanted - quantized else []
    differences += [f"also quantized: {', '.join(sorted(quantized - wanted))}"] if quantized - wanted else []
    counts = f"{len(quantized & wanted)} of {len(wanted)}"
    left = answer["layers"] - len(wanted)
    return (
        f"| {title} {answer['version']} | {name} | {counts} | {left - len(quantized - wanted)} of {left} | "
        f"{'; '.join(differences) or 'as the scheme says'} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tools", nargs="*")
    parser.add_argument("--nets", nargs="*", default=list(NETS))
    parser.add_argument("--environments", type=Path, default=Path("environments"))
    parser.add_argument("--limit-s", type=float, default=900.0, help="seconds that a tool may take for one network")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| tool | net | layers of the scheme quantized | other layers left in float | |\n|---|---|---|---|---|")
    for name in arguments.nets:
        for target in TARGETS:
            if arguments.tools and target.tool not in arguments.tools:
                continue
            try:
                print(
                    row(target.title, name, answer_of(target, name, arguments.environments, arguments.limit_s)),
                    flush=True,
                )
            except subprocess.CalledProcessError as error:
                last = (error.stderr or "").strip().splitlines()[-1:]
                print(f"| {target.title} | {name} | failed: {''.join(last)[:200]} | | |", flush=True)
            except subprocess.TimeoutExpired:
                print(f"| {target.title} | {name} | stopped after {arguments.limit_s:g} s | | |", flush=True)
        if not arguments.tools or "tensorrt" in arguments.tools:
            print(row("TensorRT, ONNX file", name, answer_of_tensorrt(name)), flush=True)


if __name__ == "__main__":
    main()
