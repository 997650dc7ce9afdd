"""``sensitivity deploy``: export a scheme, build an engine, say what it runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensitivity.cli.models import add_calibration, add_engine, add_model, check_engine, made_images, made_wrapped
from sensitivity.cli.output import Answer, check_place, writing
from sensitivity.deploy.engines.registry import engine_names
from sensitivity.errors import CalibrationError
from sensitivity.records import Recipe, Scheme
from sensitivity.records.files import write_bytes

if TYPE_CHECKING:
    from sensitivity.deploy.deployed import Deployed
    from sensitivity.wrapped import Wrapped


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "deploy",
        help="export a scheme and build an engine of it",
        description="Write a scheme as Q/DQ into an exported model, build an engine, and say what it executes.",
    )
    add_scheme(parser)
    parser.add_argument("--out", type=Path, metavar="MODEL.onnx", help="write the ONNX with Q/DQ")
    parser.add_argument("--json", action="store_true", help="print JSON: what the engine executes")
    parser.set_defaults(run=run)


def add_scheme(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, SCHEME.json, --engine, --parts and --calibration."""
    add_model(parser)
    parser.add_argument("scheme", type=Path, metavar="SCHEME.json", help="what protect wrote")
    add_engine(parser, "--engine", default="openvino", help=f"{', '.join(engine_names())} (default: %(default)s)")
    parser.add_argument(
        "--parts",
        nargs="+",
        action="extend",
        metavar="PATH",
        help="submodules that the engine runs, e.g. image_encoder; the others stay in PyTorch (default: the whole "
        "model, or what of it can be exported)",
    )
    add_calibration(parser)


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
        "written": written,
    }
    lines = [str(deployed)]
    for name, nodes in layers.items():
        lines.append(f"  {name}: {' '.join(dict.fromkeys(executed.get(node) or 'not told' for node in nodes))}")
    return Answer("\n".join([*lines, *(f"wrote {path}" for path in written)]), plain)


def made_deployed(options: argparse.Namespace) -> tuple[Wrapped, Deployed]:
    """The model of the command line, calibrated as the scheme needs, and deployed.

    Raises:
        RecipeError: If there is no such scheme.
        EngineError: If there is no such engine.
        CalibrationError: If it quantizes activations and no images were named.
    """
    check_engine(options, options.engine)
    scheme = Scheme.load(options.scheme)
    needy = needing_images(scheme.recipes, options.calibration)
    wrapped = made_wrapped(options)
    if needy:
        calibrate(wrapped, made_images(options.calibration), needy)
    return wrapped, wrapped.deploy(scheme, options.engine, parts=options.parts)


def needing_images(recipes: Iterable[Recipe], calibration: str | None) -> list[Recipe]:
    """The recipes that need ranges.

    Raises:
        CalibrationError: If there are some, and --calibration names no images.
    """
    needy = [recipe for recipe in recipes if recipe.needs_calibration]
    if needy and calibration is None:
        raise CalibrationError(
            f"recipe {needy[0].name} quantizes activations and needs images to measure their ranges on: give "
            "--calibration package.module:callable, other images than the task's own where there are some."
        )
    return needy


def calibrate(wrapped: Wrapped, images: Any, recipes: Sequence[Recipe]) -> None:
    """Give a model the ranges that recipes need: those in a calibration, or measured on images."""
    from sensitivity.quantize.calibration import Calibration

    if isinstance(images, Calibration):
        wrapped.calibrations.append(images)
        return
    missing = [recipe for recipe in recipes if not any(known.fits(recipe) for known in wrapped.calibrations)]
    if missing:
        wrapped.calibrate(images, missing)


def _written(deployed: Deployed, out: Path) -> list[str]:
    """Write the graph, or one for each exported part, and give the paths."""
    paths = []
    for part in deployed.parts:
        path = out if len(deployed.parts) == 1 else out.with_stem(f"{out.stem}-{part.path}")
        with writing(path):
            write_bytes(path, part.qdq.graph.SerializeToString())
        paths.append(str(path))
    return paths
