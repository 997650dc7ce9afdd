"""``sensitivity compare``: the drops of two studies side by side. Needs no torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensitivity.cli.arguments import (
    add_imports,
    add_json,
    add_picture,
    add_table,
)
from sensitivity.cli.output import Answer, check_place, write_all
from sensitivity.errors import StudyError
from sensitivity.records.units import unit_of_drops
from sensitivity.report.tables.csv_file import write_csv
from sensitivity.study import Study

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 20
"""Layers that people are shown; JSON and the table have all of them."""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="put the drops of two studies side by side",
        description="Show the drop and the rank of every layer in two studies, and how far the two agree on which "
        "layers are the worst. Layers are matched by name.",
    )
    parser.add_argument("study", type=Path, metavar="A.json", help="what analyze wrote")
    parser.add_argument("other", type=Path, metavar="B.json", help="what another analyze wrote")
    parser.add_argument("--recipe", metavar="NAME", help="the recipe of A.json, where it has several")
    parser.add_argument("--other-recipe", metavar="NAME", help="the recipe of B.json, where it has several")
    add_table(parser, "layer")
    parser.add_argument(
        "--names", nargs=2, metavar=("A", "B"), help="what the two are called in tables and the picture (default: A, B)"
    )
    add_picture(parser, "--picture", "draw drop against drop")
    add_imports(parser)
    add_json(parser, "every layer, and the rank correlation")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    for path in (options.table, options.picture):
        check_place(path)
    study, other = Study.load(options.study), Study.load(options.other)
    recipe = _recipe_name(study, options.study, options.recipe, "--recipe")
    other_recipe = _recipe_name(other, options.other, options.other_recipe, "--other-recipe")
    table = study.compare(other, recipe=recipe, other_recipe=other_recipe)
    recipes: dict[str, Any] = {"recipe": recipe, "other_recipe": other_recipe}
    names = ("A", "B") if options.names is None else (options.names[0], options.names[1])
    shown = table if options.names is None else study.compare(other, names=names, **recipes)
    written = write_all(
        {
            options.table: lambda path: write_csv(shown, path),
            options.picture: lambda path: study.plot_comparison(other, path, names=names, **recipes),
        }
    )
    lines = [
        f"drop: {_described(study, options.study, recipe)}",
        f"drop_other: {_described(other, options.other, other_recipe)}",
        _agreement(table),
        *_worst(table),
        *written,
    ]
    return Answer("\n".join(lines), {**table.attrs, **_units(study, other), "layers": table.to_dict("records")})


def _recipe_name(study: Study, path: Path, name: str | None, option: str) -> str:
    """The recipe that is meant, or an error in the words of the command line."""
    known = ", ".join(study.recipes)
    if name is None and len(study.recipes) > 1:
        raise StudyError(f"{path} has {len(study.recipes)} recipes: name one with {option}. It has: {known}.")
    if name is not None and name not in study.recipes:
        raise StudyError(f"{option} {name}: {path} has no such recipe. It has: {known}.")
    return study.recipe_name(name)


def _described(study: Study, path: Path, recipe: str) -> str:
    unit = unit_of_drops(study.unit)
    of_what = f"{study.metric} in {unit}" if unit else study.metric
    return f"{recipe} in {path}, {study.model} on {study.task}, {of_what}"


def _units(study: Study, other: Study) -> dict[str, str]:
    """The units of the drops, which are those of the table."""
    return {"drop_unit": unit_of_drops(study.unit), "drop_other_unit": unit_of_drops(other.unit)}


def _agreement(table: DataFrame) -> str:
    count, correlation = table.attrs["layers_compared"], table.attrs["rank_correlation"]
    if not count:
        return "no layer was measured in both studies: the layers of the two have different names"
    value = f"{correlation:.2f}" if correlation == correlation else "undefined, as the drops do not differ,"
    return f"rank correlation (Spearman) {value} over {count} layers measured in both"


def _worst(table: DataFrame) -> list[str]:
    """The layers that drop most in either study, with what a study does not know as a dash."""
    ranks = table[["rank", "rank_other"]].min(axis=1)
    worst = table.loc[ranks.sort_values(kind="stable").index].head(SHOWN)
    formats = dict.fromkeys(("drop", "drop_other"), "{:.3g}".format)
    formats |= dict.fromkeys(("rank", "rank_other"), "{:.0f}".format)
    text = worst.to_string(index=False, na_rep="–", formatters=formats)
    more = len(table) - len(worst)
    return [text, *([f"{more} more layers: --table FILE.csv writes all of them"] if more else [])]
