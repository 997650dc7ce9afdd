"""Finds the family of a network, and connects it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from types import MappingProxyType
from typing import Any

from sensitivity.errors import MissingPackageError, ModelError, TaskError, how_to_install
from sensitivity.tasks.connectors.connected import Connected

FAMILIES = MappingProxyType(
    {
        "torchvision": "from_torchvision",
        "ultralytics": "from_ultralytics",
        "transformers": "from_transformers",
        "effdet": "from_effdet",
        "smp": "from_smp",
        "timm": "from_timm",
    }
)
"""Families by name, and the module of this folder that connects each."""

PACKAGES = MappingProxyType({"segmentation_models_pytorch": "smp"} | {name: name for name in FAMILIES if name != "smp"})
"""Packages that classes of networks come from, and the family of each."""


def surroundings(model: Any, *, family: str | None = None, **settings: Any) -> Connected:
    """What the family of a network puts around it; arguments and errors as of ``sv.connect``."""
    if family is not None and family not in FAMILIES:
        raise TaskError(f"family={family!r} is unknown. Choose one of {', '.join(map(repr, FAMILIES))}.")
    chosen = family or family_of(model)
    if chosen is None:
        raise ModelError(
            f"model= is a {type(model).__module__}.{type(model).__qualname__}, of no family that is known here: "
            f"{', '.join(FAMILIES)}. Name it, family=..., or give preprocess= and adapter= to the task yourself."
        )
    make: Callable[..., Connected] = import_module(f"sensitivity.tasks.connectors.{FAMILIES[chosen]}").connect
    known = [name for name in inspect.signature(make).parameters if name != "model"]
    if unknown := [name for name in settings if name not in known]:
        raise TaskError(f"{unknown[0]}= is no setting of {chosen}. It has {', '.join(known) or 'none'}.")
    try:
        return make(model, **settings)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"connecting a network of {chosen} needs the package {error.name!r}, which is not installed. "
            f"{how_to_install(chosen)}"
        ) from error


def as_connected(model: Any) -> Connected:
    """A network with what its family puts around it, if it is not connected yet.

    Raises:
        SensitivityError: As ``sv.connect`` does.
    """
    return model if isinstance(model, Connected) else surroundings(model)


def family_of(model: Any) -> str | None:
    """The family of a network, by the package that one of its classes comes from; None for others."""
    for kind in type(model).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in PACKAGES:
            return PACKAGES[package]
    return None
