"""Colours can be told apart from the page they stand on, and from each other by those who see colours differently."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from sensitivity.markup.ink import PAGE, Ink, sheet
from sensitivity.report import style

DEFICIENCIES = ("deuteranomaly", "protanomaly", "tritanomaly")
"""Machado, Oliveira and Fernandes (2009), each at its severest: what green-, red- and blue-blind people see."""

LEAST_DIFFERENCE = 10.0
"""CAM02-UCS: about ten times what is just seen when colours lie side by side."""

SHARED_PICTURES: Mapping[str, Mapping[Any, Ink]] = {
    "kinds": {**style.KIND_INKS, "other": style.OTHER_INK},
    "steps": style.STEP_INKS,
    "states": {ink.light: ink for ink, _ in style.STATUS_LOOKS.values()},
    "causes": style.CAUSE_INKS,
    "curves": dict(enumerate(style.SERIES_INKS)),
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


@pytest.mark.parametrize("look", ["light", "dark"])
def test_marks_stand_out_from_the_page(look: str) -> None:
    inks = [ink for inks in SHARED_PICTURES.values() for ink in inks.values()]
    for ink in [*inks, style.ENGINE_INK]:
        assert contrast(getattr(ink, look), getattr(PAGE["paper"], look)) >= 3.0, ink


@pytest.mark.parametrize("deficiency", ["none", *DEFICIENCIES])
@pytest.mark.parametrize("look", ["light", "dark"])
@pytest.mark.parametrize("picture", SHARED_PICTURES)
def test_colours_of_one_picture_differ_for_people_of_every_colour_vision(
    picture: str, look: str, deficiency: str
) -> None:
    space = pytest.importorskip("colorspacious", exc_type=ImportError)

    def seen(ink: Ink) -> np.ndarray:
        colour = np.array([int(getattr(ink, look)[start : start + 2], 16) / 255 for start in (1, 3, 5)])
        if deficiency == "none":
            return colour
        viewer = {"name": "sRGB1+CVD", "cvd_type": deficiency, "severity": 100}
        return np.clip(space.cspace_convert(colour, viewer, "sRGB1"), 0, 1)

    colours = {name: seen(ink) for name, ink in SHARED_PICTURES[picture].items()}
    for first, other in itertools.combinations(colours, 2):
        difference = space.deltaE(colours[first], colours[other], input_space="sRGB1", uniform_space="CAM02-UCS")
        assert difference >= LEAST_DIFFERENCE, (first, other, difference)


def test_every_colour_is_a_variable_on_both_pages() -> None:
    light, dark = sheet().split("@media (prefers-color-scheme: dark)")
    for name, ink in PAGE.items():
        assert f"--{name}: {ink.light};" in light
        assert f"--{name}: {ink.dark};" in dark


def test_no_two_kinds_of_steps_or_states_share_both_colour_and_shape() -> None:
    steps = [(style.STEP_INKS[kind], style.STEP_SHAPES[kind]) for kind in style.STEP_INKS]
    assert len(set(steps)) == len(steps)
    assert len(set(style.STATUS_LOOKS.values())) == len(style.STATUS_LOOKS)


def test_causes_are_told_by_shapes_besides_colours() -> None:
    assert set(style.CAUSE_SHAPES) == set(style.CAUSE_INKS)
    assert len(set(style.CAUSE_SHAPES.values())) == len(style.CAUSE_SHAPES)
