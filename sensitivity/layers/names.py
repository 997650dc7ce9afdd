"""Names ``stage:block:layer``: one naming scheme for a model family, one that fits any model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from sensitivity.errors import ModelError

Place = tuple[str, int]
NamingScheme = Callable[[Sequence[str]], Sequence[Place | None]]
"""Module paths in execution order to (stage, block) of each; None leaves a module to the general scheme."""

_BACKBONE = re.compile(r"(?:^|\.)backbone\.stages\.(\d+)\.op_list\.(\d+)\.")
_NECK = re.compile(r"(?:^|\.)neck\.(input_ops|middle\.op_list|output_ops)\.(\d+)\.")


def name_layers(paths: Sequence[str], naming: NamingScheme | None = None) -> list[str]:
    """A unique name for every module.

    Args:
        paths: Module paths in execution order.
        naming: A naming scheme of the user's own; where it gives None, the built-in ones decide.

    Returns:
        Names ``stage:block:layer``, layers counted in execution order within their block.

    Raises:
        ModelError: If the naming scheme does not give one place for each path.
    """
    own = list(naming(paths)) if naming else [None] * len(paths)
    if len(own) != len(paths):
        raise ModelError(f"the naming scheme gave {len(own)} places for {len(paths)} modules: give one each, or None.")
    family, general = efficientvit_names(paths), general_names(paths)
    seen: Counter[Place] = Counter()
    names = []
    for mine, known, fallback in zip(own, family, general, strict=True):
        stage, block = mine or known or fallback
        place = (stage.replace(":", "."), int(block))
        names.append(f"{place[0]}:{place[1]}:{seen[place]}")
        seen[place] += 1
    return names


def efficientvit_names(paths: Sequence[str]) -> list[Place | None]:
    """Places in EfficientViT and EfficientViT-SAM: ``stage0`` ... ``stage4`` and ``neck``.

    The neck's blocks are counted through: its input convolutions first, then its middle blocks, then its output.
    """
    matches = [_NECK.search(path) for path in paths]
    counts = dict.fromkeys(("input_ops", "middle.op_list", "output_ops"), 0)
    for match in filter(None, matches):
        counts[match[1]] = max(counts[match[1]], int(match[2]) + 1)
    first = {"input_ops": 0, "middle.op_list": counts["input_ops"]}
    first["output_ops"] = first["middle.op_list"] + counts["middle.op_list"]
    places: list[Place | None] = []
    for path, neck in zip(paths, matches, strict=True):
        backbone = _BACKBONE.search(path)
        if backbone:
            places.append((f"stage{backbone[1]}", int(backbone[2])))
        else:
            places.append(("neck", first[neck[1]] + int(neck[2])) if neck else None)
    return places


def general_names(paths: Sequence[str]) -> list[Place]:
    """Places in any model, from the module paths alone.

    The first number in a path is the block and what stands before it the stage (``backbone.layer3.0.conv1`` is in
    block 0 of ``backbone.layer3``). Where the numbered thing is itself a row of blocks of several layers each
    (``stages.3.blocks.2``), the inner number is the block. A path without a number, and a plain row of numbered layers
    (``head.0``, ``head.3``), is block 0 of its parent.
    """
    layers_below: Counter[str] = Counter()
    children: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split(".")
        for depth in range(1, len(parts) + 1):
            prefix = ".".join(parts[:depth])
            layers_below[prefix] += 1
            children.setdefault(".".join(parts[: depth - 1]), set()).add(prefix)
    plain_rows = {row for row, below in children.items() if below.isdisjoint(children)}
    return [_general_place(path, layers_below, children, plain_rows) for path in paths]


def _general_place(path: str, layers_below: Counter[str], children: dict[str, set[str]], plain_rows: set[str]) -> Place:
    parts = path.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    if not numbers:
        return ".".join(parts[:-1]) or parts[0] or "model", 0
    chosen, stage_end = numbers[0], numbers[0]
    for deeper in numbers[1:]:
        row = ".".join(parts[:deeper])
        if layers_below[row] < 2 * len(children[row]):
            break
        chosen, stage_end = deeper, chosen + 1
    row = ".".join(parts[:chosen])
    if row in plain_rows:
        return row or "layers", 0
    return ".".join(parts[:stage_end]) or "layers", int(parts[chosen])
