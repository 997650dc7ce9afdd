"""Docstrings on the site: what stands behind ``>>>`` is shown as Python, and ``Wrapped`` has all of its methods."""

from __future__ import annotations

import copy
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


class Verbs(griffe.Extension):
    """Shows functions that ``Wrapped`` takes from other modules (``analyze = measuring.analyze``) as its methods."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Put them into the class, once the whole package was read."""
        wrapped = pkg["wrapped.model.Wrapped"]
        for name, member in list(wrapped.members.items()):
            module, _, function = str(getattr(member, "value", "")).partition(".")
            if function and module in pkg["wrapped"].members:
                wrapped.set_member(name, method(pkg["wrapped"][module][function], wrapped))


def plainly_annotated(parameter: griffe.Parameter) -> griffe.Parameter:
    """A parameter without what its annotation says to the library alone: ``Annotated[int, CHECKED]`` is an int."""
    plain = copy.copy(parameter)
    if str(plain.annotation).startswith("Annotated["):
        plain.annotation = plain.annotation.slice.elements[0]
    return plain


def method(function: griffe.Function, owner: griffe.Class) -> griffe.Function:
    """A function as a method: without its first argument, which is the object."""
    first, *others = function.parameters
    documented = copy.copy(function)
    documented.parent = owner
    documented.parameters = griffe.Parameters(*map(plainly_annotated, others))
    if function.docstring:
        text = re.sub(rf"^ *{first.name}: .*\n", "", function.docstring.value, flags=re.MULTILINE)
        documented.docstring = copy.copy(function.docstring)  # with its parser
        documented.docstring.value = re.sub(r"^Args:\n(?! )", "", text, flags=re.MULTILINE)
        documented.docstring.parent = documented
    return documented
