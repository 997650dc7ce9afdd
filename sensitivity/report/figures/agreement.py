"""Every layer of a verification: the share of its codes that differ, and what precision ran."""

from __future__ import annotations

from matplotlib.axes import Axes

from sensitivity.errors import StudyError
from sensitivity.records.verification import IN_FLOAT, VERIFIED, LayerCheck, VerificationRecord
from sensitivity.report.figures.picture import Picture

_COLOURS = {VERIFIED: "#1b7f5c", IN_FLOAT: "#8a8a8f"}
_WRONG = "#b3261e"
_LEAST_SHARE = 1e-8


def agreement(record: VerificationRecord) -> Picture:
    """Share of differing codes by layer in execution order on a logarithmic axis, the gate as a line.

    Layers without one differing code sit on the lowest line; layers whose codes were not compared are crosses there.

    Raises:
        StudyError: If there is no layer.
    """
    if not record.layers:
        raise StudyError(f"nothing to plot: the verification of {record.model} has no layers.")
    picture = Picture(max(5.5, 0.12 * len(record.layers) + 2.5), 3.6)
    axes = picture.add_axes((0.11, 0.16, 0.85, 0.70))
    axes.set_yscale("log")
    axes.set_ylim(_LEAST_SHARE / 2, 1.0)
    axes.axhline(record.gates.code_share, color="#222222", linewidth=0.8, linestyle="--", gid="gate")
    for position, check in enumerate(record.layers):
        _mark(axes, position, check)
    axes.set_xlim(-0.7, len(record.layers) - 0.3)
    axes.set_xlabel("layer, in execution order", fontsize=9)
    axes.set_ylabel("share of codes that differ", fontsize=9)
    axes.tick_params(labelsize=8)
    verdict = "as simulated" if record.passed else "not as simulated"
    picture.text(0.11, 0.92, f"{record.model} on {record.engine}: {verdict}", fontsize=11, parse_math=False)
    return picture


def _mark(axes: Axes, position: int, check: LayerCheck) -> None:
    compared = check.code_share is not None
    axes.plot(
        position,
        max(check.code_share or 0.0, _LEAST_SHARE),
        marker="o" if compared else "x",
        markersize=5,
        color=_COLOURS.get(check.status, _WRONG),
        linestyle="none",
        clip_on=False,
        gid="layer",
    )
