"""A matplotlib figure that shows itself in notebooks and saves itself where asked."""

from __future__ import annotations

from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sensitivity.errors import StudyError

if TYPE_CHECKING:
    from pandas import DataFrame

FORMATS = ("png", "svg", "pdf")
DOTS_PER_INCH = 150


class Picture(Figure):
    """A ``matplotlib.figure.Figure`` that needs no pyplot to be seen in a notebook.

    Notebooks show figures through a hook that pyplot installs; without pyplot they look for ``_repr_png_``.

    Attributes:
        table: The numbers that are drawn, as a DataFrame; None where the figure has no table of its own.
    """

    table: DataFrame | None = None

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=100, facecolor="white")
        FigureCanvasAgg(self)

    def write(self, path: str | Path) -> None:
        """Save to a ``.png``, ``.svg`` or ``.pdf`` file.

        Raises:
            StudyError: If the path ends in anything else.
        """
        suffix = Path(path).suffix.lower().lstrip(".")
        if suffix not in FORMATS:
            endings = ", ".join(f".{ending}" for ending in FORMATS)
            raise StudyError(f"cannot save a figure as {Path(path).name!r}. Give a path that ends in one of {endings}.")
        self.savefig(path, dpi=DOTS_PER_INCH)

    def to_svg(self) -> str:
        """The figure as one ``<svg>`` element, the same text every time it is drawn."""
        text = StringIO()
        with matplotlib.rc_context({"svg.hashsalt": "sensitivity"}):
            self.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        svg = text.getvalue()
        return svg[svg.index("<svg") :]

    def _repr_png_(self) -> bytes:
        image = BytesIO()
        self.savefig(image, format="png", dpi=DOTS_PER_INCH)
        return image.getvalue()
