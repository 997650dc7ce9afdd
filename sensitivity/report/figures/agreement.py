"""Every layer of a verification: the share of its codes that differ, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from sensitivity.errors import StudyError
from sensitivity.records.results.verification import LayerCheck, VerificationRecord
from sensitivity.report import style
from sensitivity.report.figures.layer_axis import LayerFrame, draw_layer_axis, draw_legend, draw_title
from sensitivity.report.figures.picture import Picture

_MARKERS = {"circle": "o", "square": "s", "triangle-down": "v", "x-thin": "x", "cross-thin": "+"}
_NONE = 1e-8
_TICKS = {1.0: "all", 1e-2: "1 %", 1e-4: "0.01 %", 1e-6: "1 ppm", _NONE: "none"}
_FRAME = LayerFrame(layer=0.16, letter=0.055, left=0.85, right=1.55, above=0.5, height=2.6)


def agreement(record: VerificationRecord) -> Picture:
    """Share of differing codes by layer in execution order on a logarithmic axis, the threshold as a line.

    Layers without one differing code, and those whose codes were not compared (crosses), stand at ``none``.

    Raises:
        StudyError: If there is no layer.
    """
    if not record.layers:
        raise StudyError(f"nothing to plot: the verification of {record.model} has no layers.")
    picture, axes = _FRAME.axes_for([check.layer for check in record.layers])
    _draw(axes, record.layers)
    threshold = record.gates.code_share
    axes.axhline(
        threshold,
        color=style.BASELINE,
        linewidth=0.8,
        linestyle="--",
        gid="threshold",
        label=f"threshold: {100 * threshold:g} %",
    )
    draw_legend(axes)
    verdict = "as simulated" if record.passed else "NOT as simulated"
    draw_title(axes, f"{record.model} on {record.engine}: {verdict}")
    return picture


def _draw(axes: Axes, layers: Sequence[LayerCheck]) -> None:
    for status, (ink, shape) in style.STATUS_LOOKS.items():
        points = [(position, check) for position, check in enumerate(layers) if check.status == status]
        if points:
            axes.plot(
                [position for position, _ in points],
                [max(check.code_share or 0.0, _NONE) for _, check in points],
                marker=_MARKERS[shape],
                markersize=5,
                color=ink.light,
                linestyle="none",
                clip_on=False,
                label=f"{status} ({len(points)})",
                gid="layer",
            )
    axes.set_yscale("log")
    axes.set_ylim(_NONE / 2, 1.0)
    axes.yaxis.set_major_locator(FixedLocator(list(_TICKS)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticklabels(list(_TICKS.values()))
    axes.set_xlim(-0.7, len(layers) - 0.3)
    draw_layer_axis(axes, [check.layer for check in layers], ylabel="codes that differ", ylabel_size=style.TEXT_POINTS)
