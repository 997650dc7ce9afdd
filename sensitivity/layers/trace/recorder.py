"""Writes every operator and module call of a pass on the tape.

It sits below autograd, where every tensor operation is visible whatever the source looks like: modules, functions,
methods or operators.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from sensitivity.errors import TracingError
from sensitivity.interception import Original, calls_handled
from sensitivity.layers.trace.composite import base_name, run_in_products
from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.layers.trace.leaks import ExecutedStep, Execution, Made
from sensitivity.layers.trace.tape import Call, Op, Ref, Tape, Value

# make a tensor like another one: its shape is read, its values are not
FACTORIES = frozenset(
    {"new_empty", "new_full", "new_ones", "new_zeros", "new_empty_strided"}
    | {f"{kind}_like" for kind in ("empty", "full", "ones", "zeros", "rand", "randn", "randint")}
)


class TapeRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes every operator on the tape; tensors are known by identity, versions by what was written to them."""

    supports_higher_order_operators = True  # to refuse them with what to do

    def __init__(self, tape: Tape, parameters: Mapping[int, str], buffers: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape = tape
        self.parameters = parameters  # id of the parameter object -> its path
        self.buffers = buffers
        self.execution = Execution()
        self.numbers = self.execution.numbers  # live tensor -> number of its current value
        self.aliases: dict[int, WeakIdKeyDictionary] = {}  # storage -> live tensors on it
        self.stack: list[int] = []

    def number(self, tensor: Tensor) -> int:
        """The value a tensor now holds; one not seen before is a parameter, a buffer or a constant."""
        known = self.numbers.get(tensor)  # type: ignore[no-untyped-call]
        if known is not None:
            return int(known)
        shape, key = tuple(tensor.shape), id(tensor)
        number = self.add(tensor, Value(None, shape, self.parameters.get(key), buffer=self.buffers.get(key)))
        self.execution.leaves[number] = tensor
        return number

    def add(self, tensor: Tensor, value: Value) -> int:
        """Give a tensor a new value."""
        value.is_complex = tensor.is_complex()
        self.tape.values.append(value)
        number = len(self.tape.values) - 1
        self.numbers[tensor] = number
        key = storage_key(tensor)
        if key is not None:
            self.aliases.setdefault(key, WeakIdKeyDictionary())[tensor] = True
        return number

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            raise TracingError(
                f"the forward calls torch's higher-order operator {func.__name__!r}, whose branches or bodies are "
                "functions that torch compiles: layers inside cannot be perturbed one by one. Write it in Python (an "
                "if, a loop), or wrap the modules around it by themselves."
            )
        parts = run_in_products(func, args, kwargs, self)
        if parts is not NotImplemented:
            return parts
        inputs = tuple(self.number(tensor) for tensor in _of_kind(Tensor, (args, kwargs)))
        seen_args, seen_kwargs = _exchanged(Tensor, lambda tensor: Ref(self.number(tensor)), (args, kwargs))
        result = func(*args, **kwargs)
        outputs = list(_of_kind(Tensor, result))
        written = written_by(func, args, kwargs)
        targets = list({id(t): t for t in (*written, *outputs)}.values())
        if not targets:
            return result
        number = len(self.tape.ops)
        dynamic = base_name(func) not in FACTORIES and any(self.tape.values[v].dynamic for v in inputs)
        aliases = self._others_on(written, targets)
        before = tuple(self.number(tensor) for tensor in written)
        numbers = tuple(self.add(t, Value(number, tuple(t.shape), dynamic=dynamic)) for t in targets)
        name = base_name(func)
        name = name.removesuffix("_") if written else name
        self._append(Op(name, tuple(seen_args), seen_kwargs, inputs, numbers, tuple(self.stack)))
        made_args, made_kwargs = _exchanged(Ref, lambda ref: Made(ref.value), (seen_args, seen_kwargs))
        self.execution.steps.append(ExecutedStep(func, made_args, made_kwargs, before, numbers))
        for alias in aliases:
            self._rewrite(alias, numbers[0])
        return result

    def _others_on(self, written: list[Tensor], targets: list[Tensor]) -> list[Tensor]:
        """Live tensors that share storage with one that is written, so that their content changes too."""
        own = {id(t) for t in targets}
        keys = {key for key in map(storage_key, written) if key is not None}
        return [t for key in keys for t in list(self.aliases.get(key, {})) if id(t) not in own]

    def _rewrite(self, tensor: Tensor, cause: int) -> None:
        """A view's base (or the base's view) was written: its new version depends on the old one and the write."""
        old = self.number(tensor)
        number = len(self.tape.ops)
        new = self.add(tensor, Value(number, tuple(tensor.shape), dynamic=True))
        self._append(Op("written_through_view", (Ref(old), Ref(cause)), {}, (old, cause), (new,), tuple(self.stack)))
        self.execution.steps.append(ExecutedStep(None, (Made(old), Made(cause)), {}, (), (new,)))

    def _append(self, op: Op) -> None:
        for value in dict.fromkeys(op.inputs):
            self.tape.consumers.setdefault(value, []).append(len(self.tape.ops))
        self.tape.ops.append(op)


def storage_key(tensor: Tensor) -> int | None:
    """What tensors on the same memory have in common while one of them lives; None where there is no memory."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and other layouts have no storage to share
        return None


def written_by(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensor arguments that an operator writes to, by its schema."""
    written: list[Tensor] = []
    for position, name in _places_written(func):
        written += _of_kind(Tensor, args[position] if position < len(args) else kwargs.get(name))
    return written


@functools.lru_cache(maxsize=4096)
def _places_written(func: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of the arguments that an operator writes to."""
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def _of_kind(kind: type, nest: Any) -> Iterator[Any]:
    """The objects of a class in what operators take and return: nests of tuples, lists and dicts."""
    if isinstance(nest, kind):
        yield nest
    elif isinstance(nest, (tuple, list)):
        for item in nest:
            yield from _of_kind(kind, item)
    elif isinstance(nest, dict):
        for item in nest.values():
            yield from _of_kind(kind, item)


def _exchanged(kind: type, exchange: Callable[[Any], Any], nest: Any) -> Any:
    """The same nest with others in the place of the objects of a class."""
    if isinstance(nest, kind):
        return exchange(nest)
    if type(nest) in (tuple, list):
        return type(nest)([_exchanged(kind, exchange, item) for item in nest])
    if type(nest) is dict:
        return {name: _exchanged(kind, exchange, item) for name, item in nest.items()}
    return nest


@contextlib.contextmanager
def module_calls_noted(recorder: TapeRecorder, paths: Mapping[int, str]) -> Iterator[None]:
    """Note which module calls are open while operators run.

    No hook is added to anybody's model.
    """
    tape = recorder.tape

    def call(original: Original, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        path = paths.get(id(module))
        if path is None:
            return original(module, *args, **kwargs)
        entry = Call(path, tuple(recorder.number(t) for t in tensors_in((args, kwargs))), first=len(tape.ops))
        entry.top_level = any(isinstance(value, Tensor) for value in (*args, *kwargs.values()))
        tape.calls.append(entry)
        recorder.stack.append(len(tape.calls) - 1)
        try:
            result = original(module, *args, **kwargs)
        finally:
            recorder.stack.pop()
        entry.last = len(tape.ops)
        entry.outputs = tuple(recorder.number(t) for t in tensors_in(result))
        return result

    with calls_handled(call):
        yield
