"""Simulated clicks on annotated objects."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def interior_point(mask: npt.NDArray[np.bool_]) -> tuple[float, float] | None:
    """The pixel of a mask that is farthest from what is outside, the image border included; None if it has no pixel.

    Of several the first in reading order. This is the first click of the RITM evaluation (Sofiiuk et al. 2021,
    ``Clicker``), which the point prompts of EfficientViT-SAM's evaluation use.

    Args:
        mask: (H, W) bool.

    Returns:
        ``x, y`` in pixels: integers as floats.
    """
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    distance = squared_distance(mask[top : rows[-1] + 1, left : columns[-1] + 1])
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(left + column), float(top + row)


def squared_distance(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Squared Euclidean distance, in pixels, of each pixel of a mask to the nearest one outside; 0 outside.

    Beyond the border is outside. Exact, as OpenCV's ``distanceTransform`` with ``DIST_MASK_PRECISE``.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) int64.
    """
    padded = np.pad(mask, 1)
    vertical = np.where(padded, padded.shape[0], 0)
    for row in range(1, len(padded)):
        vertical[row] = np.minimum(vertical[row], vertical[row - 1] + 1)
    for row in range(len(padded) - 2, -1, -1):
        vertical[row] = np.minimum(vertical[row], vertical[row + 1] + 1)
    within_column = np.square(vertical.astype(np.int64))
    nearest = within_column.copy()
    shift = 1
    while shift < padded.shape[1] and shift**2 < nearest.max():
        nearest[:, shift:] = np.minimum(nearest[:, shift:], within_column[:, :-shift] + shift**2)
        nearest[:, :-shift] = np.minimum(nearest[:, :-shift], within_column[:, shift:] + shift**2)
        shift += 1
    return nearest[1:-1, 1:-1]
