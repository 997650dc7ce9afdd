"""Number formats against what torch and numpy say of the same types."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sensitivity.errors import RecipeError
from sensitivity.quantize.formats import tensor_type
from sensitivity.records.recipes.formats import NumberFormat, find_format, formats, register_format
from sensitivity.records.recipes.recipe import QuantSpec, Recipe

FORMATS = tuple(number_format.name for number_format in formats())


def test_every_format_of_a_recipe_exists_and_no_other() -> None:
    integers = ["int2", "int3", "int4", "int5", "int6", "int7", "int8", "uint8", "int16"]
    assert list(FORMATS) == [*integers, "fp8_e4m3", "fp8_e5m2", "log2"]
    assert [find_format(name).name for name in FORMATS] == list(FORMATS)
    with pytest.raises(RecipeError, match=r"'int9' is not known. Choose one of: int2"):
        find_format("int9")


@pytest.mark.parametrize("name", ["int8", "int16", "uint8"])
def test_integer_codes_span_the_integer_type_of_that_name(name: str) -> None:
    information = torch.iinfo(getattr(torch, name))
    assert find_format(name).code_range() == (information.min, information.max)
    assert tensor_type(find_format(name)) == getattr(torch, name)


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


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("wide", "integer", 4, -8, 8, "int8"), "the codes -8 to 8 of number format 'wide' do not fit 4 bits of int8"),
        (("wide", "integer", 16, -8, 300, "int8"), "the codes -8 to 300 .* do not fit 16 bits of int8"),
        (("odd", "integer", 8, 1, 8, "int8"), "qmin <= 0 < qmax"),
        (("odd", "integer", 8, -8, 8, "complex64"), "dtype='complex64'. Choose one of: int8, uint8, int16"),
        (("odd", "posit", 8, -8, 8, "int8"), "kind='posit'. Choose one of: integer, float, log"),
        (("odd", "integer", 8, -8.0, 8, "int8"), "qmin=-8.0. Give a whole number"),
        (("lopsided", "log", 8, -3, 7, "int8"), "has qmin == -qmax"),
    ],
)
def test_a_number_format_that_contradicts_itself_is_refused(parts: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        NumberFormat(*parts)


def test_a_float_format_without_a_torch_type_is_refused_when_it_is_used() -> None:
    with pytest.raises(RecipeError, match="dtype='float7', which is no floating-point type of torch"):
        tensor_type(NumberFormat("fp7", "float", 7, -8, 8, "float7"))
    with pytest.raises(RecipeError, match="dtype='int8', which is no floating-point type"):
        tensor_type(NumberFormat("fp7", "float", 7, -8, 8, "int8"))


def test_narrow_keeps_the_lowest_code_where_it_has_a_positive_counterpart() -> None:
    assert NumberFormat("even", "integer", 4, -7, 7, "int8").code_range(narrow=True) == (-7, 7)
    assert NumberFormat("lopsided", "integer", 4, -3, 7, "int8").code_range(narrow=True) == (-3, 7)


def test_our_formats_are_never_replaced() -> None:
    with pytest.raises(RecipeError, match="'int8' is one of this library's own"):
        register_format(NumberFormat("int8", "integer", 8, -100, 100, "int8"), replace=True)
    with pytest.raises(RecipeError, match=r"number_format='int9': give a sv\.NumberFormat"):
        register_format("int9")  # type: ignore[arg-type]
    register_format(find_format("int8"))  # an equal one changes nothing
