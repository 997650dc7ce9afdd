"""What the functions of a forward pass keep beside the model: closures, global variables, defaults, attributes.

The functions are found by what their code names: the ``forward`` of every module, the methods of the model's
classes that it names, and the functions that they name as global variables or hold in closures. Functions of
torch, numpy and the standard library are not looked into.
"""

from __future__ import annotations

import dis
import functools
import operator
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from sensitivity.perturb.state.holders import Holder, names

MOST_FUNCTIONS = 4000
"""Functions that are looked at: a bound for models that lead into a whole library."""

_OUTSIDE = sys.stdlib_module_names - {"__main__"} | {"torch", "numpy", "builtins"}
_ABSENT = object()
_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"})
_CODE = (types.ModuleType, type, types.FunctionType, types.BuiltinFunctionType)


def entries(modules: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, types.FunctionType]]:
    """The functions that calls of modules start, each with its module: its class's ``forward``, and one of its own.

    Hooks are left out: what they collect is for whoever registered them.
    """
    of_class: dict[type, list[types.FunctionType]] = {}
    for module in modules:
        kind = type(module)
        if kind not in of_class:
            methods = [vars(base).get(name) for base in kind.__mro__ for name in ("forward", "__call__")]
            of_class[kind] = [function for start in methods for function in _functions_in(start)]
        own = vars(module).get("forward")
        for function in (*of_class[kind], *(_functions_in(own) if own is not None else ())):
            yield module, function


def named_functions(function: types.FunctionType, classes: Sequence[type]) -> list[types.FunctionType]:
    """The functions that a function names or holds in its closure.

    Args:
        function: Of which the code is read.
        classes: Those of the model's modules, of which it may name methods.
    """
    attributes = {name for code in _codes(function.__code__) for name in code.co_names}
    methods = [vars(kind)[name] for kind in classes for name in attributes & vars(kind).keys()]
    around = [*_cells(function).values(), *(value for _, value in _globals(function)), *methods]
    return [inner for value in around for inner in _functions_in(value)]


def kept_by(function: types.FunctionType, path: str) -> list[Holder]:
    """What a function's closure, its global variables, its defaults and its attributes hold.

    Args:
        function: The function.
        path: What it is called in messages.
    """
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    holders = [_Bound.closure(cells, f"{path}, closure")] if cells else []
    names_used = [name for name, value in _globals(function) if not isinstance(value, _CODE)]
    if names_used:  # a class that is named is another thing that keeps state: see ``named_classes``
        holders.append(_Bound.globals(function.__globals__, names_used, f"global of {path}"))
    holders.append(names(path, function.__dict__, frozenset({"__wrapped__"})))
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    if defaults:
        values = {f"default {number}": value for number, value in enumerate(defaults)}
        holders.append(Holder(path, lambda: values, operator.is_, values, None, owner=values))
    return holders


def named_classes(function: types.FunctionType) -> list[type]:
    """The classes that a function names or holds in its closure, those of torch and the like aside."""
    around = [*_cells(function).values(), *(value for _, value in _globals(function))]
    return [value for value in around if isinstance(value, type) and not _is_outside(value.__module__)]


class _Bound:
    """Holders of variables that are bound to objects, compared by identity."""

    @staticmethod
    def closure(cells: dict[str, types.CellType], path: str) -> Holder:
        """The variables of a closure."""

        def write(content: dict[str, Any]) -> None:
            for name, value in content.items():
                if value is _ABSENT:
                    del cells[name].cell_contents
                else:
                    cells[name].cell_contents = value

        read = functools.partial(_contents, cells)
        return Holder(path, read, _same, read(), write)

    @staticmethod
    def globals(variables: dict[str, Any], names_used: Sequence[str], path: str) -> Holder:
        """Some of the global variables of a file."""

        def read() -> dict[str, Any]:
            return {name: variables.get(name, _ABSENT) for name in names_used}

        def write(content: dict[str, Any]) -> None:
            for name, value in content.items():
                if value is _ABSENT:
                    variables.pop(name, None)
                else:
                    variables[name] = value

        return Holder(path, read, _same, read(), write)


def _same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return all(map(operator.is_, left.values(), right.values()))


def _contents(cells: dict[str, types.CellType]) -> dict[str, Any]:
    contents = {}
    for name, cell in cells.items():
        try:
            contents[name] = cell.cell_contents
        except ValueError:  # not bound yet
            contents[name] = _ABSENT
    return contents


def _cells(function: types.FunctionType) -> dict[str, Any]:
    return _contents(dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)))


def _globals(function: types.FunctionType) -> list[tuple[str, Any]]:
    """The global variables that a function's code names; none where its file is part of torch or the like."""
    variables = function.__globals__
    if _is_outside(variables.get("__name__", "")):
        return []
    return [
        (name, variables.get(name, _ABSENT)) for name in _global_names(function.__code__) if _is_here(name, variables)
    ]


def _is_here(name: str, variables: dict[str, Any]) -> bool:
    return name in variables or name not in vars(sys.modules["builtins"])


@functools.lru_cache(maxsize=2 * MOST_FUNCTIONS)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    named = {
        instruction.argval
        for inner in _codes(code)
        for instruction in dis.get_instructions(inner)
        if instruction.opname in _GLOBAL
    }
    return tuple(sorted(named))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and those of the functions defined inside."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _functions_in(value: Any) -> Iterator[types.FunctionType]:
    """The Python functions that are called where a value is: of a method, a property, a partial, a decorator."""
    if isinstance(value, functools.partial):
        yield from _functions_in(value.func)
    value = getattr(value, "__func__", getattr(value, "fget", value))
    if isinstance(value, types.FunctionType) and is_looked_at(value):
        yield value


def is_looked_at(function: types.FunctionType) -> bool:
    """Whether a function belongs to the model, and not to torch, numpy or the standard library."""
    return not _is_outside(function.__module__)


def _is_outside(module: Any) -> bool:
    package, _, rest = str(module).partition(".")
    if package == "sensitivity":  # what measures keeps state of its own; the models that we ship do not
        return rest.partition(".")[0] not in ("zoo", "demo")
    return package in _OUTSIDE
