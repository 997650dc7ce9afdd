"""Number formats as values: what codes a format has, and what they mean at scale one. One registry holds them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sensitivity.errors import RecipeError
from sensitivity.records.arguments import checked
from sensitivity.records.recipes.registry import Registry

FormatKind = Literal["integer", "float", "log"]
INTEGER_TYPES = {"int8": (-(2**7), 2**7 - 1), "uint8": (0, 2**8 - 1), "int16": (-(2**15), 2**15 - 1)}
"""Tensor types that can hold integer codes, with their smallest and largest number."""

LARGEST_LOG_CODE = 63


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """A set of codes and what they mean.

    Attributes:
        name: Name in a ``QuantSpec``.
        kind: ``integer``: a value is (code - zero point) * scale. ``float``: a code is a floating-point number, a value
            is code * scale. ``log``: a value is sign(code) * 2 ** (abs(code) - qmax) * scale, and 0 for code 0.
        bits: Bits of one code as stored.
        qmin: Smallest code (``integer``, ``log``) or most negative finite number (``float``).
        qmax: Largest code or number.
        dtype: Name of the torch type that holds the codes, such as ``int8`` or ``float8_e4m3fn``; one code an element,
            also below 8 bits. A ``float`` format rounds as a conversion to this type does.

    Raises:
        RecipeError: If the parts contradict each other, e.g. the codes do not fit the bits.

    Source:
        fp8: Micikevicius et al. 2022, "FP8 formats for deep learning" (E4M3 without infinities, largest 448; E5M2,
        largest 57344). log2: Miyashita et al. 2016, "Convolutional neural networks using logarithmic data
        representation", eq. 2-4, with a sign bit and a free scale in place of the power-of-two full-scale range.
    """

    name: str
    kind: FormatKind
    bits: int
    qmin: int
    qmax: int
    dtype: str

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in get_args(FormatKind):
            kinds = ", ".join(get_args(FormatKind))
            raise RecipeError(f"{self._label} has kind={self.kind!r}. Choose one of: {kinds}.")
        numbers = {"bits": self.bits, "qmin": self.qmin, "qmax": self.qmax}
        for setting, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int):
                raise RecipeError(f"{self._label} has {setting}={number!r}. Give a whole number.")
        if self.bits < 1 or not self.qmin <= 0 < self.qmax:
            raise RecipeError(
                f"{self._label} has bits={self.bits}, qmin={self.qmin}, qmax={self.qmax}. Give at least one bit, "
                "and qmin <= 0 < qmax: every format has a code for zero and one above it."
            )
        if self.kind != "float":
            self._check_codes()

    def _check_codes(self) -> None:
        if not isinstance(self.dtype, str) or self.dtype not in INTEGER_TYPES:
            raise RecipeError(f"{self._label} has dtype={self.dtype!r}. Choose one of: {', '.join(INTEGER_TYPES)}.")
        smallest, largest = INTEGER_TYPES[self.dtype]
        if self.qmin < smallest or self.qmax > largest or self.qmax - self.qmin >= 2**self.bits:
            raise RecipeError(
                f"the codes {self.qmin} to {self.qmax} of {self._label} do not fit {self.bits} bits of {self.dtype}. "
                "Give more bits, a wider dtype, or fewer codes."
            )
        if self.kind == "log" and not (-self.qmin == self.qmax <= LARGEST_LOG_CODE):
            raise RecipeError(
                f"{self._label} has qmin={self.qmin}, qmax={self.qmax}. A logarithmic format has qmin == -qmax, and "
                f"qmax <= {LARGEST_LOG_CODE}."
            )

    @property
    def _label(self) -> str:
        return f"number format {self.name!r}"

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

    @property
    def fills_its_type(self) -> bool:
        """Whether every number of the type that holds the codes is a code, so that saturating needs no further clip."""
        return self.kind == "integer" and (self.qmin, self.qmax) == INTEGER_TYPES[self.dtype]

    @checked(RecipeError)
    def code_range(self, *, narrow: bool = False) -> tuple[int, int]:
        """Smallest and largest code in use.

        Args:
            narrow: Leave out the one code of a signed integer format that has no positive counterpart, e.g. -128.
        """
        has_lonely_code = self.kind == "integer" and -self.qmin == self.qmax + 1
        return (-self.qmax if narrow and has_lonely_code else self.qmin), self.qmax


def _signed(bits: int) -> NumberFormat:
    return NumberFormat(
        f"int{bits}", "integer", bits, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, "int8" if bits <= 8 else "int16"
    )


_FORMATS = Registry(
    "number format",
    "sv.register_format(sv.NumberFormat(...))",
    (
        *(_signed(bits) for bits in (2, 3, 4, 5, 6, 7, 8)),
        NumberFormat("uint8", "integer", 8, 0, 255, "uint8"),
        _signed(16),
        NumberFormat("fp8_e4m3", "float", 8, -448, 448, "float8_e4m3fn"),
        NumberFormat("fp8_e5m2", "float", 8, -57344, 57344, "float8_e5m2"),
        NumberFormat("log2", "log", 4, -7, 7, "int8"),
    ),
)


@checked(RecipeError)
def register_format(number_format: NumberFormat, *, replace: bool = False) -> NumberFormat:
    """Make a number format of your own known to recipes, under its own name.

    It is then simulated like ours, and deployed where an engine can run its codes: as weights, signed integers of up
    to 8 bits; as activations, integers that fill int8 or uint8. Worker processes that are spawned have to register it
    too, in a module that they import.

    Args:
        number_format: The format.
        replace: Take the place of one that was registered under this name before.

    Returns:
        The format.

    Raises:
        RecipeError: If this is no number format, or its name is taken.

    Example:
        >>> six_bits = register_format(NumberFormat("int6_symmetric", "integer", 6, -31, 31, "int8"))
        >>> find_format("int6_symmetric").code_range()
        (-31, 31)
    """
    _FORMATS.add(number_format, replace=replace)
    return number_format


def find_format(name: str) -> NumberFormat:
    """The number format of this name.

    Raises:
        RecipeError: If there is none.

    Example:
        >>> find_format("int8").code_range(narrow=True)
        (-127, 127)
    """
    return _FORMATS.find(name)


def formats() -> tuple[NumberFormat, ...]:
    """All number formats: ours, then those that were registered."""
    return _FORMATS.values


def is_our_format(name: str) -> bool:
    """Whether this library brings the format of this name."""
    return _FORMATS.is_ours(name)
