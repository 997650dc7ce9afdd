"""In which modules of a model the nodes of its graph run, as the exporters wrote it down."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import nn

from sensitivity.deploy.graph.export.names import CORE

if TYPE_CHECKING:
    from onnx import NodeProto

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where dynamo keeps the paths of the modules around an operator, outermost first, and the operator's own name."""


class Scopes:
    """Finds the module that a node runs in.

    Args:
        model: The model; modules are called by the first of their paths.
        part: Path of the exported submodule; empty for the whole model.
    """

    def __init__(self, model: nn.Module, part: str) -> None:
        first = {id(module): path for path, module in model.named_modules()}
        every = model.named_modules(remove_duplicate=False)
        self._first: Mapping[str, str] = {path: first[id(module)] for path, module in every}
        self._part = part

    def module_of(self, node: NodeProto) -> str | None:
        """Path of the innermost module around a node; None where the exporter did not write it down."""
        properties: Mapping[str, str] = {entry.key: entry.value for entry in node.metadata_props}
        if _SCOPES in properties:
            steps: list[str] = ast.literal_eval(properties[_SCOPES])
            return self._known(reversed(steps[:-1]))
        if node.name.startswith("/"):  # the older exporter: /core/blocks/blocks.0/fc/Gemm
            return self._known(_dotted(node.name.split("/")[1:-1]))
        return None

    def _known(self, paths: Iterable[str]) -> str | None:
        """The first of some paths, innermost first, that is a module of the model."""
        for path in paths:
            if f"{path}.".startswith(CORE):
                inside = path.removeprefix(CORE.rstrip("."))
                whole: str = f"{self._part}{inside}".strip(".")
                if whole in self._first:
                    return self._first[whole]
        return None


def _dotted(steps: list[str]) -> list[str]:
    """Paths of the modules that the older exporter names, innermost first.

    It names a module by its own name, and one in a container by the container's as well: ``blocks/blocks.0/fc`` is
    ``blocks``, ``blocks.0`` and ``blocks.0.fc``.
    """
    paths: list[str] = []
    outer: list[str] = []
    for step in steps:
        names = step.split(".")
        repeated = next((n for n in range(len(names) - 1, 0, -1) if outer[-n:] == names[:n]), 0)
        outer = [*outer, *names[repeated:]]
        paths.insert(0, ".".join(outer))
    return paths
