"""The models of the matrix: family and name of each, and how it is made with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tests.matrix import families, plain


@dataclass(frozen=True)
class Subject:
    """A model that is tried.

    Attributes:
        model: In evaluation mode.
        inputs: One example, and two more for calibration and sweep: tensors, or tuples or dicts of tensors.
        parts: Where the raw heads end, as a connector says it; None exports the whole model.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    parts: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Entry:
    """A model by name.

    Attributes:
        family: Where it comes from.
        name: Its name there.
        make: Makes it, with random weights.
    """

    family: str
    name: str
    make: Callable[[], Subject] = field(repr=False)


def entries(chosen: tuple[str, ...] = ()) -> list[Entry]:
    """All entries of some families, or of all; a family whose package is missing has none."""
    tables: dict[str, Callable[[], dict[str, Callable[[], Any]]]] = {
        "plain": plain.models,
        "torchvision detection": families.torchvision_detection,
        "torchvision segmentation": families.torchvision_segmentation,
        "ultralytics": families.ultralytics,
        "transformers": families.transformers,
        "effdet": families.effdet,
        "smp": families.smp,
        "timm": families.timm,
    }
    unknown = [name for name in chosen if name not in tables]
    if unknown:
        raise SystemExit(f"no family {unknown[0]!r}. Choose from {', '.join(tables)}.")
    entries = []
    for family, table in tables.items():
        if chosen and family not in chosen:
            continue
        try:
            listed = table()
        except ImportError:
            continue
        entries += [Entry(family, name, _seeded(make)) for name, make in listed.items()]
    return entries


def _seeded(make: Callable[[], Any]) -> Callable[[], Subject]:
    def subject() -> Subject:
        torch.manual_seed(0)
        model, shape, parts = make()
        draw = torch.Generator().manual_seed(0)
        inputs = tuple(torch.rand(shape, generator=draw) for _ in range(3))
        return Subject(model.eval(), inputs, parts)

    return subject
