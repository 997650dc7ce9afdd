"""Colours can be told apart from the page they stand on, and from each other by those who see colours differently."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sensitivity.markup.ink import PAGE, sheet
from sensitivity.report import style

# Viénot, Brettel and Mollon (1999): what red-blind and green-blind people see, in linear RGB
DEFICIENCIES = {
    "protanopia": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deuteranopia": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(first: str, other: str) -> float:
    """As the Web Content Accessibility Guidelines define it."""
    bright, dark = sorted((float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (first, other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("look", ["light", "dark"])
def test_text_has_the_contrast_that_reading_needs(look: str) -> None:
    for name in ("text", "quiet", "failed", "good", "focus"):
        for ground in ("paper", "raised"):
            assert contrast(getattr(PAGE[name], look), getattr(PAGE[ground], look)) >= 4.5, (name, ground)


@pytest.mark.parametrize("look", ["dark"])
def test_marks_on_a_dark_page_stand_out(look: str) -> None:
    inks = [*style.KIND_INKS.values(), style.OTHER_INK, *(ink for ink, _ in style.STATUS_LOOKS.values())]
    for ink in inks:
        assert contrast(getattr(ink, look), PAGE["paper"].dark) >= 3.0, ink


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("look", ["light", "dark"])
def test_kinds_are_told_apart_without_red_or_green(look: str, deficiency: str) -> None:
    seen = {kind: np.array(DEFICIENCIES[deficiency]) @ linear(getattr(i, look)) for kind, i in style.KIND_INKS.items()}
    for first, other in itertools.combinations(seen, 2):
        distance = np.abs(np.cbrt(np.clip(seen[first], 0, 1)) - np.cbrt(np.clip(seen[other], 0, 1))).max()
        assert distance > 0.05, (first, other, distance)


def test_every_colour_is_a_variable_on_both_pages() -> None:
    light, dark = sheet().split("@media (prefers-color-scheme: dark)")
    for name, ink in PAGE.items():
        assert f"--{name}: {ink.light};" in light
        assert f"--{name}: {ink.dark};" in dark


def test_no_two_kinds_of_steps_or_states_share_both_colour_and_shape() -> None:
    steps = [(style.STEP_INKS[kind], style.STEP_SHAPES[kind]) for kind in style.STEP_INKS]
    assert len(set(steps)) == len(steps)
    assert len(set(style.STATUS_LOOKS.values())) == len(style.STATUS_LOOKS)
