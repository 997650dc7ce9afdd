"""Read trained weights from a file and say clearly why they do not fit a model."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sensitivity.errors import ModelError

LISTED_KEYS = 3

DAMAGE = (
    safetensors.SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)
"""What the two readers raise on damaged bytes: torch's unpickler interprets them before it doubts them."""


def read_state_dict(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read the weights in a file without running code from it.

    Args:
        path: a ``.safetensors`` file, or one written by ``torch.save`` with the state dict itself or with a dict that
            holds it under ``"state_dict"`` or ``"model"``.

    Returns:
        Tensors by key, on the CPU.

    Raises:
        ModelError: the file is missing, damaged, or holds something else.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"no checkpoint file at {str(file)!r}. Give the path of a .safetensors or torch file.")
    try:
        content = _read(file)
    except DAMAGE as error:
        raise ModelError(
            f"cannot read {str(file)!r} as a checkpoint: {error}. Expected a .safetensors file or one of torch.save "
            "that holds tensors only; download it again, or save model.state_dict() anew."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(
            f"{str(file)!r} holds {_describe(content)}, expected a state dict (tensors by key) or a dict with "
            "one under 'state_dict' or 'model'. Save model.state_dict()."
        )
    return dict(content)


def _read(file: Path) -> object:
    if file.suffix == ".safetensors":
        tensors: object = safetensors.torch.load_file(file)
        return tensors
    content: object = torch.load(file, map_location="cpu", weights_only=True)
    return content


def _describe(content: object) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    strangers = (f"{key!r} ({type(value).__name__})" for key, value in content.items() if not isinstance(value, Tensor))
    return "a dict with " + _first(strangers)


@dataclass(frozen=True)
class Mismatch:
    """Where a file's weights differ from what a model expects.

    Args:
        missing: keys that the model has and the file lacks.
        unexpected: keys that the file has and the model lacks.
        misshaped: keys of both, with the file's shape and the model's.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]

    @classmethod
    def between(cls, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mismatch:
        """Compare keys and shapes of what a model expects with what a file gives."""
        misshaped = (
            f"{key} {tuple(state[key].shape)} for {tuple(expected[key].shape)}"
            for key in expected
            if key in state and state[key].shape != expected[key].shape
        )
        return cls(
            missing=tuple(key for key in expected if key not in state),
            unexpected=tuple(key for key in state if key not in expected),
            misshaped=tuple(misshaped),
        )

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    def __str__(self) -> str:
        """Count each sort of difference and name the first few keys of it."""
        parts = {"missing": self.missing, "unexpected": self.unexpected, "mis-shaped": self.misshaped}
        return "; ".join(f"{len(keys)} {sort}: {_first(keys)}" for sort, keys in parts.items() if keys)


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:LISTED_KEYS]) + (", ..." if len(listed) > LISTED_KEYS else "")
