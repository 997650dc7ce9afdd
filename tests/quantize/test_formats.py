"""Number formats against what torch and numpy say of the same types."""

from __future__ import annotations

import pytest
import torch

from sensitivity.errors import RecipeError
from sensitivity.quantize.formats import find_format
from sensitivity.records.recipe import FORMATS, QuantSpec, Recipe


def test_every_format_of_a_recipe_exists_and_no_other() -> None:
    assert [find_format(name).name for name in FORMATS] == list(FORMATS)
    with pytest.raises(RecipeError, match=r"'int9' is not known. Choose one of: int2"):
        find_format("int9")


@pytest.mark.parametrize("name", ["int8", "int16", "uint8"])
def test_integer_codes_span_the_integer_type_of_that_name(name: str) -> None:
    information = torch.iinfo(getattr(torch, name))
    assert find_format(name).code_range() == (information.min, information.max)
    assert find_format(name).dtype == getattr(torch, name)


@pytest.mark.parametrize(("name", "dtype"), [("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)])
def test_floats_reach_as_far_as_the_torch_type(name: str, dtype: torch.dtype) -> None:
    number_format = find_format(name)
    assert number_format.is_float
    assert (number_format.qmin, number_format.qmax) == (torch.finfo(dtype).min, torch.finfo(dtype).max)


@pytest.mark.parametrize("bits", range(2, 9))
def test_narrow_leaves_out_the_lowest_code_of_signed_integers_only(bits: int) -> None:
    half = 2 ** (bits - 1)
    assert find_format(f"int{bits}").code_range() == (-half, half - 1)
    assert find_format(f"int{bits}").code_range(narrow=True) == (1 - half, half - 1)
    assert find_format("uint8").code_range(narrow=True) == (0, 255)
    assert find_format("fp8_e4m3").code_range(narrow=True) == (-448, 448)


@pytest.mark.parametrize("name", FORMATS)
def test_bits_are_those_a_recipe_counts(name: str) -> None:
    assert find_format(name).bits == Recipe("any", weights=QuantSpec(name)).weight_bits
