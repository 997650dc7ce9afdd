"""Where the branches of a residual block meet: a sum or difference, however it is written."""

from __future__ import annotations

from sensitivity.layers.trace.tape import Op, Ref, Tape

SUMS = frozenset({"add", "sub", "rsub"})
OVER_A_DIMENSION = frozenset({"sum", "mean"})


def merged_values(tape: Tape, op: Op) -> tuple[int, ...]:
    """The computed values of one shape that an operator adds up, subtracts or blends in fixed parts.

    Such are ``a + b``, ``a - b``, ``torch.lerp(a, b, w)``, ``torch.addcmul(a, b, w)`` and
    ``torch.stack([a, b]).sum(0)``, where ``w`` is a number, a parameter or a constant.

    Returns:
        At least two values in the order of the arguments; empty if the operator merges nothing.
    """
    values = _operands(tape, op)
    shapes = {tape.values[value].shape for value in values}
    return values if len(set(values)) >= 2 and len(shapes) == 1 else ()


def _operands(tape: Tape, op: Op) -> tuple[int, ...]:
    if op.name in SUMS or op.name == "lerp":
        is_blended_by_input = any(tape.values[value].dynamic for value in op.inputs[2:])
        return () if is_blended_by_input else _dynamic(tape, op.inputs[:2])
    if op.name == "addcmul":
        factors = _dynamic(tape, op.inputs[1:])
        return _dynamic(tape, op.inputs) if len(factors) == 1 else ()
    if op.name in OVER_A_DIMENSION:
        stack = tape.producer(op.inputs[0])
        return _dynamic(tape, stack.inputs) if stack is not None and _reduces(tape, op, stack) else ()
    return ()


def _dynamic(tape: Tape, values: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the values that depend on an input of the model."""
    return tuple(value for value in values if tape.values[value].dynamic)


def _reduces(tape: Tape, op: Op, stack: Op) -> bool:
    """Whether an operator reduces exactly the dimension along which tensors were stacked."""
    if stack.name != "stack" or len(op.args) < 2 or op.args[0] != Ref(stack.outputs[0]):
        return False
    rank = len(tape.values[stack.outputs[0]].shape)
    along = stack.args[1] if len(stack.args) > 1 else stack.kwargs.get("dim", 0)
    over = op.args[1] if isinstance(op.args[1], (tuple, list)) else [op.args[1]]
    return [dim % rank for dim in over if isinstance(dim, int)] == [along % rank]
