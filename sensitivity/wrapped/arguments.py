"""Kinds of arguments that several verbs take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from sensitivity.contracts import Store
from sensitivity.records import Recipe

Patterns: TypeAlias = str | Iterable[str]
Recipes: TypeAlias = Recipe | Sequence[Recipe]
StoreLike: TypeAlias = Store | str | Path | None
