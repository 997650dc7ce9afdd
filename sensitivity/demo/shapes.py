"""Outlines of the things in a scene, and how much of every pixel they cover."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SUPERSAMPLING = 4
"""Outlines are drawn so many times larger and averaged, which smooths their edges."""

POINTS_OF_A_CURVE = 48

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outline:
    """A closed line about the origin, of radius about 1, maybe with a hole.

    Attributes:
        edge: (N, 2) x and y of its corners.
        hole: (M, 2) likewise, inside the edge; None where there is none.
    """

    edge: Floats
    hole: Floats | None = None

    def placed(self, *, centre: tuple[float, float], radius: float, stretch: float, angle: float) -> Outline:
        """The outline in pixels of an image.

        Args:
            centre: x and y in pixels.
            radius: in pixels.
            stretch: height by width, before it is turned; the area does not depend on it.
            angle: in radians.
        """
        cosine, sine = np.cos(angle), np.sin(angle)

        def place(line: Floats) -> Floats:
            # element by element: a matrix product may round differently on another machine
            x, y = line[:, 0] * radius / stretch**0.5, line[:, 1] * radius * stretch**0.5
            return np.stack([cosine * x - sine * y + centre[0], sine * x + cosine * y + centre[1]], axis=1)

        return Outline(place(self.edge), None if self.hole is None else place(self.hole))

    def coverage(self, height: int, width: int) -> Floats:
        """Share of every pixel that lies inside: ``(height, width)``, float64 in [0, 1]."""
        large = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
        draw = ImageDraw.Draw(large)
        draw.polygon(_corners(self.edge), fill=255)
        if self.hole is not None:
            draw.polygon(_corners(self.hole), fill=0)
        return np.asarray(large.reduce(SUPERSAMPLING), np.float64) / 255


def disc(rng: np.random.Generator) -> Outline:
    """A circle; placing it makes it an ellipse."""
    del rng  # every disc is the same: all outlines have one signature
    return Outline(_star_shaped(np.ones(POINTS_OF_A_CURVE)))


def polygon(rng: np.random.Generator) -> Outline:
    """A triangle to hexagon, slightly uneven."""
    return Outline(_star_shaped(rng.uniform(0.85, 1.15, int(rng.integers(3, 7)))))


def star(rng: np.random.Generator) -> Outline:
    """Five to eight points."""
    points = int(rng.integers(5, 9))
    return Outline(_star_shaped(np.tile([1.2, rng.uniform(0.5, 0.7)], points)))


def ring(rng: np.random.Generator) -> Outline:
    """A disc with a round hole."""
    circle = _star_shaped(np.ones(POINTS_OF_A_CURVE))
    return Outline(circle, circle * rng.uniform(0.4, 0.6))


def blob(rng: np.random.Generator) -> Outline:
    """A smooth irregular curve: a circle and three waves along it."""
    turns = np.arange(POINTS_OF_A_CURVE) * (2 * np.pi / POINTS_OF_A_CURVE)
    radii = np.ones(POINTS_OF_A_CURVE)
    for wave in (2, 3, 4):
        radii += rng.uniform(0.05, 0.2) * np.sin(wave * turns + rng.uniform(0, 2 * np.pi))
    return Outline(_star_shaped(radii))


def cross(rng: np.random.Generator) -> Outline:
    """Two bars across each other."""
    arm, half = 1.1, rng.uniform(0.35, 0.5)
    right_to_top = [(arm, half), (half, half), (half, arm)]
    top_to_left = [(-half, arm), (-half, half), (-arm, half)]
    upper = np.array(right_to_top + top_to_left)
    return Outline(np.concatenate([upper, -upper]))


OUTLINES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "disc": disc,
    "polygon": polygon,
    "star": star,
    "ring": ring,
    "blob": blob,
    "cross": cross,
}
"""By category name."""


def _star_shaped(radii: Floats) -> Floats:
    """Corners at equal angles and these distances from the origin."""
    angles = np.arange(len(radii)) * (2 * np.pi / len(radii))
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _corners(line: Floats) -> list[tuple[float, float]]:
    return [(x, y) for x, y in (line * SUPERSAMPLING).tolist()]
