"""Every layer of a diagnosis: how deep it dips when quantized alone, and where its cure brings it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from sensitivity.errors import StudyError
from sensitivity.records.results.diagnosis import DiagnosisRecord, Finding
from sensitivity.report import style
from sensitivity.report.damage import hurt_words
from sensitivity.report.figures.labels import Label, place_labels
from sensitivity.report.figures.layer_axis import LayerFrame, draw_layer_axis, draw_legend, draw_title
from sensitivity.report.figures.picture import Picture

_UNKNOWN, _HARMLESS = style.KIND_INKS["independent"].light, style.PALE
_MARKERS = {"triangle-up": "^", "triangle-down": "v", "diamond": "D", "square": "s", "cross": "P", "x": "X"}
_CURED, _FLOAT = style.CURED_INK.light, style.FAILED
_FRAME = LayerFrame(layer=0.13, letter=0.058, left=0.75, right=2.35, above=0.55, height=3.4)
_DOT_PIXELS, _SQUARE_PIXELS = 6.0, 11.0  # half the side of a mark, with the margin of a label's white box


def cures(record: DiagnosisRecord, *, label: int) -> Picture:
    """Output SQNR of each layer quantized alone, in execution order; a green arrow to what the cure leaves.

    A dip has the colour and the shape of its main cause. A red square around it is a layer that only float saves.

    Args:
        record: What was found.
        label: How many of the worst layers to label.

    Raises:
        StudyError: If there is no finding.
    """
    if not record.findings:
        raise StudyError(f"nothing to plot: the diagnosis of {record.model} has no findings.")
    picture, axes = _FRAME.axes_for([finding.layer for finding in record])
    _limit(axes, record)
    axes.axhline(record.enough_db, color=style.BASELINE, linewidth=0.8, linestyle="--", gid="enough")
    axes.axhspan(axes.get_ylim()[0], record.enough_db, color=style.FAILED, alpha=0.05, linewidth=0)
    for position, finding in enumerate(record):
        _draw(axes, position, finding, axes.get_ylim()[1])
    _finish(axes, record)
    _label(axes, record, label)
    return picture


def cause_colour(finding: Finding) -> str:
    """The colour of a layer's main cause; grey where it is not hurt."""
    if not finding.hurt:
        return _HARMLESS
    return _UNKNOWN if finding.cause is None else style.CAUSE_INKS[finding.cause].light


def cause_marker(finding: Finding) -> str:
    """The marker of a layer's main cause; a dot where it is not hurt, or no cause was found."""
    return "o" if not finding.hurt or finding.cause is None else _MARKERS[style.CAUSE_SHAPES[finding.cause]]


def _limit(axes: Axes, record: DiagnosisRecord) -> None:
    values = [finding.output_db for finding in record]
    values += [finding.cured_db for finding in record if finding.cured_db is not None]
    low, high = min([*values, record.enough_db]), max([*values, record.enough_db])
    span = max(high - low, 6.0)
    axes.set_ylim(low - 0.22 * span, high + 0.06 * span)
    axes.set_xlim(-0.8, len(record) - 0.2)


def _draw(axes: Axes, position: int, finding: Finding, top: float) -> None:
    colour = cause_colour(finding)
    axes.plot([position, position], [top, finding.output_db], color=colour, linewidth=0.9, alpha=0.45)
    size = 6 if finding.hurt else 3.5
    axes.plot([position], [finding.output_db], cause_marker(finding), markersize=size, color=colour, gid="damage")
    if finding.cured_db is not None:
        axes.annotate(
            "",
            (position, finding.cured_db),
            (position, finding.output_db),
            arrowprops={"arrowstyle": "-|>", "color": _CURED, "linewidth": 1.8, "shrinkA": 3, "shrinkB": 0},
        ).set_gid("cure")
    if finding.needs_float:
        axes.plot(
            [position], [finding.output_db], "s", markersize=11, markerfacecolor="none", color=_FLOAT, gid="float"
        )


def _label(axes: Axes, record: DiagnosisRecord, count: int) -> None:
    places = {finding.layer: position for position, finding in enumerate(record)}
    labels = []
    for finding in record.hurt[:count]:
        labels.append(Label(places[finding.layer], finding.output_db, _words(record, finding)))
    for text in place_labels(axes, labels, _covered(axes, record), gap=_SQUARE_PIXELS + 1.0):
        text.set_bbox({"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.0})


def _words(record: DiagnosisRecord, finding: Finding) -> str:
    """A layer, what it suffers from, and what its cure leaves."""
    lines = [finding.layer, f"{record.share_of(finding):.0%} of the damage"]
    if finding.cause is not None:
        lines.insert(1, str(finding.cause))
    if finding.cure is None or finding.cured_db is None:
        return "\n".join([*lines, f"{finding.output_db:.0f} dB, no cure"])
    change = finding.cure.name.removeprefix(record.recipe.name).lstrip(", ")
    return "\n".join([*lines, change, f"{finding.output_db:.0f} → {finding.cured_db:.0f} dB"])


def _covered(axes: Axes, record: DiagnosisRecord) -> Sequence[Bbox]:
    boxes = []
    for position, finding in enumerate(record):
        x, low = axes.transData.transform((position, finding.output_db))
        high = axes.transData.transform((position, finding.cured_db or finding.output_db))[1]
        half = _SQUARE_PIXELS if finding.needs_float else _DOT_PIXELS
        boxes.append(Bbox.from_extents(x - half, low - half, x + half, max(high, low) + half))
    return boxes


def _finish(axes: Axes, record: DiagnosisRecord) -> None:
    ylabel = "SQNR of the model's outputs (dB)\nwith this layer alone quantized"
    draw_layer_axis(axes, [finding.layer for finding in record], ylabel=ylabel, ylabel_size=style.TEXT_POINTS)
    saved = sum(finding.cured_db is not None and finding.cured_db >= record.enough_db for finding in record.hurt)
    title = f"{record.model}, {record.recipe.name}: {hurt_words(record)}, {saved} cured"
    title += f", only float saves {len(record.needs_float)}" if record.needs_float else ""
    draw_title(axes, title)
    draw_legend(axes, _handles(record))


def _handles(record: DiagnosisRecord) -> list[Line2D]:
    present = {finding.cause for finding in record.hurt}
    handles = [
        _dot(ink.light, f"main cause: {cause}", _MARKERS[style.CAUSE_SHAPES[cause]])
        for cause, ink in style.CAUSE_INKS.items()
        if cause in present
    ]
    if None in present:
        handles.append(_dot(_UNKNOWN, "no cause found"))
    if len(record.hurt) < len(record):
        handles.append(_dot(_HARMLESS, "not hurt"))
    if any(finding.cured_db is not None for finding in record):
        handles.append(
            Line2D([], [], linestyle="none", marker=r"$\uparrow$", markersize=9, color=_CURED, label="with its cure")
        )
    if record.needs_float:
        handles.append(_dot(_FLOAT, "only float saves it"))
        handles[-1].set(marker="s", markersize=9, markerfacecolor="none")
    handles.append(Line2D([], [], linestyle="--", color=style.BASELINE, label=f"hurt below {record.enough_db:.1f} dB"))
    return handles


def _dot(colour: str, label: str, marker: str = "o") -> Line2D:
    return Line2D([], [], linestyle="none", marker=marker, markersize=6, color=colour, label=label)
