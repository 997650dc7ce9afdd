"""The ratio of a signal to the noise in it, in decibels: one formula for signals, tasks and verification."""

from __future__ import annotations

import math

CEILING_DB = 150.0
"""Signal-to-noise ratio that stands for an exact copy where a finite number is needed.

A float32 carries 24 bits, 144.5 dB, so no real difference is smaller.
"""


def decibels(signal: float, noise: float, *, ceiling: float = math.inf) -> float:
    """10 log10 of signal over noise, between minus and plus ``ceiling``.

    Without noise it is ``ceiling``, also where there is no signal; with noise and no signal it is minus ``ceiling``.

    Args:
        signal: Energy of the signal: its sum of squares.
        noise: Energy of the noise.
        ceiling: The largest magnitude that is returned, in dB.
    """
    if noise == 0.0:
        return ceiling
    if signal == 0.0:
        return -ceiling
    return min(max(10.0 * math.log10(signal / noise), -ceiling), ceiling)
