"""What MODEL, TASK and IMAGES make: a wrapped model, a task and images, as several commands need them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sensitivity.cli.arguments import DATASET
from sensitivity.cli.families import FAMILIES, connected_family, names_family
from sensitivity.cli.named import call_named, named
from sensitivity.cli.recipes import RecipeFile
from sensitivity.errors import CalibrationError, EngineError, ModelError, SensitivityError, TaskError

if TYPE_CHECKING:
    import torch

    from sensitivity.contracts import Task
    from sensitivity.deploy.engines.registry import EngineKind
    from sensitivity.records import Recipe
    from sensitivity.tasks.connect import ConnectedModel
    from sensitivity.wrapped import Wrapped


OR_FAMILY = f", or give FAMILY:NAME with a family of {', '.join(FAMILIES)}"


@dataclass(frozen=True)
class NamedModel:
    """A model of the command line.

    Attributes:
        wrapped: The model, in eval mode, with its layers found.
        connected: What its family puts around it; None where no family was named.
    """

    wrapped: Wrapped
    connected: ConnectedModel | None = None


def import_model(options: argparse.Namespace) -> None:
    """Import MODEL's module, which may register engines, observers and formats of its own; nothing is called.

    Raises:
        ModelError: If there is no such module.
    """
    if not names_family(options.model):
        named(options.model, "MODEL", ModelError, instead=OR_FAMILY)


def read_recipes(options: argparse.Namespace) -> None:
    """Read the files that --recipe names and that only MODEL's module makes recipes, which it imports.

    Raises:
        ModelError: If there is no such module.
        RecipeError: If a file holds no recipe.
    """
    argument = getattr(options, "recipe", None)
    recipes = argument if isinstance(argument, list) else [argument]
    if any(isinstance(each, RecipeFile) for each in recipes):
        import_model(options)
        read = [each.read() if isinstance(each, RecipeFile) else each for each in recipes]
        options.recipe = read if isinstance(argument, list) else read[0]


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

    import_model(options)
    if engine not in engine_names():
        raise EngineError(
            f"no engine is called {engine!r}. Choose one of {', '.join(engine_names())}, or one that MODEL's module "
            "registers."
        )
    kind = kind_of(engine)
    if timed and not kind.capabilities.times_layers:
        able = ", ".join(engine_names(timed=True))
        raise EngineError(f"{engine} does not tell the time of single layers. Choose one of {able}.")
    return kind


def made_model(options: argparse.Namespace) -> NamedModel:
    """The model that MODEL makes.

    Raises:
        ModelError: If MODEL makes no module, there are no example inputs, or the device is not there.
        TaskError: If there is no such --connector.
        MissingPackageError: If the package of MODEL's family is not installed.
    """
    from sensitivity.wrapped import Wrapped, wrap

    if names_family(options.model):
        connected = connected_family(options.model, trained=not options.random_weights)
        made: Any = (connected.model, connected.example_inputs)
    else:
        made, connected = call_named(options.model, "MODEL", ModelError, instead=OR_FAMILY), None
    _check_connector(options.connector)  # MODEL's module may have registered it
    if isinstance(made, Wrapped):
        return NamedModel(made, _connected(made.model, options.connector))
    model, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    connected = connected or _connected(model, options.connector)
    if connected is not None:
        model, example = connected.model, connected.example_inputs if example is None else example
    model, example = _placed(
        _checked_module(model, options), _example(example, options), getattr(options, "device", None)
    )
    return NamedModel(wrap(model.eval(), example), connected)


def made_wrapped(options: argparse.Namespace) -> Wrapped:
    """The model of ``made_model``, where no task is scored."""
    return made_model(options).wrapped


def made_task(text: str, named_model: NamedModel, limit: int | None = None) -> Task:
    """The task that a text names.

    Args:
        text: TASK.
        named_model: The model that is scored.
        limit: How many of its images; None for all.

    Raises:
        TaskError: If the text makes no task.
    """
    from sensitivity.contracts import Task
    from sensitivity.tasks.images.first_images import FirstImages

    if _is_dataset(text):
        return _dataset(text, "TASK", named_model, limit, TaskError)
    made = call_named(text, "TASK", TaskError)
    if not isinstance(made, Task):
        raise TaskError(
            f"TASK {text!r} returned {type(made).__name__}, which is no task. Return e.g. sv.CocoDetection."
        )
    return made if limit is None else FirstImages(made, limit)


def made_images(text: str, named_model: NamedModel) -> Any:
    """The calibration images that a text names, or a task with them, or a calibration that was made before.

    Raises:
        CalibrationError: If it makes none.
    """
    from sensitivity.contracts import Task
    from sensitivity.quantize.calibration import Calibration

    if _is_dataset(text):
        return _dataset(text, "IMAGES", named_model, None, CalibrationError)
    made = call_named(text, "IMAGES", CalibrationError)
    if isinstance(made, (Task, Calibration)):
        return made
    if not isinstance(made, Iterable) or isinstance(made, (str, bytes, Mapping)):
        raise CalibrationError(
            f"IMAGES {text!r} returned {type(made).__name__}, which is no images. Return a list of preprocessed "
            "images as the model takes them, or a task."
        )
    return list(made)  # they are run through once for each recipe


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


def add_ranges(named_model: NamedModel, calibration: str | None, recipes: Sequence[Recipe]) -> None:
    """Give a model the ranges that recipes need: those in a calibration, or measured on images."""
    from sensitivity.quantize.calibration import Calibration

    if calibration is None:
        return
    images, wrapped = made_images(calibration, named_model), named_model.wrapped
    if isinstance(images, Calibration):
        wrapped.calibrations.append(images)
        return
    missing = [recipe for recipe in recipes if not any(known.fits(recipe) for known in wrapped.calibrations)]
    if missing:
        wrapped.calibrate(images, missing)


def _check_connector(family: str | None) -> None:
    from sensitivity.tasks.connectors.registry import families

    if family is not None and family not in families():
        raise TaskError(f"--connector {family}: no such family. Choose one of {', '.join(families())}.")


def _connected(model: Any, family: str | None) -> ConnectedModel | None:
    from sensitivity.tasks.connect import connect

    return None if family is None else connect(model, family=family)


def _checked_module(model: Any, options: argparse.Namespace) -> torch.nn.Module:
    import torch

    if not isinstance(model, torch.nn.Module):
        raise ModelError(
            f"MODEL {options.model!r} returned {type(model).__name__}. Return a torch module, or (module, inputs)."
        )
    return model


def _example(example: Any, options: argparse.Namespace) -> Any:
    if options.input is not None:
        return _random_inputs(options.input)
    if example is None:
        raise ModelError(
            f"MODEL {options.model!r} returned a module without example inputs. Return (module, example inputs), or "
            "give their shape: --input 1x3x224x224."
        )
    return example


def _placed(model: torch.nn.Module, example: Any, device: str | None) -> tuple[torch.nn.Module, Any]:
    """A model and its example inputs on a device; None leaves them where they are."""
    import torch
    from torch.utils._pytree import tree_map

    if device is None:
        return model, example
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"--device {device}: torch cannot compute there: {_first_sentence(error)}. Give --device cpu."
        ) from error
    return model.to(device), tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, example)


def _first_sentence(error: BaseException) -> str:
    """What an exception says, without the lists that torch adds to it."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.split(r"\.\s", line, maxsplit=1)[0].rstrip(".")


def _random_inputs(shapes: list[tuple[int, ...]]) -> Any:
    """Values in [0, 1) from a fixed seed: that layers are found depends on the sizes alone."""
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = tuple(torch.rand(sizes, generator=generator) for sizes in shapes)
    return tensors[0] if len(tensors) == 1 else tensors


def _is_dataset(text: str) -> bool:
    return text.startswith(DATASET.partition(":")[0] + ":")


def _dataset(
    text: str, argument: str, named_model: NamedModel, limit: int | None, error: type[SensitivityError]
) -> Task:
    """The task that scores a network of a known family on files."""
    _, images, *labels = text.split(":")
    if named_model.connected is None:
        raise error(
            f"{argument} {text!r} needs to know how MODEL takes images: name MODEL as FAMILY:NAME, or its family with "
            "--connector."
        )
    if not images or len(labels) > 1:
        raise error(f"{argument} {text!r} is not of the form {DATASET}.")
    purpose = named_model.connected.purpose
    if not labels and purpose != "classification":
        kind = "a folder of label maps" if purpose == "semantic segmentation" else "a COCO annotation file"
        raise error(f"{argument} {text!r} lacks LABELS, {kind} for {purpose}: give {DATASET}.")
    settings: dict[str, Any] = {} if limit is None else {"limit": limit}
    return named_model.connected.task(images, *labels, **settings)
