"""Two-coloured surfaces for scenes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float64]


def plain(rng: np.random.Generator, height: int, width: int) -> Floats:
    """One colour with a faint grain."""
    return rng.uniform(0.0, 0.15, (height, width))


def stripes(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Parallel bands of 4 to 12 pixels in any direction."""
    return (_along(rng, height, width) / rng.uniform(4, 12) % 2 < 1).astype(np.float64)


def waves(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Soft bands."""
    shade: Floats = 0.5 + 0.5 * np.sin(_along(rng, height, width) / rng.uniform(2, 6))
    return shade


def gradient(rng: np.random.Generator, height: int, width: int) -> Floats:
    """From one colour to the other across the image, in any direction."""
    along = _along(rng, height, width)
    shade: Floats = (along - along.min()) / (along.max() - along.min())
    return shade


def checker(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Squares of 4 to 12 pixels."""
    y, x = np.mgrid[:height, :width] // rng.uniform(4, 12)
    shade: Floats = (x + y) % 2
    return shade


def clouds(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Smooth noise: a coarse random grid, enlarged."""
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64) / 255


TEXTURES: tuple[Callable[[np.random.Generator, int, int], Floats], ...] = (
    plain,
    stripes,
    waves,
    gradient,
    checker,
    clouds,
)
"""Each gives a mixture of two colours: ``(height, width)`` in [0, 1]."""


def paint(rng: np.random.Generator, height: int, width: int, *, contrast: float) -> Floats:
    """A surface of a random texture and two random colours.

    Args:
        rng: source of all that is random.
        height: in pixels.
        width: in pixels.
        contrast: how far apart the two colours may be, 0 to 1.

    Returns:
        ``(height, width, 3)``, float64 in [0, 255], RGB.
    """
    texture = TEXTURES[int(rng.integers(len(TEXTURES)))](rng, height, width)[..., None]
    first, other = _colour(rng), _colour(rng)
    second = first + contrast * (other - first)
    surface: Floats = first + texture * (second - first)
    return surface


def _colour(rng: np.random.Generator) -> Floats:
    """Red, green and blue, drawn towards their mean: the full range looks lurid."""
    vivid = rng.uniform(10, 245, 3)
    colour: Floats = vivid + 0.3 * (vivid.mean() - vivid)
    return colour


def _along(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Distance of every pixel along a random direction, in pixels."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:height, :width]
    distance: Floats = np.cos(angle) * x + np.sin(angle) * y
    return distance
