"""Colours and text sizes of pages and notebook views, light and dark, as variables of their style sheet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ink:
    """One colour on a light page and on a dark one."""

    light: str
    dark: str

    def plain(self) -> dict[str, str]:
        """The same for a page's script."""
        return {"light": self.light, "dark": self.dark}


PAGE: Mapping[str, Ink] = {
    "paper": Ink("#ffffff", "#16181d"),
    "raised": Ink("#f7f7f9", "#1f2229"),
    "line": Ink("#dddde2", "#3a3e48"),
    "text": Ink("#1d1d1f", "#ececf0"),
    "quiet": Ink("#5f5f66", "#a9abb3"),
    "baseline": Ink("#222222", "#ececf0"),
    "interval": Ink("#b4b4b4", "#6d707a"),
    "failed": Ink("#b00020", "#ff8a80"),
    "good": Ink("#00704f", "#2cc79a"),
    "focus": Ink("#0b57d0", "#8ab4f8"),
}
"""Colours of pages by what they are for; a page's style sheet has each as ``--paper`` and so on."""

TITLE_PIXELS, HEADING_PIXELS, TEXT_PIXELS, SMALL_PIXELS = 24, 18, 15, 13
"""Text sizes of pages; whoever needs larger text zooms, and everything grows."""


def sheet() -> str:
    """The colours and text sizes as variables of a style sheet; dark where the reader's system is."""
    sizes = {"title": TITLE_PIXELS, "heading": HEADING_PIXELS, "body": TEXT_PIXELS, "small": SMALL_PIXELS}
    light = [f"--{name}: {ink.light};" for name, ink in PAGE.items()]
    light += [f"--size-{name}: {pixels / 16:g}rem;" for name, pixels in sizes.items()]
    dark = [f"--{name}: {ink.dark};" for name, ink in PAGE.items()]
    return (
        f".sensitivity {{ color-scheme: light dark; {' '.join(light)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ .sensitivity {{ {' '.join(dark)} }} }}\n"
    )
