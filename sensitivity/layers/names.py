"""Names ``stage:block:layer``: one naming scheme for a model family, one that fits any model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

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
    for by_scheme, known, fallback in zip(own, family, general, strict=True):
        stage, block = by_scheme or known or fallback
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
    block 0 of ``backbone.layer3``). A number behind ``layer`` or ``block`` counts as well (``denselayer2``,
    ``block3-1``), from zero. A numbered thing may hold numbered rows of blocks itself:

    - If it is such a row (``features.3.0``), or all its neighbours hold one as well (``stages.3.blocks.2``), it is the
      stage and the inner number the block; what it holds beside the row is a stage of its own
      (``stages.3.downsample``).
    - If it holds several rows, each of blocks that are alike (the branches of a head, ``model.22.cv2``), each row is a
      stage.
    - Else, and where it has layers in front of a row of plain blocks and behind it, it is a block as a whole (a CSP
      block).

    A path without a number, and a plain row of numbered layers (``head.0``, ``head.3``), is block 0 of its parent, or
    of the module around where that holds nothing but single layers in wrappers (``Mixed_5b.branch1x1.conv``).
    """
    tree = _Tree(paths)
    return [tree.place_of(path) for path in paths]


_COUNTED = re.compile(r"(.*(?:layer|block)(?:\d+[-_])?_?)(\d+)$")


class _Tree:
    """The modules that hold layers, by path, with the layers below each.

    Args:
        paths: Module paths of the layers in execution order.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
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
            return self._container_of(parts), 0
        chosen, stage = counted[0], ".".join(parts[: counted[0]])
        for deeper in counted[1:]:
            item, row = ".".join(parts[: chosen + 1]), ".".join(parts[:deeper])
            rows = self._rows_in(item, self._siblings(parts, chosen))
            if row not in rows:
                break
            chosen, stage = deeper, item if len(rows) == 1 else row
        item = ".".join(parts[: chosen + 1])
        siblings = self._siblings(parts, chosen)
        if self._rows_in(item, siblings):
            return ".".join(parts[: chosen + 2]), 0
        if (row := ".".join(parts[:chosen])) in self._plain_rows:
            return self._container_of(parts) if len(self._below.get(row, [])) == 1 else row or "layers", 0
        return stage or "layers", siblings[item]

    def _container_of(self, parts: Sequence[str]) -> str:
        """The stage of a layer whose path has no number: its parent, or what holds nothing but such parents."""
        parent, outer = ".".join(parts[:-1]), ".".join(parts[:-2])
        if outer and all(self._depth(child) <= 1 and len(self._below[child]) == 1 for child in self._children[outer]):
            return outer
        return parent or parts[0] or "model"

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
        numbers = {path: int(match[2]) for path, match in matches.items() if match is not None and match[1] == stem}
        blocks = all(len(self._below[path]) >= _LEAST_LAYERS and not self._holds_row(path) for path in numbers)
        single = len(numbers) == 1 and not re.search(r"\d", stem)
        if single or not blocks:
            return {}
        first = min(numbers.values())
        return {path: number - first for path, number in numbers.items()}

    def _holds_row(self, path: str) -> bool:
        """Whether a module holds a numbered row of blocks, at any depth."""
        return self._is_row(path) or any(self._holds_row(child) for child in self._children.get(path, {}))

    def _is_row(self, path: str) -> bool:
        """Whether a module is a numbered row of things that hold several layers each.

        A numbered row may also be of things that hold one layer deep inside (``features.1.0.block.0.0``).
        """
        if path not in self._known_rows:
            numbered = self._numbered_children(path)
            layers = sum(len(self._below[child]) for child in numbered)
            deep = _last(path).isdigit() and all(self._depth(child) >= _LEAST_DEPTH for child in numbered)
            self._known_rows[path] = bool(numbered) and (deep or layers >= _LEAST_LAYERS * len(numbered))
        return self._known_rows[path]

    def _depth(self, path: str) -> int:
        """How many modules stand above the deepest layer in a module."""
        return max((1 + self._depth(child) for child in self._children.get(path, {})), default=0)

    def _numbered_children(self, path: str) -> dict[str, int]:
        for child in self._children.get(path, {}):
            parts = child.split(".")
            if siblings := self._siblings(parts, len(parts) - 1):
                return siblings
        return {}

    def _rows_in(self, item: str, siblings: Collection[str]) -> list[str]:
        """The rows of blocks that make a numbered thing a stage, or several; none where it is a block as a whole."""
        if item not in self._known_rows_in:
            self._known_rows_in[item] = self._rows_that_count(item, siblings)
        return self._known_rows_in[item]

    def _rows_that_count(self, item: str, siblings: Collection[str]) -> list[str]:
        rows = self._outermost_rows(item)
        if rows == [item] and self._is_row_of_numbers(item):
            return rows
        if not rows and self._is_plain_stage(item, siblings):
            return [item]
        surrounded = bool(rows) and self._surrounds(item, rows)
        several = sum(self._are_alike(self._numbered_children(row)) for row in rows) > 1
        if several and not (surrounded and self._are_alike(siblings)):
            return rows
        if not rows or (surrounded and not self._are_nested(rows, siblings)):
            return []
        large = (path for path in siblings if len(self._below[path]) >= _LEAST_LAYERS)
        return rows if all(self._holds_row(path) for path in large) else []

    def _are_nested(self, rows: Sequence[str], siblings: Collection[str]) -> bool:
        """Whether every block of some rows holds a row itself, and so does every neighbour of what holds the rows."""
        blocks = [block for row in rows for block in self._numbered_children(row)]
        return len(siblings) > 1 and all(self._holds_row(path) for path in (*blocks, *siblings))

    def _is_plain_stage(self, item: str, siblings: Iterable[str]) -> bool:
        """Whether all that a numbered thing holds are numbered modules, and a neighbour is a row of blocks."""
        children = self._children.get(item, {})
        if not children or not all(_last(child).isdigit() and self._depth(child) for child in children):
            return False
        return any(self._outermost_rows(path) == [path] and self._is_row_of_numbers(path) for path in siblings)

    def _is_row_of_numbers(self, path: str) -> bool:
        return all(_last(child).isdigit() for child in self._numbered_children(path))

    def _outermost_rows(self, item: str) -> list[str]:
        rows: list[str] = []
        waiting = [item]
        while waiting:
            current = waiting.pop()
            if self._is_row(current):
                rows.append(current)
            else:
                waiting += self._children.get(current, {})
        return rows

    def _surrounds(self, item: str, rows: Sequence[str]) -> bool:
        """Whether a numbered thing has layers in front of its rows and behind them."""
        inside = {number for row in rows for child in self._numbered_children(row) for number in self._below[child]}
        outside = [number for number in self._below[item] if number not in inside]
        return bool(outside) and min(outside) < min(inside) and max(outside) > max(inside)

    def _are_alike(self, blocks: Iterable[str]) -> bool:
        """Whether there are several blocks, all with the same layers inside."""
        layers = [frozenset(self._paths[number][len(block) :] for number in self._below[block]) for block in blocks]
        return len(layers) > 1 and len(set(layers)) == 1


_LEAST_LAYERS = 2
"""Of a block in a row of blocks, on average."""

_LEAST_DEPTH = 2
"""Of the layer in a block of one layer: a convolution in a sequence with its norm stands at depth 1."""


def _last(path: str) -> str:
    return path.rpartition(".")[2]
