"""The picture of a study: every layer's score as a dip below the baseline."""

from __future__ import annotations

from sensitivity.errors import StudyError
from sensitivity.records import StudyRecord
from sensitivity.report.figures.marks import legend_handles
from sensitivity.report.figures.page import Page
from sensitivity.report.figures.panel import dips_of, draw, label_worst, set_limits
from sensitivity.report.figures.picture import Picture
from sensitivity.report.reading import Reading


def dips(reading: Reading, *, recipe: str | None = None, label: int = 5) -> Picture:
    """Each layer's score hanging from the baseline, in execution order, one panel for each recipe.

    Colour tells the kind, the marker's shape the structural flag; a cross on the axis is a layer without a result.
    Better is up. The worst layers are labelled where their drop is a dip (see ``flags``), not noise.

    Args:
        reading: What there is to show.
        recipe: Name of one recipe; None draws all, below each other.
        label: How many of the worst layers to label in each panel.

    Returns:
        A matplotlib ``Figure``.

    Raises:
        StudyError: If the recipe is unknown, or nothing was measured.
    """
    study, recipes = reading.study, reading.recipes(recipe)
    analysed = {m.layer for name in recipes for m in study.of_recipe(name)}
    layers = [layer for layer in study.layers if layer.name in analysed]
    if not layers:
        raise StudyError(f"nothing to plot: the study of {study.model} has no measurements. Run analyze first.")
    panels = [dips_of(study, layers, name) for name in recipes]
    drawn = [dip for panel in panels for dip in panel]
    any_failed, any_ends = any(d.score is None for d in drawn), any(d.ends is not None for d in drawn)
    meaning = study.info.intervals or ""
    legend = legend_handles(layers, failed=any_failed, whiskers=any_ends, meaning=meaning)
    page = Page(layers, len(panels), legend)
    page.title(f"{study.model} on {study.task}", _details(study, recipes, len(layers)))
    for axes, name, panel in zip(page.panels, recipes, panels, strict=True):
        set_limits(axes, reading, panel)
        draw(axes, reading, panel)
        label_worst(axes, reading, panel, name, label)
        axes.set_ylabel(_y_label(reading, name if len(panels) > 1 else None), fontsize=9, parse_math=False)
    return page.picture


def _y_label(reading: Reading, recipe: str | None) -> str:
    study = reading.study
    metric = f"{study.metric} ({study.unit})" if study.unit else study.metric
    if recipe is not None:
        return f"{recipe}\n{metric}"
    which = "one layer" if reading.one_at_a_time else "all layers but one"
    return f"{metric} with {which} disturbed"


def _details(study: StudyRecord, recipes: tuple[str, ...], layers: int) -> str:
    counted = f"{layers}" if layers == len(study.layers) else f"{layers} of {len(study.layers)}"
    sizes = f"layers: {counted}", f"images: {study.baseline.images}"
    return "  ·  ".join((study.metric, ", ".join(recipes), study.direction, *sizes))
