"""Operators on a tape that multiply an activation by a weight, and who owns the weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from torch import nn

from sensitivity.layers.dataflow.dynamic_kernels import DynamicKernels, samples_of
from sensitivity.layers.dataflow.products import is_transposed, may_be_weight, operand_positions, output_axis_of_operand
from sensitivity.layers.trace.recorder import FACTORIES
from sensitivity.layers.trace.tape import Call, Op, Ref, Tape

_WRITTEN_BY_HOOKS = {"weight_v": "weight", "weight_g": "weight"}  # torch.nn.utils.weight_norm


@dataclass(frozen=True, slots=True)
class Weighted:
    """An operator that multiplies by a weight.

    Attributes:
        op: Number of the operator.
        source: The value that is multiplied: the layer's input.
        weight: The weight as it is multiplied.
        side: Whether the weight is the first (0) or the second (1) operand.
        axis: Axis of ``weight`` that counts output channels.
        module: Path of the module that owns the weight.
        attribute: The attribute of that module which holds it.
        parameter: Path of the parameter that the weight is made of, of the largest where there are several.
        call: The call of the module that the operator runs in; None where another module uses the weight.
        is_dynamic: Whether the weight is a kernel that depends on the model's input.
    """

    op: int
    source: int
    weight: int
    side: int
    axis: int
    module: str
    attribute: str
    parameter: str
    call: Call | None
    is_dynamic: bool = False


def find_weighted(tape: Tape) -> list[Weighted]:
    """All such operators in execution order.

    One operand depends on the model's input, the other is made of parameters alone. A layer may also be called with a
    constant, as the first layer of a decoder is with its queries; what it gives, and all that is made of that, is
    marked on the tape as what depends on an input: it is an activation, and no weight. What makes the kernel of a
    dynamic convolution multiplies by a weight as well, and belongs to that convolution, which is the layer.
    """
    matches: list[Weighted] = []
    for number, op in enumerate(tape.ops):
        if op.name not in FACTORIES and any(tape.values[value].dynamic for value in op.inputs):
            _mark_dynamic(tape, op)
        weighted = next(_readings(tape, number), None)
        if weighted is not None:
            _mark_dynamic(tape, op)
            matches.append(weighted)
    return _with_dynamic(tape, matches)


def _with_dynamic(tape: Tape, matches: list[Weighted]) -> list[Weighted]:
    """The dynamic convolutions as well, and without what makes their kernels."""
    kernels, making = DynamicKernels(tape), set[tuple[int, str, str]]()
    known, dynamic = {match.op for match in matches}, list[Weighted]()
    for number, op in enumerate(tape.ops):
        kernel = kernels.kernel_of(op) if number not in known else None
        if kernel is None:
            continue
        parameters, operators = kernels.behind(kernel)
        size = prod(tape.values[kernel].shape) // samples_of(tape, op)
        whole = [value for value in parameters if prod(tape.values[value].shape) >= size]
        owner = _owner_around(tape, number, _largest_first(tape, whole))
        if owner is None:
            continue  # the kernel is what other layers give, scaled at most: a product of two activations
        module, attribute, parameter, call = owner
        axis = output_axis_of_operand(op.name, 1, len(tape.values[kernel].shape), transposed=is_transposed(op))
        source = op.args[0].value
        dynamic.append(Weighted(number, source, kernel, 1, axis, module, attribute, parameter, call, is_dynamic=True))
        making |= {(operator, module, attribute) for operator in operators}
    remaining = [match for match in matches if (match.op, match.module, match.attribute) not in making]
    return sorted([*remaining, *dynamic], key=lambda match: match.op)


def _mark_dynamic(tape: Tape, op: Op) -> None:
    for value in op.outputs:
        tape.values[value].dynamic = True


def _readings(tape: Tape, number: int) -> Iterator[Weighted]:
    """The operator as a multiplication by a weight, the second operand tried first."""
    op = tape.ops[number]
    positions = operand_positions(op.name)
    if positions is None:
        return
    operands = [op.args[position] for position in positions]
    if not all(isinstance(operand, Ref) for operand in operands):
        return
    for side in (1, 0):
        weight, source = operands[side].value, operands[1 - side].value
        if tape.values[weight].dynamic or not may_be_weight(op.name, side):
            continue
        if tape.values[weight].is_complex or tape.values[source].is_complex:
            continue  # no recipe quantizes complex numbers
        owner = _owner(tape, number, weight)
        if owner is None:
            continue
        module, attribute, parameter, call = owner
        if not tape.values[source].dynamic and (call is None or not _made_of_arguments(tape, source, call)):
            continue  # a weight computed from two factors
        dimensions = len(tape.values[weight].shape)
        axis = output_axis_of_operand(op.name, side, dimensions, transposed=is_transposed(op))
        yield Weighted(number, source, weight, side, axis, module, attribute, parameter, call)


def _made_of_arguments(tape: Tape, value: int, call: Call) -> bool:
    """Whether a value was computed inside a call from an argument of it, or is one."""
    waiting, seen = [value], {value}
    while waiting:
        current = waiting.pop()
        if current in call.inputs:
            return True
        producer = tape.values[current].producer
        if producer is None or producer < call.first:
            continue
        fresh = [before for before in tape.ops[producer].inputs if before not in seen]
        seen.update(fresh)
        waiting += fresh
    return False


def _owner(tape: Tape, number: int, weight: int) -> tuple[str, str, str, Call | None] | None:
    """Path of the module that owns a weight, the attribute that holds it, its parameter, and the call it runs in.

    None where the weight does not come from a parameter (a fixed blur filter, a table of positions).
    """
    leaves = parameters_behind(tape, weight)
    if not leaves:
        return None
    around = _owner_around(tape, number, leaves)
    if around is not None:
        return around
    parent, _, attribute = leaves[0].rpartition(".")
    module = parent.split(".parametrizations.")[0]
    if module != parent:
        return module, parent.rpartition(".")[2], leaves[0], None
    return module, _public_name(tape.modules[module], attribute), leaves[0], None


def _owner_around(tape: Tape, number: int, leaves: list[str]) -> tuple[str, str, str, Call] | None:
    """The same for the innermost module whose call an operator runs in and which owns one of these parameters."""
    for scoped in reversed(tape.ops[number].scope):
        call = tape.calls[scoped]
        held = _attribute(tape.modules[call.module], call.module, leaves, tape)
        if held is not None:
            return call.module, *held, call
    return None


def _attribute(module: nn.Module, path: str, leaves: list[str], tape: Tape) -> tuple[str, str] | None:
    """The attribute of a module that one of these parameters is, tied parameters included, and the parameter's path."""
    dot = f"{path}." if path else ""
    for leaf in leaves:
        parent, _, _ = leaf.rpartition(".")
        parameter = _parameter_at(tape, leaf)
        for name, own in module._parameters.items():
            if own is parameter:
                return _public_name(module, name), dot + name
        if parent.startswith(f"{dot}parametrizations."):
            return parent.rpartition("parametrizations.")[2], leaf
    return None


def _public_name(module: nn.Module, name: str) -> str:
    """The attribute that a parameter is used through: hooks of torch.nn.utils compute ``weight`` from others."""
    if name in _WRITTEN_BY_HOOKS:
        return _WRITTEN_BY_HOOKS[name]
    stem = name.removesuffix("_orig")  # prune, spectral_norm
    return stem if hasattr(module, stem) else name


def _parameter_at(tape: Tape, path: str) -> nn.Parameter | None:
    parent, _, name = path.rpartition(".")
    return tape.modules[parent]._parameters[name]


def parameters_behind(tape: Tape, value: int) -> list[str]:
    """Paths of the parameters that a static value is made of, matrices before scales."""
    parameters = list[int]()
    waiting, seen = [value], {value}
    while waiting:
        current = waiting.pop()
        if tape.values[current].parameter is not None:
            parameters.append(current)
        producer = tape.producer(current)
        for previous in producer.inputs if producer else ():
            if previous not in seen:
                seen.add(previous)
                waiting.append(previous)
    return _largest_first(tape, parameters)


def _largest_first(tape: Tape, parameters: list[int]) -> list[str]:
    """Paths of values that are parameters."""
    sizes = {tape.values[value].parameter or "": prod(tape.values[value].shape) for value in parameters}
    return sorted(sizes, key=lambda path: -sizes[path])
