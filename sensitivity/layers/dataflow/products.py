"""Which operators multiply an activation by a weight, which operand is which, and where a weight's outputs are.

The same rules read the tape of one pass and act on the operators of a running one, so that what is called a layer's
input when a model is wrapped is what is quantized later.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from sensitivity.layers.trace.tape import Op, Ref, Tape

CONVOLUTIONS = frozenset({"convolution", "_convolution"})
LINEAR_OPS = frozenset({"addmm", "mm", "linear", "bmm", "baddbmm", "matmul", "mv", "addmv"})
_WITH_ADDEND = frozenset({"addmm", "baddbmm", "addmv"})
PARTS = frozenset({"split", "split_with_sizes", "slice", "select", "unbind", "chunk", "narrow"})
"""A piece of the numbers of a tensor."""

_SAME_AXES = frozenset({"detach", "alias", "clone", "contiguous", "_to_copy", "lift_fresh", "lift_fresh_copy"})
_RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "squeeze"})


def operand_positions(name: str) -> tuple[int, int] | None:
    """Positions of the two operands among the arguments of an operator; None where it is no product.

    Args:
        name: Name of the operator, without overload.
    """
    if name in CONVOLUTIONS:
        return 0, 1
    if name in LINEAR_OPS:
        return (1, 2) if name in _WITH_ADDEND else (0, 1)
    return None


def may_be_weight(name: str, side: int) -> bool:
    """Whether the first (0) or second (1) operand of a product can be a weight: a convolution's is its second."""
    return side == 1 or name not in CONVOLUTIONS


def output_axis_of_operand(name: str, side: int, dimensions: int, *, transposed: bool = False) -> int:
    """The axis of a weight, as it is multiplied, that counts output channels.

    Args:
        name: Name of the operator.
        side: Whether the weight is its first (0) or second (1) operand.
        dimensions: Dimensions of the weight.
        transposed: Whether the operator is a transposed convolution.
    """
    if name in CONVOLUTIONS:
        return 1 if transposed else 0
    if name == "linear" or dimensions == 1:
        return 0
    return dimensions - 2 if side == 0 else dimensions - 1


def is_transposed(op: Op) -> bool:
    """Whether an operator is a transposed convolution."""
    return op.name in CONVOLUTIONS and bool(op.args[6])


@dataclass(frozen=True, slots=True)
class WeightOrigin:
    """Where a weight comes from.

    Attributes:
        value: The value it is a view, or a part, of.
        axis: The axis of that value which counts output channels; None where no single one does.
        part: Whether the weight holds only some of its numbers.
    """

    value: int
    axis: int | None
    part: bool


def origin_of(tape: Tape, value: int, axis: int) -> WeightOrigin:
    """Follow a weight back through views and parts, with the axis of its output channels.

    Args:
        tape: The tape.
        value: The weight as it is multiplied.
        axis: Its axis of output channels.
    """
    current: int | None = axis
    part = False
    while True:
        op = tape.producer(value)
        if op is None or len(op.inputs) != 1:
            return WeightOrigin(value, current, part)
        before, after = tape.values[op.inputs[0]].shape, tape.values[value].shape
        step = _axis_before(op, before, after, current)
        if step is None:
            return WeightOrigin(value, current, part)
        current = step.axis
        part = part or op.name in PARTS
        value = op.inputs[0]


def axis_before(tape: Tape, op: Op, value: int, axis: int) -> int | None:
    """The axis, in what an operator reads, that is an axis of the value it writes; None where there is no such one."""
    step = _axis_before(op, tape.values[op.inputs[0]].shape, tape.values[value].shape, axis)
    return None if step is None else step.axis


@dataclass(frozen=True, slots=True)
class _Step:
    axis: int | None


def _axis_before(op: Op, before: tuple[int, ...], after: tuple[int, ...], axis: int | None) -> _Step | None:
    """The axis in front of an operator; None where the operator is neither a view nor a part."""
    known = _SAME_AXES | _RESHAPES | PARTS | {"t", "transpose", "permute", "unsqueeze", "expand"}
    if op.name not in known:
        return None
    if axis is None:
        return _Step(None)
    numbers = [argument for argument in op.args if not isinstance(argument, Ref)]
    if op.name in _SAME_AXES:
        return _Step(axis)
    if op.name == "t":
        return _Step(1 - axis if len(after) == 2 else axis)
    if op.name == "transpose":
        first, second = (int(number) % len(after) for number in numbers[:2])
        return _Step({first: second, second: first}.get(axis, axis))
    if op.name == "permute":
        return _Step(int(numbers[0][axis]) % len(after))
    if op.name == "unsqueeze":
        inserted = int(numbers[0]) % len(after)
        return _Step(None if axis == inserted else axis - (axis > inserted))
    if op.name == "expand":
        earlier = axis - (len(after) - len(before))
        return _Step(earlier if earlier >= 0 and before[earlier] == after[axis] else None)
    if op.name in PARTS:
        return _Step(_axis_before_part(before, after, axis))
    matching = (i for i, size in enumerate(before) if size == after[axis] and prod(before[:i]) == prod(after[:axis]))
    return _Step(next(matching, None))


def _axis_before_part(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """The axis in front of a part; None where the part is cut along another axis than that of the outputs."""
    if len(before) != len(after):
        return None
    cut = [i for i in range(len(before)) if before[i] != after[i]]
    return axis if cut in ([], [axis]) else None
