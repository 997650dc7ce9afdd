"""What a model keeps beside parameters and buffers: counters, lists, dicts, arrays, random generators, objects."""

from __future__ import annotations

import types
from collections.abc import Mapping, Set
from itertools import chain
from typing import Any

from torch import Tensor, nn

from sensitivity.perturb.state.bindings import Bindings
from sensitivity.perturb.state.functions import (
    MOST_FUNCTIONS,
    entries,
    is_looked_at,
    kept_by,
    named_classes,
    named_functions,
)
from sensitivity.perturb.state.holders import (
    ATOMS,
    ATOMS_WITHOUT_FUNCTIONS,
    OF_ANY_MODULE,
    Holder,
    class_names,
    function_caches,
    holders_of,
    is_plain_tuple,
    names,
    parts_of,
)

_PARTS = ("_g", "_v", "_orig")  # of a parameter's name, after that of the attribute made of it
_EXCHANGED = frozenset({"forward"})  # for the time of a pass, by what measures
_HIDDEN = OF_ANY_MODULE | _EXCHANGED | {"training"}


class Attributes:
    """The attributes of a model's modules and of their classes with all that they hold, as they are when this is made.

    Lists, dicts, sets, numpy arrays, generators of random numbers and objects of Python classes are followed as deep as
    they nest, and so is what the functions of a pass keep: closures, global variables, defaults and attributes of
    functions (see ``functions``). Not looked at: what hooks collect, objects that are written in C, and what torch,
    numpy and the standard library keep.

    Args:
        modules: All modules of the model by path.

    Attributes:
        tensors: Those in the things that the modules hold, with their paths; the modules' own are not among them.
        functions_left_out: Whether passes may call more functions than are looked at.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.tensors: list[tuple[str, Tensor]] = []
        self._modules = {id(module): module for module in modules.values()}
        self._classes = {kind: _classes_of(kind) for kind in dict.fromkeys(map(type, modules.values()))}
        self._held: dict[int, list[Holder]] = {}  # by id of what holds
        self._parts: dict[int, list[int]] = {}  # of each, by id
        self._alive: list[Any] = []  # or another object could get the id
        self._functions: list[tuple[Any, types.FunctionType]] = []  # that something holds, and what holds them
        for path, module in modules.items():
            self._remember_module(module, path)
        self._remember_functions()
        self._arrange()

    def _arrange(self) -> None:
        """Divide the holders by how it is found that they have changed."""
        all_of_them = [(place, holder) for place, held in self._held.items() for holder in held]
        bound = [pair for pair in all_of_them if pair[1].owner is not None and not pair[1].names_only]
        named = [pair for pair in all_of_them if pair[1].owner is not None and pair[1].names_only]
        self._bound = len(bound)
        self._owning = [*bound, *named]
        self._other = [pair for pair in all_of_them if pair[1].owner is None]
        self._generators = [holder for _, holder in all_of_them if holder.draws]
        self.flags_moved()

    def flags_moved(self) -> None:
        """Take what is bound now for unchanged: nothing but names that do not count is bound to something else."""
        owners = [holder.owner for _, holder in self._owning if holder.owner is not None]
        self._bindings = Bindings(owners[: self._bound], owners[self._bound :])

    def put_back(self) -> list[str]:
        """Let everything hold again what it held.

        Returns:
            Paths of what has changed and cannot be put back.
        """
        return [holder.path for _, holder in self._changed() if not holder.put_back()]

    def changed_modules(self) -> set[int]:
        """``id`` of the modules that hold something which has changed."""
        changed = {place for place, _ in self._changed()}
        return (
            {module for module in self._modules if not self._reached(module).isdisjoint(changed)} if changed else set()
        )

    def drew(self) -> bool:
        """Whether a generator of random numbers that a module holds was used."""
        return any(holder.changed() for holder in self._generators)

    def _changed(self) -> list[tuple[int, Holder]]:
        """What has changed, with the ``id`` of what holds it."""
        different = [self._owning[position] for position in self._bindings.different()]
        changed = [(place, holder) for place, holder in (*different, *self._other) if holder.changed()]
        if different and not changed:
            self.flags_moved()
        return changed

    def _reached(self, module: int) -> Set[int]:
        reached, waiting = {module}, [module]
        while waiting:
            new = set(self._parts.get(waiting.pop(), ())) - reached
            reached |= new
            waiting += new
        return reached

    def _remember_module(self, module: nn.Module, path: str) -> None:
        own, dot = vars(module), f"{path}." if path else ""
        made_by_hooks = recomputed(module)
        hidden = _HIDDEN | made_by_hooks if made_by_hooks else _HIDDEN
        attributes = names(path or type(module).__name__, own, hidden)
        held = [attributes, names(f"{dot}_modules", module._modules)]
        # tensors that are there are remembered with their content by whoever made this; parameters, also those that
        # are None, are exchanged for the time of a pass by what measures
        tensors = frozenset(name for name, buffer in module._buffers.items() if buffer is not None)
        held.append(names(f"{dot}_buffers", module._buffers, tensors))
        held.append(names(f"{dot}_parameters", module._parameters, frozenset(module._parameters.keys())))
        self._remember(module, held)
        self._follow(
            [
                (module, dot + name, part)
                for name, part in attributes.content.items()
                if type(part) not in ATOMS_WITHOUT_FUNCTIONS and not isinstance(part, Tensor)
            ]
        )
        for kind in self._classes[type(module)]:
            self._link_class(module, kind)

    def _link_class(self, owner: Any, kind: type) -> None:
        """Remember a class whose attributes something uses."""
        self._parts[id(owner)].append(id(kind))
        if id(kind) not in self._parts:
            self._remember_class(kind)

    def _remember_class(self, kind: type) -> None:
        shared = class_names(kind)
        self._remember(kind, [shared])
        parts = [(f"{kind.__name__}.{name}", part) for name, part in shared.content.items()]
        self._follow([(kind, *part) for part in (*parts, *function_caches(kind))])

    def _remember_functions(self) -> None:
        """Remember what the functions that a pass may call keep."""
        classes = list(dict.fromkeys(chain.from_iterable(self._classes.values())))
        waiting, self._functions = self._functions, []
        waiting += entries(self._modules.values())
        remembered = 0
        while waiting and remembered < MOST_FUNCTIONS:
            owner, function = waiting.pop()
            self._parts[id(owner)].append(id(function))
            if id(function) in self._parts:
                continue
            remembered += 1
            held = kept_by(function, function.__qualname__)
            self._remember(function, held)
            self._follow(
                [
                    (function, f"{holder.path} {name}", part)
                    for holder in held
                    for name, part in holder.content.items()
                    if not isinstance(part, (type, types.ModuleType))
                ]
            )
            for kind in named_classes(function):
                self._link_class(function, kind)
            waiting += [(function, inner) for inner in named_functions(function, classes)]
        self.functions_left_out = any(id(function) not in self._parts for _, function in waiting)
        self._functions = []

    def _remember(self, value: Any, held: list[Holder]) -> None:
        self._held[id(value)] = held
        self._parts[id(value)] = []
        self._alive.append(value)

    def _follow(self, waiting: list[tuple[Any, str, Any]]) -> None:
        """Remember what can be reached from some objects: triples of who holds one, its path, and the object."""
        while waiting:
            owner, path, value = waiting.pop()
            if isinstance(value, types.FunctionType) and is_looked_at(value):
                self._functions.append((owner, value))
            if type(value) in ATOMS or id(value) in self._modules or is_plain_tuple(value):
                continue
            self._parts[id(owner)].append(id(value))
            if id(value) in self._parts:
                continue
            held = [] if isinstance(value, Tensor) else list(holders_of(value, path))
            self._remember(value, held)
            if isinstance(value, Tensor):
                self.tensors.append((path, value))
            for content in [holder.content for holder in held] or [None]:
                waiting += [(value, below, part) for below, part in parts_of(value, path, content)]


def recomputed(module: nn.Module) -> set[str]:
    """Plain attributes that a hook makes of a parameter in every pass (old weight norm, pruning)."""
    held = module._parameters.keys()  # those of a scripted module cannot be iterated themselves
    made_of = {name.rpartition("_")[0] for name in held if name.endswith(_PARTS)}
    return {name for name in made_of if name in vars(module)} if made_of else made_of


def _classes_of(kind: type) -> list[type]:
    """The classes whose attributes a module of a class shares with others; those of torch keep no state of a pass."""
    outside = {"torch", "builtins", "abc", "typing"}
    return [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in outside]
