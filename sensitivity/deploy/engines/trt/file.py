"""An engine in a file: a header that says what it was built from and for, then TensorRT's plan.

A plan runs only with the TensorRT version and on the kind of GPU that it was built with, and says nothing of the model.
The header does, so that an engine of another model is refused and not scored.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sensitivity.errors import EngineError
from sensitivity.records.storage.files import write_bytes

MAGIC = b"sensitivity tensorrt engine 1\n"


@dataclass(frozen=True)
class EngineIdentity:
    """What an engine was built from and for.

    Attributes:
        model: SHA-256 of the ONNX bytes.
        tensorrt: Version of TensorRT.
        device: The GPU's name and compute capability.
    """

    model: str
    tensorrt: str
    device: str

    @classmethod
    def of(cls, onnx: bytes, tensorrt: str, device: str) -> EngineIdentity:
        """The identity of an engine for this model, here."""
        return cls(hashlib.sha256(onnx).hexdigest(), tensorrt, device)

    def differs(self, other: EngineIdentity) -> str | None:
        """The first difference in words, ``other`` being what was wanted; None if there is none."""
        if self.model != other.model:
            return f"it was built from another model (sha256 {self.model[:12]}..., not {other.model[:12]}...)"
        if self.tensorrt != other.tensorrt:
            return f"it was built with TensorRT {self.tensorrt}, and this is {other.tensorrt}"
        if self.device != other.device:
            return f"it was built on {self.device}, and this is {other.device}"
        return None


@dataclass(frozen=True)
class BuiltEngine:
    """What TensorRT built.

    Attributes:
        plan: The engine as TensorRT serializes it.
        inputs: Names of its inputs in the order of the ONNX graph, which the plan need not keep.
        outputs: Names of its outputs, likewise.
    """

    plan: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def write_engine(path: str | Path, built: BuiltEngine, identity: EngineIdentity) -> None:
    """Write an engine with its header.

    Raises:
        EngineError: If the file cannot be written.
    """
    facts = {"plan": hashlib.sha256(built.plan).hexdigest(), "inputs": built.inputs, "outputs": built.outputs}
    header = json.dumps(asdict(identity) | facts, sort_keys=True)
    try:
        write_bytes(path, MAGIC + header.encode() + b"\n" + built.plan)
    except OSError as error:
        raise EngineError(f"the engine cannot be written to {path}: {error}.") from error


def read_engine(path: str | Path, wanted: EngineIdentity) -> BuiltEngine:
    """The engine in a file, if it is the one wanted.

    Raises:
        EngineError: If there is no such file, it is no engine of this library, it is damaged, or it belongs to another
            model, TensorRT version or GPU.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise EngineError(f"the engine {path} cannot be read: {error}. Build it first.") from error
    if not data.startswith(MAGIC):
        raise EngineError(f"{path} is no TensorRT engine saved by this library. Build one and save it.")
    header, _, plan = data[len(MAGIC) :].partition(b"\n")
    try:
        fields = json.loads(header)
        written, inputs, outputs = (fields.pop(key) for key in ("plan", "inputs", "outputs"))
        identity = EngineIdentity(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"the header of the engine {path} is damaged. Build it again.") from error
    if hashlib.sha256(plan).hexdigest() != written:
        raise EngineError(f"the engine {path} is damaged: {len(plan)} bytes are not those written. Build it again.")
    difference = identity.differs(wanted)
    if difference is not None:
        raise EngineError(f"the engine {path} cannot be used here: {difference}. Build it again.")
    return BuiltEngine(plan, tuple(inputs), tuple(outputs))
