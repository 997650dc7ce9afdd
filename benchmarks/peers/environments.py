"""The peers, what each needs installed, the environment of its own that it gets, and its work there."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.own_process import Row, ending

WORKERS = Path(__file__).resolve().parent / "workers"
GRACE_S = 10
"""CPU seconds that a worker has to end in when its time is up."""


@dataclass(frozen=True)
class Peer:
    """Another tool.

    Attributes:
        name: As people call it.
        worker: File in ``workers/`` that runs it.
        variants: Its ways of quantizing that are compared.
        requirements: What pip installs in its environment.
        against_saturation: Ways that it offers for CPUs whose sums of 8-bit products saturate, compared there besides.
    """

    name: str
    worker: str
    variants: tuple[str, ...]
    requirements: tuple[str, ...]
    against_saturation: tuple[str, ...] = ()

    def ways(self, *, saturates: bool) -> tuple[str, ...]:
        """Its ways that are compared on this machine."""
        return self.variants + (self.against_saturation if saturates else ())


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "NNCF",
            "with_nncf.py",
            ("default", "mixed", "full bias correction", "accuracy control"),
            # from torch on: accuracy control scores the task with this library
            (
                "nncf==3.4.0",
                "openvino==2026.4.1",
                "torch==2.13.0",
                "pycocotools",
                "pandas",
                "opencv-python-headless",
                "onnx",
            ),
            against_saturation=("mixed, overflow fix", "accuracy control, overflow fix"),
        ),
        Peer(
            "ONNX Runtime",
            "with_onnxruntime.py",
            ("min-max", "percentile", "entropy"),
            ("onnxruntime==1.32.0", "onnx", "sympy"),
            against_saturation=("percentile, reduced range",),
        ),
        Peer(
            "ModelOpt",
            "with_modelopt.py",
            ("max", "entropy", "auto_quantize"),
            ("nvidia-modelopt==0.47.0", "torch==2.13.0", "onnx", "onnxscript", "requests", "huggingface_hub"),
        ),
        Peer(
            "AIMET",
            "with_aimet.py",
            ("plain", "equalization", "AdaRound, 200 steps", "AdaRound, 2000 steps"),
            ("aimet-torch==2.42.0", "torch==2.14.1", "torchvision==0.29.1", "onnx", "onnxscript"),
        ),
        Peer(
            "ESP-PPQ",
            "with_esp_ppq.py",
            ("percentile", "kl"),
            ("esp-ppq==1.3.12", "torch==2.13.0", "onnx", "onnxscript"),
        ),
    )
}
"""Every peer by name."""

FOR_ALL = ("safetensors", "pillow", "numpy")


def python_of(peer: Peer, folder: Path) -> Path:
    """The interpreter of a peer's environment, which is made where it is not there yet.

    Raises:
        CalledProcessError: If pip cannot install what the peer needs.
    """
    environment = folder / peer.worker.removeprefix("with_").removesuffix(".py")
    python = environment / "bin" / "python"
    if not (environment / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *peer.requirements, *FOR_ALL], check=True)
        (environment / "ready").touch()
    return python


def run_worker(peer: Peer, out: Path, environments: Path, limit_s: int) -> Row:
    """What a peer's worker answered; its own words stay in a log beside it.

    Args:
        peer: Whose.
        out: What the job writes to, without its ending; the job is in the file ``.job``.
        environments: Folder of all peers' environments.
        limit_s: CPU seconds that it may take.
    """
    try:
        python = python_of(peer, environments)
    except subprocess.CalledProcessError as error:
        return {"error": f"cannot be installed: {error}"}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [python, WORKERS / peer.worker, out.with_suffix(".job")]
    with (
        out.with_suffix(".log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as worker,
    ):
        resource.prlimit(worker.pid, resource.RLIMIT_CPU, (limit_s, limit_s + GRACE_S))
        status = worker.wait()
    if status == -signal.SIGXCPU:
        return {"error": f"not done after {limit_s} CPU seconds"}
    answer = out.with_suffix(".json")
    if not answer.exists():
        return {"error": ending(status)}
    return dict(json.loads(answer.read_text(encoding="utf-8")))
