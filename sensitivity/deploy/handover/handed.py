"""What is handed over: settings and the lines that use them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from sensitivity.deploy.handover.placed import Placed


@dataclass(frozen=True, repr=False)
class Handover:
    """A scheme in the words of another tool.

    Attributes:
        tool: Name of the tool.
        settings: What the tool is told, as plain values that JSON can hold.
        code: Python lines to paste; they read ``settings`` from a variable of that name.
        notes: What the tool does otherwise than the scheme says, in sentences.
        quantized: Paths of the modules that the tool should quantize.
        protected: Paths of the modules that it should leave in float.
    """

    tool: str
    settings: Mapping[str, Any]
    code: str
    notes: tuple[str, ...] = ()
    quantized: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, placed: Placed, tool: str, settings: Mapping[str, Any], code: str, notes: tuple[str, ...] = ()
    ) -> Handover:
        """What a tool is told about the layers of a model.

        Args:
            placed: Which layers are quantized, and which are left in float.
            tool: Name of the tool.
            settings: What it is told.
            code: Python lines to paste.
            notes: What it does otherwise.
        """
        quantized, protected = ([layer.module for layer in layers] for layers in (placed.quantized, placed.protected))
        return cls(tool, settings, code, notes, tuple(quantized), tuple(protected))

    def __repr__(self) -> str:
        counts = f"{len(self.quantized)} layers quantized, {len(self.protected)} left in float"
        head = f"Handover to {self.tool}: {counts}"
        return "\n".join([head, *(f"  note: {note}" for note in self.notes), *_indented(self.code)])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "tool": self.tool,
            "settings": deepcopy(dict(self.settings)),
            "code": self.code,
            "notes": list(self.notes),
            "quantized": list(self.quantized),
            "protected": list(self.protected),
        }


def _indented(code: str) -> list[str]:
    return [f"  {line}".rstrip() for line in code.splitlines()]
