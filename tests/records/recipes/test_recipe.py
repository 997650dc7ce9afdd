from __future__ import annotations

from typing import Any

import pytest

import sensitivity as sv
from sensitivity.errors import RecipeError


@pytest.mark.parametrize("recipe", [sv.INT8, sv.FP8, sv.THESIS, sv.Prune("2:4"), sv.Prune(0.3)], ids=lambda r: r.name)
def test_a_recipe_comes_back_from_json_as_it_was(recipe: sv.Recipe) -> None:
    assert sv.Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ([sv.INT8.to_json()], r"not a recipe: \[.*Give a dict as Recipe.to_json returns"),
        (None, "not a recipe: None. Give a dict"),
        ({"name": "mine", "weights": "int8"}, "not a recipe: weights is 'int8'. Give what Recipe.to_json returns"),
        ({"name": "mine", "activations": {"bits": 8}}, "activations does not know 'bits'. The keys are format, "),
        ({"weights": {"format": "int8"}}, "not a recipe: it lacks 'name'. The keys are name, weights, "),
        ({"name": "mine", "weights": {"format": "int9"}}, "number format 'int9' is not known"),
    ],
)
def test_what_is_no_recipe_is_refused_with_what_is_wrong(plain: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        sv.Recipe.from_json(plain)
