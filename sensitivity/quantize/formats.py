"""The tensor type of a number format. The formats themselves are values without torch: ``records.recipes.formats``."""

from __future__ import annotations

import torch

from sensitivity.errors import RecipeError
from sensitivity.records.recipes.formats import NumberFormat


def tensor_type(number_format: NumberFormat) -> torch.dtype:
    """The torch type that holds the codes of a format.

    Raises:
        RecipeError: If this torch has no such type.
    """
    dtype = getattr(torch, number_format.dtype, None)
    if not isinstance(dtype, torch.dtype) or dtype.is_floating_point != number_format.is_float:
        wanted = "floating-point" if number_format.is_float else "integer"
        raise RecipeError(
            f"number format {number_format.name!r} has dtype={number_format.dtype!r}, which is no {wanted} type of "
            f"torch {torch.__version__}. Register it with the name of one, e.g. "
            f"{'float8_e4m3fn' if number_format.is_float else 'int8'!r}."
        )
    return dtype
