"""The defaults of the contract for engines from outside that do not inherit them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sensitivity.contracts import Engine, EngineLayer, RunsGraph
from sensitivity.errors import EngineBuildError


class EngineWithDefaults(Engine):
    """An engine that has the least only, with the defaults of the contract; everything else is passed on to it."""

    def __init__(self, engine: RunsGraph) -> None:
        self._engine = engine
        self.name = engine.name
        for member in _DEFAULTS:
            if hasattr(engine, member):
                setattr(self, member, getattr(engine, member))

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        """See ``RunsGraph``."""
        return self._engine.run(*inputs)

    def layer_info(self) -> list[EngineLayer]:
        """See ``RunsGraph``."""
        return self._engine.layer_info()

    def latency_s(self, *inputs: Any, repeats: int = 20) -> float:
        """See ``RunsGraph``."""
        return self._engine.latency_s(*inputs, repeats=repeats)

    def __getattr__(self, name: str) -> Any:
        if name == "_engine":
            raise AttributeError(name)
        return getattr(self._engine, name)


_DEFAULTS = tuple(Engine.__annotations__)


def with_defaults(engine: RunsGraph) -> Engine:
    """The engine itself where it has all that the contract asks for, else one that adds the defaults.

    Raises:
        EngineBuildError: If it lacks what has no default.
    """
    if isinstance(engine, Engine):
        return engine
    missing = missing_members(engine)
    if missing:
        raise EngineBuildError(
            f"{type(engine).__name__} is no engine: it has no {', '.join(missing)}. See sensitivity.contracts.Engine."
        )
    return EngineWithDefaults(engine)


def missing_members(engine: object) -> Sequence[str]:
    """What an object lacks of the least that an engine has."""
    return [member for member in ("name", "run", "layer_info", "latency_s") if not hasattr(engine, member)]
