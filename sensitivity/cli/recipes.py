"""Recipes by name, as ``--recipe`` takes them."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensitivity.errors import RecipeError
from sensitivity.quantize.recipes import PRESETS, Prune
from sensitivity.records.recipes.recipe import Recipe

READY = {preset.name: preset for preset in PRESETS}
HELP = f"{', '.join(READY)}, prune-LEVEL (prune-0.5), prune-N:M (prune-2:4), or a JSON file of a recipe"


@dataclass(frozen=True)
class RecipeFile:
    """A file that is no recipe yet: MODEL's module may register the format or the observer that it names.

    Attributes:
        path: Where it is.
        plain: What it holds.
    """

    path: str
    plain: Any

    def read(self) -> Recipe:
        """The recipe.

        Raises:
            RecipeError: If it holds none.
        """
        try:
            return Recipe.from_json(self.plain)
        except RecipeError as error:
            raise RecipeError(f"argument --recipe: {self.path!r} is no recipe: {error}") from error


def recipe(text: str) -> Recipe | RecipeFile:
    """The recipe that a text names, or the file of one; for argparse.

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
            return _from_file(text)
    except FileNotFoundError as error:
        raise argparse.ArgumentTypeError(f"there is no file {text!r}") from error
    except (RecipeError, ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no recipe: {error}") from error
    raise argparse.ArgumentTypeError(f"no recipe is called {text!r}; choose {HELP}")


def _from_file(path: str) -> Recipe | RecipeFile:
    plain = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        return Recipe.from_json(plain)
    except RecipeError:
        return RecipeFile(path, plain)
