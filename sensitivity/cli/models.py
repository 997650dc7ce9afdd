"""The argument MODEL and its inputs, as several commands take them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sensitivity.cli.named import call_named, named
from sensitivity.errors import CalibrationError, EngineError, ModelError, TaskError

if TYPE_CHECKING:
    from sensitivity.contracts import Task
    from sensitivity.deploy.engines.registry import EngineKind
    from sensitivity.wrapped import Wrapped

FORM = "package.module:callable or path.py:callable"


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL and --input."""
    parser.add_argument(
        "model", metavar="MODEL", help=f"{FORM} that returns a torch module, or (module, example inputs)"
    )
    parser.add_argument(
        "--input",
        action="append",
        type=shape,
        metavar="1x3x224x224",
        help="shape of an example input, where MODEL returns none; once for each input",
    )


def add_task(parser: argparse.ArgumentParser) -> None:
    """Add TASK and --calibration."""
    parser.add_argument("task", metavar="TASK", help=f"{FORM} that returns a task: data and metric")
    add_calibration(parser)


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """Add --calibration."""
    parser.add_argument(
        "--calibration",
        metavar="IMAGES",
        help=f"{FORM} that returns preprocessed images, or a task to take them from: needed where activations are "
        "quantized",
    )


def add_layers(parser: argparse.ArgumentParser) -> None:
    """Add --layers."""
    parser.add_argument("--layers", action="append", metavar="PATTERN", help="only these layers, e.g. 'stage3:*:*'")


def shape(text: str) -> tuple[int, ...]:
    """``1x3x224x224`` as numbers."""
    sizes = text.split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape like 1x3x224x224")
    return tuple(int(size) for size in sizes)


def add_engine(parser: argparse.ArgumentParser, option: str, *, help: str, default: str | None = None) -> None:
    """Add an option that takes the name of an engine; ``check_engine`` looks at it when MODEL was imported."""
    parser.add_argument(option, metavar="ENGINE", default=default, help=f"{help}, or one that MODEL's module registers")


def check_engine(options: argparse.Namespace, engine: str, *, timed: bool = False) -> EngineKind:
    """The engine of this name, after MODEL's module was imported, which may register engines of its own.

    Args:
        options: The command line, with MODEL.
        engine: The name.
        timed: Ask for one that tells the time of single layers.

    Raises:
        ModelError: If there is no such module.
        EngineError: If there is no such engine.
    """
    from sensitivity.deploy.engines.registry import engine_names, kind_of

    named(options.model, "MODEL", ModelError)
    kind = kind_of(engine)
    if timed and not kind.capabilities.times_layers:
        able = ", ".join(engine_names(timed=True))
        raise EngineError(f"{engine} does not tell the time of single layers. Choose one of {able}.")
    return kind


def made_wrapped(options: argparse.Namespace) -> Wrapped:
    """The model that MODEL makes, in eval mode, with its layers found.

    Raises:
        ModelError: If MODEL makes no module, or there are no example inputs.
    """
    made = call_named(options.model, "MODEL", ModelError)
    import torch

    from sensitivity.wrapped import Wrapped, wrap

    if isinstance(made, Wrapped):
        return made
    model, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, torch.nn.Module):
        raise ModelError(
            f"MODEL {options.model!r} returned {type(model).__name__}. Return a torch module, or (module, inputs)."
        )
    if options.input is not None:
        example = _random_inputs(options.input)
    if example is None:
        raise ModelError(
            f"MODEL {options.model!r} returned a module without example inputs. Return (module, example inputs), or "
            "give their shape: --input 1x3x224x224."
        )
    return wrap(model.eval(), example)


def made_task(text: str) -> Task:
    """The task that a text names.

    Raises:
        TaskError: If it makes none.
    """
    from sensitivity.contracts import Task

    made = call_named(text, "TASK", TaskError)
    if not isinstance(made, Task):
        raise TaskError(
            f"TASK {text!r} returned {type(made).__name__}, which is no task. Return e.g. sv.CocoDetection."
        )
    return made


def made_images(text: str) -> Any:
    """The calibration images that a text names, or a task with them, or a calibration that was made before.

    Raises:
        CalibrationError: If it makes none.
    """
    from sensitivity.contracts import Task
    from sensitivity.quantize.calibration import Calibration

    made = call_named(text, "IMAGES", CalibrationError)
    if isinstance(made, (Task, Calibration)):
        return made
    if not isinstance(made, Iterable) or isinstance(made, (str, bytes, Mapping)):
        raise CalibrationError(
            f"IMAGES {text!r} returned {type(made).__name__}, which is no images. Return a list of preprocessed "
            "images as the model takes them, or a task."
        )
    return list(made)  # they are run through once for each recipe


def _random_inputs(shapes: list[tuple[int, ...]]) -> Any:
    """Values in [0, 1) from a fixed seed: that layers are found depends on the sizes alone."""
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = tuple(torch.rand(sizes, generator=generator) for sizes in shapes)
    return tensors[0] if len(tensors) == 1 else tensors
