"""One traced pass: every operator, who feeds whom, and inside which module call.

The pass runs a copy of the model below autograd, where every tensor operation is visible whatever the source looks
like: modules, functions, methods or operators. It runs on fake tensors (shapes only, no arithmetic) and falls back to
real ones where control flow depends on values.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from sensitivity.errors import NotRestoredError, TracingError
from sensitivity.interception import Original, calls_handled
from sensitivity.layers.composite import base_name, run_in_products
from sensitivity.layers.generators import generators_forked
from sensitivity.layers.inputs import arguments_of, tensors_in
from sensitivity.layers.leaks import ExecutedStep, Execution, Made, replace_leaks
from sensitivity.layers.modes import TorchModes
from sensitivity.turns import process_state

# make a tensor like another one: its shape is read, its values are not
FACTORIES = frozenset(
    {"new_empty", "new_full", "new_ones", "new_zeros", "new_empty_strided"}
    | {f"{kind}_like" for kind in ("empty", "full", "ones", "zeros", "rand", "randn", "randint")}
)


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor argument of an operator: number of its value on the tape."""

    value: int


@dataclass(slots=True)
class Value:
    """One version of one tensor.

    Attributes:
        producer: Number of the operator that wrote it; None for inputs, parameters and constants.
        shape: Its shape.
        parameter: Path of the parameter it is, or None.
        is_input: Whether it is an input of the model.
        dynamic: Whether it depends on an input of the model.
        is_complex: Whether its numbers are complex.
    """

    producer: int | None
    shape: tuple[int, ...]
    parameter: str | None = None
    is_input: bool = False
    dynamic: bool = False
    is_complex: bool = False


@dataclass(frozen=True, slots=True)
class Op:
    """One operator call.

    Attributes:
        name: Name without overload, in-place ones without their underscore, e.g. ``convolution`` or ``relu``.
        args: Positional arguments; tensors as ``Ref``.
        kwargs: The same for keyword arguments.
        inputs: Values of all tensor arguments.
        outputs: Values written.
        scope: Numbers of the module calls it ran in, outermost first.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    scope: tuple[int, ...]


@dataclass(slots=True)
class Call:
    """One call of one module.

    Attributes:
        module: Its path; empty for the model itself.
        inputs: Values of the tensors among its arguments.
        outputs: Values of the tensors among its results.
        top_level: Whether one of its arguments is a tensor itself, not a nest that holds tensors.
        first: Number of the first operator inside.
        last: Number after the last operator inside.
    """

    module: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...] = ()
    first: int = 0
    last: int = 0
    top_level: bool = False


@dataclass
class Tape:
    """What one pass did.

    Attributes:
        ops: Operators in execution order.
        values: Every tensor version.
        calls: Module calls in order of entry.
        outputs: Values that the model returned.
        modules: Module classes by path.
        consumers: For each value the operators that read it, in order.
        real: Whether real tensors were needed because control flow depends on values.
    """

    ops: list[Op] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outputs: tuple[int, ...] = ()
    modules: dict[str, nn.Module] = field(default_factory=dict)
    consumers: dict[int, list[int]] = field(default_factory=dict)
    real: bool = False

    def producer(self, value: int) -> Op | None:
        """The operator that wrote a value."""
        number = self.values[value].producer
        return None if number is None else self.ops[number]

    def dynamic_inputs(self, op: Op) -> list[int]:
        """The inputs of an operator that depend on an input of the model, each once."""
        return list(dict.fromkeys(v for v in op.inputs if self.values[v].dynamic))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes every operator on the tape; tensors are known by identity, versions by what was written to them."""

    def __init__(self, tape: Tape, parameters: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape = tape
        self.parameters = parameters  # id of the parameter object -> its path
        self.execution = Execution()
        self.numbers = self.execution.numbers  # live tensor -> number of its current value
        self.aliases: dict[int, WeakIdKeyDictionary] = {}  # storage -> live tensors on it
        self.stack: list[int] = []

    def number(self, tensor: Tensor) -> int:
        """The value a tensor now holds; one not seen before is a parameter, a buffer or a constant."""
        known = self.numbers.get(tensor)  # type: ignore[no-untyped-call]
        if known is not None:
            return int(known)
        number = self.add(tensor, Value(None, tuple(tensor.shape), self.parameters.get(id(tensor))))
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
        parts = run_in_products(func, args, kwargs, self)
        if parts is not NotImplemented:
            return parts
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        inputs = tuple(self.number(tensor) for tensor in tensors)
        mark = lambda leaf: Ref(self.number(leaf)) if isinstance(leaf, Tensor) else leaf  # noqa: E731
        seen_args, seen_kwargs = tree_map(mark, args), tree_map(mark, kwargs)
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
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
        made = tree_map(lambda leaf: Made(leaf.value) if isinstance(leaf, Ref) else leaf, (seen_args, seen_kwargs))
        made_args, made_kwargs = made
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
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        argument_value = args[position] if position < len(args) else kwargs.get(argument.name)
        written += [leaf for leaf in tree_flatten(argument_value)[0] if isinstance(leaf, Tensor)]
    return written


@contextlib.contextmanager
def _module_calls(recorder: _Recorder, paths: Mapping[int, str]) -> Iterator[None]:
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


def trace(model: nn.Module, example_inputs: Any) -> Tape:
    """Run the model once and write down what it did.

    The caller's model is not run and not changed: a copy is, in eval mode, without gradients, and the random state is
    put back.

    Args:
        model: Any module.
        example_inputs: A tensor or a tuple (positional arguments), or a dict (keyword arguments).

    Returns:
        The tape of the pass.

    Raises:
        TracingError: If the model cannot be copied or its forward fails with these inputs.
    """
    try:
        return _trace_fake(model, example_inputs)
    except NotRestoredError:
        raise
    except Exception:  # noqa: BLE001 - whatever a fake tensor cannot do is tried again with a real one, which may raise
        return _trace_real(model, example_inputs)


def _trace_fake(model: nn.Module, example_inputs: Any) -> Tape:
    mode: Any = FakeTensorMode(allow_non_fake_inputs=True)
    real: dict[int, Tensor] = {}

    def fake(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        made: Tensor = mode.from_tensor(leaf)
        real[id(made)] = leaf
        return made

    twin = _copy(model, fake, fake)
    inputs = tree_map(fake, example_inputs)
    with mode:
        for tied, own in _untie(twin):
            real[id(own)] = real[id(tied)]
        tape, execution = _run(twin, inputs)
    replace_leaks(mode, execution, twin, real)
    return tape


def _trace_real(model: nn.Module, example_inputs: Any) -> Tape:
    try:
        twin = _copy(model, lambda parameter: parameter, torch.clone)
    except Exception as error:
        raise TracingError(
            f"{type(model).__name__} cannot be copied for tracing: {error}. Tensors kept as plain attributes must be "
            "parameters, buffers or detached."
        ) from error
    try:
        inputs = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, example_inputs)
        _untie(twin)
        tape, _ = _run(twin, inputs)
    except Exception as error:
        raise TracingError(
            f"{type(model).__name__} failed with the example inputs ({describe_inputs(example_inputs)}): "
            f"{type(error).__name__}: {error}. Give wrap() inputs that the model accepts: a tensor, a tuple of "
            "positional or a dict of keyword arguments."
        ) from error
    tape.real = True
    return tape


def _copy(model: nn.Module, parameter: Callable[[Tensor], Tensor], buffer: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy that shares no state which a forward pass may change."""
    memo: dict[int, Any] = {id(p): parameter(p) for p in model.parameters()}
    memo |= {id(b): buffer(b) for b in model.buffers()}
    attributes = [value for module in model.modules() for value in vars(module).values()]
    memo |= {id(t): buffer(t.detach()) for t in attributes if isinstance(t, Tensor) and not t.is_leaf}
    return copy.deepcopy(model, memo).eval()


def _untie(twin: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Give every place of a copy that holds a tied parameter an object of its own on the same memory.

    The tape then tells through which of the places a weight was read. Places that hold one module twice are one place.

    Returns:
        The tied parameter and the one that was put in its place, for each place but the first.
    """
    seen, exchanged = set[int](), list[tuple[Tensor, Tensor]]()
    for module in twin.modules():
        compiled = isinstance(module, torch.jit.ScriptModule)  # whose parameters cannot be exchanged
        for name, parameter in {} if compiled else module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) in seen:
                own = nn.Parameter(parameter.detach(), requires_grad=False)
                module._parameters[name] = own
                exchanged.append((parameter, own))
            seen.add(id(parameter))
    return exchanged


def _run(twin: nn.Module, example_inputs: Any) -> tuple[Tape, Execution]:
    with process_state:
        return _record(twin, example_inputs)


def _record(twin: nn.Module, example_inputs: Any) -> tuple[Tape, Execution]:
    tape = Tape(modules=dict(twin.named_modules()))
    paths = {id(module): path for path, module in twin.named_modules()}
    recorder = _Recorder(tape, {id(p): path for path, p in twin.named_parameters()})
    args, kwargs = arguments_of(example_inputs)
    for tensor in tensors_in((args, kwargs)):
        number = recorder.add(tensor, Value(None, tuple(tensor.shape), is_input=True, dynamic=True))
        recorder.execution.leaves[number] = tensor
    modes = TorchModes()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused kernel hides the projections of attention
    try:
        quiet = generators_forked(), torch.inference_mode(False), torch.no_grad()
        with quiet[0], quiet[1], quiet[2], _module_calls(recorder, paths), recorder:
            result = twin(*args, **kwargs)
            tape.outputs = tuple(recorder.number(t) for t in tensors_in(result))
    finally:
        modes.set()
    return tape, recorder.execution


def describe_inputs(inputs: Any) -> str:
    """Shapes and types of inputs, for messages."""
    args, kwargs = arguments_of(inputs)
    return ", ".join([*map(_show, args), *(f"{key}={_show(value)}" for key, value in kwargs.items())])


def _show(leaf: Any) -> str:
    return f"tensor{tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
