"""What colours, shapes and fillings of the dips mean; kinds are buttons that hide and show their layers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeVar

from sensitivity.markup.elements import Markup, element, joined
from sensitivity.markup.ink import Ink
from sensitivity.report import style
from sensitivity.report.reading import Reading

_Look = TypeVar("_Look", bound=Hashable)
_OUTLINES = {
    "circle": "M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10z",
    "square": "M3.5 3.5h9v9h-9z",
    "diamond": "M8 2l6 6l-6 6l-6-6z",
    "triangle-down": "M2 4h12l-6 9z",
    "triangle-up": "M2 12h12l-6-9z",
    "star": "M8 1l2.1 4.9 5.2.4-4 3.5 1.3 5.2L8 12.1 3.4 15l1.3-5.2-4-3.5 5.2-.4z",
    "x-thin": "M3 3l10 10M13 3L3 13",
    "cross-thin": "M8 2v12M2 8h12",
    "cross": "M3 3l10 10M13 3L3 13",
}


def dips_legend(reading: Reading, recipes: tuple[str, ...]) -> Markup:
    """Entries for the kinds, shapes and verdicts that are drawn; those of single recipes are hidden with them.

    Args:
        reading: What there is to show.
        recipes: Names of the recipes to show.
    """
    places = {name: place for place, name in enumerate(recipes)}
    measured = [m for m in reading.study.measurements if m.recipe in places]
    layers = {layer.name: layer for layer in reading.study.layers}
    kinds = _recipes_of((layers[m.layer].kind, places[m.recipe]) for m in measured)
    shapes = _recipes_of(
        (style.shape_of(layers[m.layer].flags), places[m.recipe]) for m in measured if m.drop is not None
    )
    verdicts = _recipes_of(
        (verdict, place) for name, place in places.items() for verdict in reading.verdicts[name].values()
    )
    failed = sorted({places[m.recipe] for m in measured if m.drop is None})
    order = list(style.KIND_INKS)

    def only(drawn: list[int]) -> str | None:
        return None if len(drawn) == len(recipes) else " ".join(map(str, drawn))

    entries = [
        _kind(kind, only(kinds[kind]))
        for kind in sorted(kinds, key=lambda kind: (order.index(kind) if kind in order else len(order), kind))
    ]
    entries += [
        entry(word, shape, "outline", only_recipe=only(shapes[shape]))
        for word, shape in style.SHAPE_WORDS.items()
        if shape in shapes
    ]
    entries += [
        entry(words, "circle", str(verdict), only_recipe=only(verdicts[verdict]))
        for verdict, words in style.verdict_words(reading.shown_tolerance).items()
        if verdict in verdicts
    ]
    if failed:
        entries.append(entry("no result", "cross", "failed", only_recipe=only(failed)))
    return element("ul", *entries, class_="legend", aria_label="Legend")


def _recipes_of(pairs: Iterable[tuple[_Look, int]]) -> dict[_Look, list[int]]:
    """Each look with the places of the recipes under which it is drawn."""
    places: dict[_Look, set[int]] = {}
    for look, place in pairs:
        places.setdefault(look, set()).add(place)
    return {look: sorted(drawn) for look, drawn in places.items()}


def entry(words: str, shape: str, look: str, ink: Ink | None = None, *, only_recipe: str | None = None) -> Markup:
    """One entry: a small mark and what it means.

    Args:
        words: What it means.
        shape: Name of the mark.
        look: Class of the mark, which says how it is filled.
        ink: Its colour; None for a quiet one.
        only_recipe: Places of the recipes under which it is drawn; None for all.
    """
    return element("li", _mark(shape, look, ink), words, data_only_recipe=only_recipe)


def swatch_entry(words: str, ink: Ink) -> Markup:
    """One entry: a patch of a colour and what it means."""
    return element("li", element("span", class_="swatch", style=_colours(ink)), words)


def line_entry(words: str, ink: Ink, look: str, *, drawn: str) -> Markup:
    """One entry: a piece of a line and what it means.

    Args:
        words: What it means.
        ink: Its colour.
        look: ``solid``, ``dashed`` or ``dotted``.
        drawn: The part of a distribution that the line shows; the entry is hidden while none is drawn.
    """
    return element("li", element("span", class_=f"piece {look}", style=_colours(ink)), words, data_drawn=drawn)


def _mark(shape: str, look: str, ink: Ink | None) -> Markup:
    """A small picture of a mark, which readers of the screen need not hear of."""
    path = element("path", d=_OUTLINES[shape])
    colours = None if ink is None else _colours(ink)
    return element(
        "svg", path, class_=f"mark {look}", style=colours, viewBox="0 0 16 16", aria_hidden="true", focusable="false"
    )


def _colours(ink: Ink) -> str:
    return f"--light: {ink.light}; --dark: {ink.dark}"


def _kind(kind: str, only_recipe: str | None) -> Markup:
    ink = style.kind_ink(kind)
    button = element(
        "button",
        joined(element("span", class_="swatch", style=_colours(ink)), kind),
        type="button",
        data_kind=kind,
        aria_pressed="true",
    )
    return element("li", button, data_only_recipe=only_recipe)
