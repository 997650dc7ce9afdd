"""Recipes by name, as ``--recipe`` takes them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sensitivity.errors import RecipeError
from sensitivity.quantize.recipes import PRESETS, Prune
from sensitivity.records.recipes.recipe import Recipe

READY = {preset.name: preset for preset in PRESETS}
HELP = f"{', '.join(READY)}, prune-LEVEL (prune-0.5), prune-N:M (prune-2:4), or a JSON file of a recipe"


def recipe(text: str) -> Recipe:
    """The recipe that a text names; for argparse.

    Raises:
        argparse.ArgumentTypeError: If there is none.
    """
    if text in READY:
        return READY[text]
    try:
        if text.startswith("prune-"):
            level = text.removeprefix("prune-")
            return Prune(level if ":" in level else float(level))
        if text.endswith(".json"):
            return Recipe.from_json(json.loads(Path(text).read_text(encoding="utf-8")))
    except (RecipeError, ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no recipe: {error}") from error
    raise argparse.ArgumentTypeError(f"no recipe is called {text!r}; choose {HELP}")
