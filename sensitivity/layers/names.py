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
    """Places in any model, from the module paths in execution order.

    The first number in a path is the block and what stands before it the stage (``backbone.layer3.0.conv1`` is in
    block 0 of ``backbone.layer3``). A number behind ``layer`` or ``block`` counts as well (``denselayer2``), from zero.
    Where the numbered thing is itself a row of blocks of several layers each (``stages.3.blocks.2``), the
    inner number is the block and the numbered thing the stage; where it holds several such rows, each of them is a
    stage (``model.22.cv2``), and what it holds beside them is one by itself (``stages.3.downsample``). A numbered thing
    with layers in front of such a row and behind it is a block as a whole (a CSP block). A path without a number, and a
    plain row of numbered layers (``head.0``, ``head.3``), is block 0 of its parent.
    """
    tree = _Tree(paths)
    return [tree.place_of(path) for path in paths]


_COUNTED = re.compile(r"(.*(?:layer|block)_?)(\d+)$")


class _Tree:
    """The modules that hold layers, by path, with the layers below each.

    Args:
        paths: Module paths of the layers in execution order.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._children: dict[str, dict[str, None]] = {}
        self._below: dict[str, list[int]] = {}
        self._known_rows: dict[str, bool] = {}
        self._known_rows_in: dict[str, list[str]] = {}
        self._known_siblings: dict[tuple[str, str], dict[str, int]] = {}
        for number, path in enumerate(paths):
            parts = path.split(".")
            for depth in range(1, len(parts) + 1):
                prefix = ".".join(parts[:depth])
                self._below.setdefault(prefix, []).append(number)
                self._children.setdefault(".".join(parts[: depth - 1]), {})[prefix] = None
        self._plain_rows = {row for row, below in self._children.items() if below.keys().isdisjoint(self._children)}

    def place_of(self, path: str) -> Place:
        """Stage and block of a layer."""
        parts = path.split(".")
        counted = [depth for depth in range(len(parts)) if self._siblings(parts, depth)]
        if not counted:
            return ".".join(parts[:-1]) or parts[0] or "model", 0
        chosen, stage = counted[0], ".".join(parts[: counted[0]])
        for deeper in counted[1:]:
            item, row = ".".join(parts[: chosen + 1]), ".".join(parts[:deeper])
            rows = self._rows_in(item)
            if row not in rows:
                break
            chosen, stage = deeper, item if len(rows) == 1 else row
        item = ".".join(parts[: chosen + 1])
        if self._rows_in(item):
            return ".".join(parts[: chosen + 2]), 0
        siblings = self._siblings(parts, chosen)
        if ".".join(parts[:chosen]) in self._plain_rows:
            return ".".join(parts[:chosen]) or "layers", 0
        return stage or "layers", siblings[item]

    def _siblings(self, parts: Sequence[str], depth: int) -> dict[str, int]:
        """The blocks of the row that one part of a path counts, with their numbers; none where it counts none."""
        parent, match = ".".join(parts[:depth]), _COUNTED.match(parts[depth])
        stem = "" if parts[depth].isdigit() else match[1] if match is not None and parent else None
        if stem is None:
            return {}
        if (parent, stem) not in self._known_siblings:
            self._known_siblings[parent, stem] = self._siblings_with(parent, stem)
        return self._known_siblings[parent, stem]

    def _siblings_with(self, parent: str, stem: str) -> dict[str, int]:
        if not stem:
            return {path: int(name) for path in self._children[parent] if (name := _last(path)).isdigit()}
        matches = {path: _COUNTED.match(_last(path)) for path in self._children[parent]}
        numbers = {path: int(one[2]) for path, one in matches.items() if one is not None and one[1] == stem}
        if len(numbers) == 1 or any(
            len(self._below[path]) < _LEAST_LAYERS or self._holds_row(path) for path in numbers
        ):
            return {}
        first = min(numbers.values())
        return {path: number - first for path, number in numbers.items()}

    def _holds_row(self, path: str) -> bool:
        """Whether a module holds a numbered row of blocks, at any depth."""
        return self._is_row(path) or any(self._holds_row(child) for child in self._children.get(path, {}))

    def _is_row(self, path: str) -> bool:
        """Whether a module is a numbered row of things that hold several layers each."""
        if path not in self._known_rows:
            numbered = self._numbered_children(path)
            layers = sum(len(self._below[child]) for child in numbered)
            self._known_rows[path] = bool(numbered) and layers >= _LEAST_LAYERS * len(numbered)
        return self._known_rows[path]

    def _numbered_children(self, path: str) -> dict[str, int]:
        for child in self._children.get(path, {}):
            parts = child.split(".")
            if siblings := self._siblings(parts, len(parts) - 1):
                return siblings
        return {}

    def _rows_in(self, item: str) -> list[str]:
        """The outermost rows of blocks in a numbered thing; none where that is a block with layers around them."""
        if item not in self._known_rows_in:
            self._known_rows_in[item] = self._found_rows_in(item)
        return self._known_rows_in[item]

    def _found_rows_in(self, item: str) -> list[str]:
        rows: list[str] = []
        waiting = [item]
        while waiting:
            current = waiting.pop()
            if self._is_row(current):
                rows.append(current)
            else:
                waiting += self._children.get(current, {})
        inside = {number for row in rows for child in self._numbered_children(row) for number in self._below[child]}
        outside = [number for number in self._below[item] if number not in inside]
        wraps = bool(inside and outside) and min(outside) < min(inside) and max(outside) > max(inside)
        return [] if wraps else rows


_LEAST_LAYERS = 2
"""Of a block in a row of blocks, on average."""


def _last(path: str) -> str:
    return path.rpartition(".")[2]
