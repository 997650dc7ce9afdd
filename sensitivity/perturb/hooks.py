"""The only file that registers hooks, and the context manager that removes them whatever happens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from sensitivity.perturb.operators import AtOperator, Inside, Unnested, stand_ins

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Before = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Arguments | None] | AtOperator | Unnested
After = Callable[[nn.Module, tuple[Any, ...], Any], Any]


class Counting:
    """What runs before a layer and counts its calls within a pass of the model.

    A pass is the outermost call of any module that holds the layer: of the model, or of the part of it that is called.
    So a pass that ended in an exception, or in which the layer ran more or less often, shifts no later one.

    Args:
        holders: Every module that holds the layer, itself included; none where nothing is to be counted.
    """

    def __init__(self, holders: Sequence[nn.Module] = ()) -> None:
        self.holders = tuple(holders)
        self.depth = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """What runs on the layer's arguments; it may return new ones."""
        raise NotImplementedError

    def start_pass(self) -> None:
        """Forget the last pass."""
        raise NotImplementedError

    def end_pass(self, outermost: nn.Module) -> None:
        """A pass ran to its end; it may be refused by an exception."""


@contextlib.contextmanager
def hooked(
    *, before: Iterable[tuple[nn.Module, Before]] = (), after: Iterable[tuple[nn.Module, After]] = ()
) -> Iterator[None]:
    """Hooks on modules for the time of a ``with`` block; they are gone after it, also after an interrupt.

    Args:
        before: Modules with what runs on their arguments; it may return new arguments. One that is ``Counting`` is told
            of every pass. One that is ``AtOperator`` acts on the operators that run in the module's calls instead.
        after: Modules with what runs on their output; it may return a new output.
    """
    before = list(before)
    passes = _Passes([function for _, function in before if isinstance(function, Counting)])
    insides = _insides([(module, hook) for module, hook in before if isinstance(hook, AtOperator)])
    encoders = list({module: hook for module, hook in before if isinstance(hook, Unnested)}.values())
    handles: list[RemovableHandle] = []
    with stand_ins([hook for _, hook in before if isinstance(hook, AtOperator)]):
        try:
            for holder in passes.holders:
                handles.append(holder.register_forward_pre_hook(passes.enter))
            for module, function in before:
                if not isinstance(function, (AtOperator, Unnested)):
                    handles.append(module.register_forward_pre_hook(function, with_kwargs=True))
            for module, inside in insides.items():  # first of all: hooks of torch.nn.utils compute weights
                handles.append(module.register_forward_pre_hook(inside.enter, prepend=True))
                handles.append(module.register_forward_hook(inside.leave, always_call=True))
            for unnested in encoders:
                encoder = unnested.encoder
                handles.append(encoder.register_forward_pre_hook(unnested.enter, prepend=True, with_kwargs=True))
                handles.append(encoder.register_forward_hook(unnested.leave, always_call=True))
            for module, change in after:
                handles.append(module.register_forward_hook(change))
            for unnested in encoders:
                handles.append(unnested.encoder.layers[-1].register_forward_hook(unnested.fill))
            for holder in passes.holders:
                handles.append(holder.register_forward_hook(passes.end))
                handles.append(holder.register_forward_hook(passes.leave, always_call=True))
            yield
        finally:
            for inside in insides.values():
                inside.close()
            for unnested in encoders:
                unnested.leave()
            for handle in handles:
                handle.remove()


def _insides(hooks: Iterable[tuple[nn.Module, AtOperator]]) -> dict[nn.Module, Inside]:
    """What enters and leaves the modules in whose calls operators are acted on."""
    layers: dict[nn.Module, list[AtOperator]] = {}
    for module, hook in hooks:
        layers.setdefault(module, []).append(hook)
    return {module: Inside(module, inner) for module, inner in layers.items()}


class _Passes:
    """Tells those that count where passes start and end."""

    def __init__(self, counting: Iterable[Counting]) -> None:
        self._counting: dict[nn.Module, list[Counting]] = {}
        for counter in counting:
            counter.depth = 0
            counter.start_pass()
            for holder in counter.holders:
                self._counting.setdefault(holder, []).append(counter)
        self.holders = list(self._counting)

    def enter(self, module: nn.Module, _: Any) -> None:
        """A module that holds the layer was called: the outermost one begins a pass."""
        for counter in self._counting[module]:
            if counter.depth == 0:
                counter.start_pass()
            counter.depth += 1

    def end(self, module: nn.Module, _: Any, __: Any) -> None:
        """It returned."""
        for counter in self._counting[module]:
            if counter.depth == 1:
                counter.end_pass(module)

    def leave(self, module: nn.Module, _: Any, __: Any) -> None:
        """Runs after an exception as well."""
        for counter in self._counting[module]:
            counter.depth = max(0, counter.depth - 1)


def modules_around(model: nn.Module, module: nn.Module) -> list[nn.Module]:
    """Every module of a model that holds another one, that one included."""
    return [outer for outer in model.modules() if any(inner is module for inner in outer.modules())]
