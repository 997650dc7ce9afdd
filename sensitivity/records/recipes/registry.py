"""Values that a recipe names: ours, and those that a program adds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from sensitivity.errors import RecipeError, SensitivityError


class Named(Protocol):
    """A value that knows its own name."""

    @property
    def name(self) -> str:
        """The name that recipes use."""


Value = TypeVar("Value", bound=Named)


class Registry(Generic[Value]):
    """Values by name, in the order in which they were added.

    Args:
        noun: What the values are, for messages: ``observer``.
        how: The call that adds one, for messages: ``sv.register_observer(name, ...)``.
        ours: The values that are always there and can never be replaced.
        error: What is raised.
    """

    def __init__(
        self, noun: str, how: str, builtin: Iterable[Value], *, error: type[SensitivityError] = RecipeError
    ) -> None:
        self._error = error
        self._noun = noun
        self._how = how
        self._values = {value.name: value for value in builtin}
        self._ours = frozenset(self._values)

    def add(self, value: Value, *, replace: bool = False) -> None:
        """Add a value under its own name. Adding an equal value again changes nothing.

        Args:
            value: The value.
            replace: Take the place of a value of this name that was added before.

        Raises:
            RecipeError: If the name is no text, is one of ours, or is taken and ``replace`` is not set.
        """
        name = value.name
        if not isinstance(name, str) or not name or not name.isprintable() or name != name.strip():
            raise self._error(f"{name!r} is no name for a {self._noun}. Give a short text, such as 'my_{self._noun}'.")
        if self._values.get(name) == value:
            return
        if name in self._ours:
            raise self._error(f"{self._noun} {name!r} is one of this library's own. Use another name.")
        if name in self._values and not replace:
            raise self._error(
                f"another {self._noun} is registered as {name!r}. Use another name, since stored results name it, or "
                "replace it with replace=True."
            )
        self._values[name] = value

    def find(self, name: object) -> Value:
        """The value of this name.

        Raises:
            RecipeError: If there is none.
        """
        if not isinstance(name, str) or name not in self._values:
            raise RecipeError(
                f"{self._noun} {name!r} is not known. Choose one of: {', '.join(self._values)}. One of your own is "
                f"known after {self._how}, which has to run before a recipe names it, also where the recipe is "
                "read from a file."
            )
        return self._values[name]

    def is_ours(self, name: str) -> bool:
        """Whether this library brings the value of this name."""
        return name in self._ours

    @property
    def values(self) -> tuple[Value, ...]:
        """All values."""
        return tuple(self._values.values())

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(self._values)
