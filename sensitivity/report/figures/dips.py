"""The picture of a study: every layer's score as a dip below the baseline."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.lines import Line2D

from sensitivity.errors import StudyError
from sensitivity.records import Layer, StudyRecord
from sensitivity.records.results.info import IntervalOf
from sensitivity.records.results.study import RecipeLike
from sensitivity.report import style
from sensitivity.report.dip import Dip, dips_of
from sensitivity.report.figures.marks import layer_handles, other_handles, verdict_handles
from sensitivity.report.figures.page import Page
from sensitivity.report.figures.panel import draw, label_worst, set_limits
from sensitivity.report.figures.picture import Picture
from sensitivity.report.reading import Reading


def dips(reading: Reading, *, recipe: RecipeLike | None = None, label: int = 5) -> Picture:
    """Each layer's score hanging from the baseline, in execution order, one panel for each recipe.

    Colour tells the kind, the marker's shape the structural flag, its filling the verdict; a thin line behind it is the
    interval, and a cross on the axis a layer without a result. Better is up. The worst layers that lose anything are
    labelled whatever their verdict, which stands in the label where it is not a dip.

    Args:
        reading: What there is to show.
        recipe: One recipe; None draws all, below each other.
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
    panels = [dips_of(reading, layers, name) for name in recipes]
    page = Page(layers, len(panels), _legend(reading, layers, [dip for panel in panels for dip in panel]))
    page.title(f"{study.model} on {study.task}", _details(study, recipes, len(layers)))
    for axes, name, panel in zip(page.panels, recipes, panels, strict=True):
        set_limits(axes, reading, panel)
        draw(axes, reading, panel)
        label_worst(axes, reading, panel, name, label)
        axes.set_ylabel(
            _y_label(reading, name if len(panels) > 1 else None), fontsize=style.TEXT_POINTS, parse_math=False
        )
    return page.picture


def _legend(reading: Reading, layers: Sequence[Layer], dips: Sequence[Dip]) -> list[Line2D]:
    verdicts = {dip.verdict for dip in dips if dip.verdict is not None}
    intervals = _interval_words(reading) if any(dip.ends is not None for dip in dips) else ""
    scored = {dip.layer.name for dip in dips if dip.score is not None}
    return [
        *layer_handles(layer for layer in layers if layer.name in scored),
        *verdict_handles(verdicts, reading.shown_tolerance),
        *other_handles(intervals=intervals, failed=any(dip.score is None for dip in dips)),
    ]


def _interval_words(reading: Reading) -> str:
    """What the intervals are, in lines that fit beside the picture."""
    info = reading.study.info
    if info.interval_level is None or info.interval_of is None:
        return "\n".join(["interval of the score", *(info.intervals or "").split(", ")]).strip()
    about = "other images like these" if info.interval_of is IntervalOf.OTHER_IMAGES else "all images of the data set"
    return f"{100 * info.interval_level:.4g} % intervals, valid\nfor all layers at once,\nfor {about}"


def _y_label(reading: Reading, recipe: str | None) -> str:
    study = reading.study
    metric = f"{study.metric} ({study.unit})" if study.unit else study.metric
    if recipe is not None:
        return f"{recipe}\n{metric}"
    subject = "one layer" if reading.one_at_a_time else "all layers but one"
    return f"{metric} with {subject} perturbed"


def _details(study: StudyRecord, recipes: tuple[str, ...], layers: int) -> str:
    counted = f"{layers}" if layers == len(study.layers) else f"{layers} of {len(study.layers)}"
    sizes = f"layers: {counted}", f"images: {study.baseline.images}"
    return "  ·  ".join((study.metric, ", ".join(recipes), study.direction, *sizes))
