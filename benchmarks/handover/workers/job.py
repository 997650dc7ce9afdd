"""What every worker shares: its job read, the pasted lines run, and its answer written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # nets.py, which needs nothing but torch


@dataclass(frozen=True)
class Job:
    """What a tool is handed.

    Attributes:
        folder: Where its files are: ``float.onnx`` and what it writes.
        net: Name of the network.
        side: Of its images, in pixels.
        settings: Of the handover.
        code: Of the handover: the lines to paste.
        layers: Paths of all modules that are layers.
    """

    folder: Path
    net: str
    side: int
    settings: dict[str, Any]
    code: str
    layers: tuple[str, ...]

    def pasted(self, **names: Any) -> dict[str, Any]:
        """The names that the lines leave behind."""
        scope: dict[str, Any] = {"settings": self.settings, **names}
        exec(compile(self.code, "handover", "exec"), scope)
        return scope


def answer(work: Callable[[Job], tuple[list[str], str]]) -> None:
    """Do the job that the command line names; ``work`` gives the paths of the quantized modules and a version."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    quantized, version = work(Job(folder, job["net"], job["side"], job["settings"], job["code"], tuple(job["layers"])))
    plain = {"quantized": sorted(set(quantized)), "version": version}
    (folder / "answer.json").write_text(json.dumps(plain))


def layers_of_onnx(model: Any) -> list[str]:
    """Paths of the layers of our graphs whose input and weight both come from a DequantizeLinear."""
    writers = {name: node.op_type for node in model.graph.node for name in node.output}
    products = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    both = [node for node in products if all(writers.get(name) == "DequantizeLinear" for name in node.input[:2])]
    return [node.name.split("#")[0] for node in both]
