"""Docstrings on the site: what stands behind ``>>>`` is shown as Python, up to the next empty line."""

from __future__ import annotations

import re
from typing import Any

import griffe

DIALOGUE = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?! *$).+)*", flags=re.MULTILINE)


class Dialogues(griffe.Extension):
    """Puts a fence around each dialogue. Without it Markdown reads ``>>>`` as a quotation."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of one object of the package."""
        if obj.docstring and not re.search(r"^Examples:$", obj.docstring.value, flags=re.MULTILINE):
            obj.docstring.value = DIALOGUE.sub(fenced, obj.docstring.value)


def fenced(dialogue: re.Match[str]) -> str:
    """The dialogue as a block of code, as far to the right as it was."""
    indent = dialogue["indent"]
    return f"{indent}```python\n{dialogue[0]}\n{indent}```"
