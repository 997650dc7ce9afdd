"""Two studies that are compared: which recipe of the one stands beside which of the other."""

from __future__ import annotations

from sensitivity.errors import StudyError
from sensitivity.records import StudyRecord
from sensitivity.records.results.study import RecipeLike, other_recipe_name


def recipes_of_both(
    study: StudyRecord, other: StudyRecord, recipe: RecipeLike | None, other_recipe: RecipeLike | None
) -> tuple[str, str]:
    """The names of the recipes by which two studies are compared.

    Args:
        study: One study.
        other: The study to compare it with.
        recipe: Recipe of the one; None where it has only one.
        other_recipe: Recipe of the other; None where it has only one.

    Raises:
        StudyError: If a recipe is unknown, or left out where a study has several.
    """
    if other_recipe is not None and other_recipe not in other.recipes:
        known = ", ".join(other.recipes)
        raise StudyError(f"other_recipe={other_recipe!r}: the other study has no such recipe. It has: {known}.")
    return study.recipe_name(recipe), other_recipe_name(other, other_recipe)
