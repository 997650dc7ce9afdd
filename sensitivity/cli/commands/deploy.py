"""``sensitivity deploy``: export a scheme, build an engine, say what it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sensitivity.cli.arguments import add_json, add_scheme
from sensitivity.cli.models import NamedModel, add_ranges, check_engine, made_model, needing_images
from sensitivity.cli.output import Answer, check_place, writing
from sensitivity.records import Scheme
from sensitivity.records.storage.files import write_bytes

if TYPE_CHECKING:
    from sensitivity.deploy.deployed import Deployed


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "deploy",
        help="export a scheme and build an engine of it",
        description="Write a scheme as Q/DQ into an exported model, build an engine, and say what it executes.",
    )
    add_scheme(parser)
    parser.add_argument("--out", type=Path, metavar="MODEL.onnx", help="write the ONNX with Q/DQ")
    add_json(parser, "what the engine executes")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    check_place(options.out)
    _, deployed = made_deployed(options)
    written = [] if options.out is None else _written(deployed, options.out)
    operations = [layer for engine in deployed.engines for layer in engine.layer_info()]
    executed = {node: layer.precision for layer in operations for node in layer.nodes}
    layers = {name: nodes for part in deployed.parts for name, nodes in part.qdq.nodes.items()}
    plain = {
        "engine": deployed.name,
        "executed": {name: [executed.get(node) for node in nodes] for name, nodes in layers.items()},
        "left_out": dict(deployed.plan.left_out),
        "not_exported": [str(attempt) for attempt in deployed.attempts],
        "on_example": [
            {"output": check.name, "sqnr_db": check.sqnr_db, "simulation_sqnr_db": check.simulation_sqnr_db}
            for check in deployed.on_example
        ],
        "written": written,
    }
    lines = [str(deployed)]
    for name, nodes in layers.items():
        lines.append(f"  {name}: {' '.join(dict.fromkeys(executed.get(node) or 'not told' for node in nodes))}")
    return Answer("\n".join([*lines, *(f"wrote {path}" for path in written)]), plain)


def made_deployed(options: argparse.Namespace) -> tuple[NamedModel, Deployed]:
    """The model of the command line, calibrated as the scheme needs, and deployed.

    Raises:
        RecipeError: If there is no such scheme.
        EngineError: If there is no such engine.
        CalibrationError: If it quantizes activations and no images were named.
    """
    check_engine(options, options.engine)
    scheme = Scheme.load(options.scheme)
    needy = needing_images(scheme.recipes, options.calibration)
    model = made_model(options)
    add_ranges(model, options.calibration if needy else None, needy)
    parts = options.parts or (None if model.connected is None else model.connected.parts)
    return model, model.wrapped.deploy(scheme, options.engine, parts=parts)


def _written(deployed: Deployed, out: Path) -> list[str]:
    """Write the graph, or one for each exported part, and give the paths."""
    paths = []
    for part in deployed.parts:
        path = out if len(deployed.parts) == 1 else out.with_stem(f"{out.stem}-{part.path}")
        with writing(path):
            write_bytes(path, part.qdq.graph.SerializeToString())
        paths.append(str(path))
    return paths
