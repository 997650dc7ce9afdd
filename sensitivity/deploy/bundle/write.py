"""Write a deployment into a folder."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sensitivity
from sensitivity.contracts import SavesItself
from sensitivity.deploy.bundle.card import CARD, Card, card_text
from sensitivity.deploy.bundle.manifest import MANIFEST, Manifest, PartFiles, Port, engine_file, hash_of
from sensitivity.errors import EngineError
from sensitivity.records.recipes.scheme import IoType
from sensitivity.records.results.verification import VerificationRecord
from sensitivity.records.storage.files import write_bytes, write_text
from sensitivity.records.storage.spreadsheet import to_cell

if TYPE_CHECKING:
    from onnx import ModelProto

    from sensitivity.contracts import Engine
    from sensitivity.deploy.prepare.plan import Plan

NAMES = "names.csv"
PACKAGES = ("torch", "onnx", "onnxscript", "numpy")


@dataclass(frozen=True, eq=False)
class PartToSave:
    """One exported submodule.

    Attributes:
        path: Its path in the model; empty for the whole model.
        graph: What its engine was built of.
        engine: The engine.
        nodes: Names of the nodes of each layer in the graph.
    """

    path: str
    graph: ModelProto
    engine: Engine
    nodes: Mapping[str, Sequence[str]]


@dataclass(frozen=True, eq=False)
class ToSave:
    """A deployment as it is saved.

    Attributes:
        plan: What was deployed.
        engine: Name of the engine.
        parts: The exported submodules.
        io: Type of the graphs' float inputs and outputs.
        half_graph: Whether the graphs hold their float values in fp16.
        settings: Those that the engine was built with.
        verification: What was found when it was verified; None if nobody told.
        verified: Its summary in words.
        licence: Licence of the weights; None if nobody told.
    """

    plan: Plan
    engine: str
    parts: Sequence[PartToSave]
    io: IoType
    half_graph: bool
    settings: Mapping[str, Any]
    verification: VerificationRecord | None = None
    verified: str = ""
    licence: str | None = None


def write_bundle(folder: Path, deployment: ToSave) -> tuple[Path, ...]:
    """Write every file of a deployment, the manifest last; then take away what only an older one had here.

    Args:
        folder: Where; made if it is missing.
        deployment: What is saved.

    Returns:
        The files.

    Raises:
        EngineError: If one cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        old = _files_of_old(folder)
        parts = tuple(_write_part(folder, part) for part in deployment.parts)
        written = [name for part in parts for name in (part.onnx, part.engine) if name is not None]
        written += _write_records(folder, deployment)
        manifest = _manifest(deployment, parts)
        manifest = replace(manifest, files={name: hash_of(folder / name) for name in written})
        card = Card(deployment.plan.scheme, deployment.verification, deployment.verified)
        write_text(folder / CARD, card_text(manifest, card))
        manifest = replace(manifest, files={**manifest.files, CARD: hash_of(folder / CARD)})
        manifest.save(folder)
        for name in old - manifest.files.keys():
            (folder / name).unlink()
    except OSError as error:
        raise EngineError(f"the folder {folder} cannot be written: {error}. Name another one.") from error
    return tuple(folder / name for name in (*written, CARD, MANIFEST))


def _files_of_old(folder: Path) -> set[str]:
    """Names of the files of a deployment that was saved here before; none where they are not as they were written."""
    try:
        return set(Manifest.load(folder).files)
    except EngineError:
        return set()  # there is no deployment, or not a whole one: nobody knows whose its files are


def name_rows(plan: Plan, parts: Sequence[PartToSave]) -> list[dict[str, str]]:
    """For every node of a layer: the layer, its module in torch, the node in ONNX, and the engine's name for it.

    Args:
        plan: What was deployed.
        parts: The exported submodules. An engine may not tell what a node became: its name is then empty.
    """
    rows = []
    for part in parts:
        operations = {node: layer for layer in part.engine.layer_info() for node in layer.nodes}
        for layer in plan.layers:
            recipe = plan.recipes.get(layer.name)
            for node in part.nodes.get(layer.name, ()):
                operation = operations.get(node)
                rows.append(
                    {
                        "layer": layer.name,
                        "module": layer.module,
                        "part": part.path,
                        "node": node,
                        "engine": "" if operation is None else operation.name,
                        "precision": "" if operation is None else operation.precision,
                        "recipe": "" if recipe is None else recipe.name,
                    }
                )
    return rows


def _write_part(folder: Path, part: PartToSave) -> PartFiles:
    onnx_file = folder / f"{part.path or 'model'}.onnx"
    write_bytes(onnx_file, part.graph.SerializeToString())
    built = None
    if isinstance(part.engine, SavesItself):
        built = engine_file(folder, part.path)
        part.engine.save(built)
    inputs, outputs = (tuple(map(_port, ports)) for ports in (part.graph.graph.input, part.graph.graph.output))
    return PartFiles(part.path, onnx_file.name, None if built is None else built.name, inputs, outputs)


def _port(port: Any) -> Port:
    import onnx.helper

    kind = port.type.tensor_type
    sizes = (size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)
    return Port(port.name, tuple(sizes), onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name)


def _write_records(folder: Path, deployment: ToSave) -> list[str]:
    """Scheme, calibrations, names and verification; the names of the files."""
    plan, names = deployment.plan, ["scheme.json", NAMES]
    plan.scheme.save(folder / "scheme.json")
    write_text(folder / NAMES, _as_csv(name_rows(plan, deployment.parts)))
    for number, calibration in enumerate(plan.ranges.values()):
        names.append(f"calibration-{number}.safetensors")
        calibration.save(folder / names[-1])
    if deployment.verification is not None:
        names.append("verification.json")
        deployment.verification.save(folder / names[-1])
    return names


def _as_csv(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    columns = ["layer", "module", "part", "node", "engine", "precision", "recipe"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: to_cell(text) for column, text in row.items()} for row in rows)
    return text.getvalue()


def _manifest(deployment: ToSave, parts: tuple[PartFiles, ...]) -> Manifest:
    plan = deployment.plan
    return Manifest(
        model=plan.layers.model,
        weights=plan.basis.digest,
        engine=deployment.engine,
        io=deployment.io,
        half_graph=deployment.half_graph,
        settings={name: value for name, value in deployment.settings.items() if _is_plain(value)},
        parts=parts,
        versions=_versions() | {deployment.engine: deployment.parts[0].engine.version or "unknown"},
        layers=len(plan.layers),
        quantized=len(plan.recipes),
        left_out=dict(plan.left_out),
        licence=deployment.licence,
    )


def _versions() -> dict[str, str]:
    versions = {"sensitivity": sensitivity.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _is_plain(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False
