"""The peers, what each needs installed, and the environment of its own that it gets."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

WORKERS = Path(__file__).resolve().parent / "workers"


@dataclass(frozen=True)
class Peer:
    """Another tool.

    Attributes:
        name: As people call it.
        worker: File in ``workers/`` that runs it.
        variants: Its ways of quantizing that are compared.
        requirements: What pip installs in its environment.
    """

    name: str
    worker: str
    variants: tuple[str, ...]
    requirements: tuple[str, ...]


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
        ),
        Peer(
            "ONNX Runtime",
            "with_onnxruntime.py",
            ("min-max", "percentile", "entropy"),
            ("onnxruntime==1.32.0", "onnx", "sympy"),
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
            ("plain", "equalization", "AdaRound"),
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
