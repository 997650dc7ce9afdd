"""One pass of a copy of the model, recorded on a tape.

The copy runs on fake tensors (shapes only, no arithmetic), and on real ones where control flow depends on values.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from sensitivity.contracts.task import arguments_of
from sensitivity.errors import NotRestoredError, TracingError
from sensitivity.layers.trace.fakes import Fakes, garbage_waits
from sensitivity.layers.trace.generators import generators_forked
from sensitivity.layers.trace.inputs import copied, tensors_in
from sensitivity.layers.trace.leaks import Execution, replace_leaks
from sensitivity.layers.trace.modes import TorchModes
from sensitivity.layers.trace.recorder import TapeRecorder, module_calls_noted
from sensitivity.layers.trace.tape import Tape, Value
from sensitivity.turns import process_state


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
    attributes = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    fakes = Fakes(mode, [*model.parameters(), *model.buffers(), *attributes, *tensors_in(example_inputs)])

    def fake(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        made = fakes(leaf)
        real[id(made)] = leaf
        return made

    with garbage_waits():
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
        inputs = copied(example_inputs)
        _untie(twin)
        tape, _ = _run(twin, inputs)
    except TracingError as error:
        raise TracingError(
            python=f"{type(model).__name__} cannot be traced: {error}",
            shell=f"{type(model).__name__} cannot be traced: {error.in_shell}",
        ) from error
    except Exception as error:
        raise TracingError(
            f"{type(model).__name__} failed with the example inputs ({describe_inputs(example_inputs)}): "
            f"{type(error).__name__}: {error}.",
            python="Give wrap() inputs that the model accepts: a tensor, a tuple of positional or a dict of keyword "
            "arguments.",
            shell="Give shapes that the model accepts, --input 1x3x224x224, once for each input; or let MODEL return "
            "(module, example inputs).",
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
    held = [{id(t): path for path, t in named} for named in (twin.named_parameters(), twin.named_buffers())]
    recorder = TapeRecorder(tape, *held)
    args, kwargs = arguments_of(example_inputs)
    for tensor in tensors_in((args, kwargs)):
        number = recorder.add(tensor, Value(None, tuple(tensor.shape), is_input=True, dynamic=True))
        recorder.execution.leaves[number] = tensor
    modes = TorchModes()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused kernel hides the projections of attention
    try:
        quiet = generators_forked(), torch.inference_mode(False), torch.no_grad()
        with quiet[0], quiet[1], quiet[2], module_calls_noted(recorder, paths), recorder:
            result = twin(*args, **kwargs)
            _check_complete(result)
            tape.outputs = tuple(recorder.number(t) for t in tensors_in(result))
    finally:
        modes.set()
    return tape, recorder.execution


def _check_complete(result: Any) -> None:
    """Refuse what is computed only when somebody asks for it: after the pass, where nothing sees it.

    Raises:
        TracingError: If the result is, or holds, an iterator.
    """
    lazy = next((leaf for leaf in tree_leaves(result) if isinstance(leaf, Iterator)), None)
    if lazy is not None:
        raise TracingError(
            f"it returns a {type(lazy).__name__}, whose items are computed after the pass. Let forward return a list "
            "or a tuple of them."
        )


def describe_inputs(inputs: Any) -> str:
    """Shapes and types of inputs, for messages."""
    args, kwargs = arguments_of(inputs)
    return ", ".join([*map(_show, args), *(f"{key}={_show(value)}" for key, value in kwargs.items())])


def _show(leaf: Any) -> str:
    return f"tensor{tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
