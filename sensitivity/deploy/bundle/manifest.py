"""What a folder with a deployment holds, with the hash of every file: read and written as JSON, without torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensitivity.errors import EngineError
from sensitivity.records.arguments import check_fields
from sensitivity.records.recipes.scheme import IoType
from sensitivity.records.storage.files import check_regular, read_json, write_json

MANIFEST = "deployment.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output of a graph.

    Attributes:
        name: Its name in the graph.
        shape: Its shape; None for a size that may change.
        dtype: Its type as NumPy calls it.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class PartFiles:
    """One exported submodule.

    Attributes:
        path: Its path in the model; empty for the whole model.
        onnx: File of the graph that the engine is built of.
        engine: File of the built engine; None where the engine has none.
        inputs: Inputs of the graph, in its order.
        outputs: Outputs, likewise.
    """

    path: str
    onnx: str
    engine: str | None
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Manifest:
    """All that is known of a deployment.

    Attributes:
        model: Name of the model.
        weights: Digest of the weights that it was made of.
        engine: Name of the engine.
        io: Type of the float inputs and outputs of the graphs.
        half_graph: Whether the graphs hold their float values in fp16.
        settings: Settings that the engine was built with; those that JSON cannot hold are left out.
        parts: The exported submodules.
        versions: Packages to their versions.
        layers: Layers in all.
        quantized: Layers that are quantized.
        left_out: Layers that the scheme quantizes and this deployment does not, with the reason.
        licence: Licence of the weights, if it was told.
        files: Every file of the folder but this one to its SHA-256.
    """

    model: str
    weights: str
    engine: str
    io: IoType
    half_graph: bool
    settings: Mapping[str, Any]
    parts: tuple[PartFiles, ...]
    versions: Mapping[str, str]
    layers: int
    quantized: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    licence: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal manifest."""
        return {"schema": SCHEMA_VERSION} | dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Manifest:
        """The manifest that ``to_json`` described.

        Raises:
            EngineError: If this is none.
        """
        try:
            if plain["schema"] != SCHEMA_VERSION:
                raise EngineError(f"it has schema {plain['schema']!r:.40}; this version reads {SCHEMA_VERSION}.")
            values = {name: plain[name] for name in (each.name for each in dataclasses.fields(cls))}
            values["parts"] = tuple(_part(part) for part in plain["parts"])
            manifest = cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(f"not the manifest of a deployment: {error!r}.") from error
        check_fields(manifest, EngineError)
        return manifest

    def save(self, folder: Path) -> Path:
        """Write it into a folder, with a hash of its own."""
        plain = self.to_json()
        write_json(folder / MANIFEST, plain | {"digest": _digest(plain)})
        return folder / MANIFEST

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read it from a folder, and check every file that it names.

        Raises:
            EngineError: If it is missing or damaged, or a file is missing or has other content than was written.
        """
        if not (folder / MANIFEST).is_file():
            raise EngineError(
                f"the folder {folder} holds no deployment: there is no {MANIFEST} in it. Give one that deployed.save "
                "wrote."
            )
        plain = read_json(folder / MANIFEST, "a deployment", "deployed.save", EngineError)
        if not isinstance(plain, dict) or plain.pop("digest", None) != _digest(plain):
            raise EngineError(
                f"{folder / MANIFEST} is not as deployed.save wrote it: its hash is another. Save the deployment again."
            )
        manifest = cls.from_json(plain)
        for name, expected in manifest.files.items():
            _check_file(folder, name, expected)
        _check_parts(folder, manifest)
        return manifest


def engine_file(folder: str | Path, part: str) -> Path:
    """Where the engine of a part is kept in a folder."""
    return Path(folder, f"{part or 'model'}.engine")


def hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_parts(folder: Path, manifest: Manifest) -> None:
    """Nothing, if every part has a path of its own and files whose hashes are known.

    Raises:
        EngineError: If not.
    """
    paths = [part.path for part in manifest.parts]
    if not paths or len(set(paths)) != len(paths):
        raise EngineError(f"{folder / MANIFEST} has the parts {paths!r:.80}; expected one or more different ones.")
    named = [name for part in manifest.parts for name in (part.onnx, part.engine) if name is not None]
    unknown = next((name for name in named if name not in manifest.files), None)
    if unknown is not None:
        raise EngineError(
            f"{folder / MANIFEST} names {unknown!r:.80} as a part and has no hash of it. Do not trust it; save the "
            "deployment again."
        )


def _check_file(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise EngineError(f"{folder / MANIFEST} names {name!r}, which lies outside of its folder. Do not trust it.")
    try:
        check_regular(path)
        actual = hash_of(path)
    except OSError as error:
        raise EngineError(f"{path} belongs to this deployment and cannot be read: {error}. Save it again.") from error
    if actual != expected:
        raise EngineError(
            f"{path} is not the file that this deployment was saved with: its sha256 is {actual[:12]}..., not "
            f"{expected[:12]}.... Save the deployment again, or copy the folder anew."
        )


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _part(plain: Mapping[str, Any]) -> PartFiles:
    ports = {side: tuple(_port(port) for port in plain[side]) for side in ("inputs", "outputs")}
    part = PartFiles(plain["path"], plain["onnx"], plain["engine"], **ports)
    check_fields(part, EngineError)
    return part


def _port(plain: Mapping[str, Any]) -> Port:
    port = Port(plain["name"], tuple(plain["shape"]), plain["dtype"])
    check_fields(port, EngineError)
    return port
