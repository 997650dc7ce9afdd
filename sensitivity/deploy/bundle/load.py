"""A deployment read from its folder and run by its engine: NumPy arrays in, NumPy arrays out, no torch needed."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sensitivity.contracts import Engine
from sensitivity.deploy.bundle.external_data import check_self_contained
from sensitivity.deploy.bundle.manifest import Manifest, PartFiles
from sensitivity.deploy.bundle.write import NAMES
from sensitivity.deploy.engines.inputs import Array
from sensitivity.deploy.engines.registry import Build, EngineKind, engine_from_files, kind_of
from sensitivity.errors import EngineError
from sensitivity.records import Scheme
from sensitivity.records.arguments import checked
from sensitivity.records.results.verification import VerificationRecord
from sensitivity.records.storage.spreadsheet import from_cell


class LoadedDeployment:
    """What ``load_deployment`` returns: called with the inputs of a graph, it gives the graph's outputs.

    Attributes:
        folder: Where it was read from.
        manifest: What is known of it: model, engine, versions, parts with their inputs and outputs, hashes.
        engines: The engine of each part, by the path of the submodule; empty for the whole model.
    """

    def __init__(self, folder: Path, manifest: Manifest, engines: Mapping[str, Engine]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.engines = dict(engines)

    @property
    def scheme(self) -> Scheme:
        """What was deployed."""
        return Scheme.load(self.folder / "scheme.json")

    @property
    def names(self) -> list[dict[str, str]]:
        """For each node of a layer: layer, torch module, part, ONNX node, the engine's name, precision and recipe."""
        try:
            with (self.folder / NAMES).open(encoding="utf-8", newline="") as file:
                return [{column: from_cell(cell) for column, cell in row.items()} for row in csv.DictReader(file)]
        except (OSError, UnicodeDecodeError, csv.Error, TypeError, AttributeError) as error:
            raise EngineError(
                f"{self.folder / NAMES} is no table of names: {error}. Save the deployment again."
            ) from error

    @property
    def verification(self) -> VerificationRecord | None:
        """What was found when it was verified; None where it was saved without."""
        path = self.folder / "verification.json"
        return VerificationRecord.load(path) if path.name in self.manifest.files else None

    def __call__(self, *inputs: Any, part: str = "") -> tuple[Array, ...]:
        """The outputs of one graph, in its order.

        Args:
            inputs: One array for each of its inputs, in its order.
            part: Path of the submodule; empty for the whole model.

        Raises:
            EngineError: If there is no such part, or the inputs are not what the engine was built for.
        """
        if part not in self.engines:
            known = ", ".join(repr(path) for path in self.engines)
            raise EngineError(f"part={part!r} is not in this deployment. It has {known}.")
        halves = self.manifest.io == "fp16"
        arrays = [np.asarray(value) for value in inputs]
        outputs = self.engines[part].run(
            *[array.astype(np.float16) if halves and array.dtype == np.float32 else array for array in arrays]
        )
        return tuple(
            output.astype(np.float32) if halves and output.dtype == np.float16 else output for output in outputs
        )

    def __repr__(self) -> str:
        facts = self.manifest
        parts = ", ".join(path or "the whole model" for path in self.engines)
        return (
            f"LoadedDeployment({facts.model} on {facts.engine}: {parts}; {facts.quantized} of {facts.layers} layers "
            "quantized)"
        )


def _check_precision(kind: EngineKind, manifest: Manifest) -> None:
    """Nothing, if an engine computes the graphs in the precision that was deployed.

    Raises:
        EngineError: If it does not.
    """
    if manifest.half_graph and not kind.capabilities.runs_written_types:
        raise EngineError(
            f"these graphs are in fp16, and {kind.name} would compute them in fp32: it does not keep to the types in "
            f"its graph. Load them with {manifest.engine!r}."
        )


@checked(EngineError)
def load_deployment(folder: str | Path, *, engine: str | Build | None = None) -> LoadedDeployment:
    """Read a deployment that ``deployed.save`` wrote, and make its engines.

    Torch is not imported where the engine does without it (``openvino``, ``onnxruntime``).

    Args:
        folder: Where it was saved.
        engine: Another engine than it was saved with, by name, or a function that makes one of an ONNX file's bytes;
            None for the same, which is read from its file where it has one and built where it has none.

    Returns:
        Something that is called with NumPy arrays.

    Raises:
        EngineError: If the folder holds no deployment, or a file of it is missing or not as it was written.
        EngineBuildError: If the engine cannot be built.
        MissingPackageError: If the engine's package is not installed.
    """
    place = Path(folder)
    manifest = Manifest.load(place)
    kind = kind_of(manifest.engine if engine is None else engine)
    _check_precision(kind, manifest)
    settings = dict(manifest.settings) if engine is None else {}

    def made(part: PartFiles) -> Engine:
        built = None if part.engine is None or engine is not None else place / part.engine
        graph = (place / part.onnx).read_bytes()
        check_self_contained(graph, part.onnx)
        try:
            return engine_from_files(kind, graph, built, **settings)
        except TypeError as error:
            raise EngineError(
                f"{place} has settings that {kind.name} does not take: {settings!r:.80}: {error}. Save the deployment "
                "again."
            ) from error

    return LoadedDeployment(place, manifest, {part.path: made(part) for part in manifest.parts})
