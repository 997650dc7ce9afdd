"""Number formats as values: what codes a format has, and what they mean at scale one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sensitivity.errors import RecipeError

LOG2_TOP_CODE = 7
"""Largest code of ``log2``: it stands for the scale itself, each code below it for half of the one above."""


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """A set of codes and what they mean.

    Attributes:
        name: Name in a ``QuantSpec``.
        kind: ``integer``: a value is (code - zero point) * scale. ``float``: a code is an 8-bit floating-point number,
            a value is code * scale. ``log``: a value is sign(code) * 2 ** (abs(code) - 7) * scale, and 0 for code 0.
        bits: Bits of one code.
        qmin: Smallest code (``integer``, ``log``) or most negative finite number (``float``).
        qmax: Largest code or number.
        dtype: Tensor type that holds the codes; one code an element, also below 8 bits.

    Source:
        fp8: Micikevicius et al. 2022, "FP8 formats for deep learning" (E4M3 without infinities, largest 448; E5M2,
        largest 57344). log2: Miyashita et al. 2016, "Convolutional neural networks using logarithmic data
        representation", eq. 2-4, with a sign bit and a free scale in place of the power-of-two full-scale range.
    """

    name: str
    kind: Literal["integer", "float", "log"]
    bits: int
    qmin: int
    qmax: int
    dtype: torch.dtype

    @property
    def is_float(self) -> bool:
        """Whether codes are floating-point numbers."""
        return self.kind == "float"

    @property
    def is_signed(self) -> bool:
        """Whether the format has codes below zero."""
        return self.qmin < 0

    @property
    def largest(self) -> int:
        """Largest value at scale one: the scale is the largest absolute value to be held, divided by this."""
        return 1 if self.kind == "log" else self.qmax

    def code_range(self, *, narrow: bool = False) -> tuple[int, int]:
        """Smallest and largest code in use.

        Args:
            narrow: Leave out the one code of a signed integer format that has no positive counterpart, e.g. -128.
        """
        return (-self.qmax if narrow and self.kind == "integer" and self.is_signed else self.qmin), self.qmax


def _signed(bits: int) -> NumberFormat:
    dtype = torch.int8 if bits <= 8 else torch.int16
    return NumberFormat(f"int{bits}", "integer", bits, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, dtype)


_FORMATS = {
    one.name: one
    for one in (
        *(_signed(bits) for bits in (2, 3, 4, 5, 6, 7, 8, 16)),
        NumberFormat("uint8", "integer", 8, 0, 255, torch.uint8),
        NumberFormat("fp8_e4m3", "float", 8, -448, 448, torch.float8_e4m3fn),
        NumberFormat("fp8_e5m2", "float", 8, -57344, 57344, torch.float8_e5m2),
        NumberFormat("log2", "log", 4, -LOG2_TOP_CODE, LOG2_TOP_CODE, torch.int8),
    )
}


def find_format(name: str) -> NumberFormat:
    """The number format of this name.

    Raises:
        RecipeError: If there is none.

    Example:
        >>> find_format("int8").code_range(narrow=True)
        (-127, 127)
    """
    if name not in _FORMATS:
        raise RecipeError(f"number format {name!r} is not known. Choose one of: {', '.join(_FORMATS)}.")
    return _FORMATS[name]
