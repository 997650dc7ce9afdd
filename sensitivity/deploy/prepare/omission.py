"""Layers that a scheme quantizes and a plan does not, each with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OmissionKind(StrEnum):
    """Why a layer is not quantized, as far as code decides on it."""

    LEFT_IN_FLOAT = "left in float"
    """The plan leaves it in float: no calibration image reached it, or the engine runs it badly in int8."""

    NOT_EXPORTED = "simulated only"
    """No exported graph holds it, so that it runs in PyTorch, in float."""


@dataclass(frozen=True, slots=True)
class Omission:
    """One layer that is not quantized although the scheme asks for it.

    Attributes:
        kind: What code decides on.
        reason: The same for people, without the kind.
    """

    kind: OmissionKind
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.kind is OmissionKind.NOT_EXPORTED else self.reason
