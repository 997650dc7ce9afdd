"""Dynamic convolutions: their kernel is computed from parameters and the input, and told by data flow.

Source: the kinds that this was written for are CondConv (Yang et al. 2019), Dynamic Convolution (Chen et al. 2020),
StyleGAN2's modulated convolution (Karras et al. 2020) and ODConv (Li et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from sensitivity.layers.dataflow.operators import REDUCTIONS, VIEWS
from sensitivity.layers.dataflow.products import CONVOLUTIONS, LINEAR_OPS, PARTS
from sensitivity.layers.trace.tape import Op, Ref, Tape

_OF_THE_FIRST = (
    VIEWS
    | PARTS
    | REDUCTIONS
    | frozenset({"div", "sub", "neg", "pow", "sqrt", "rsqrt", "index", "index_select", "gather", "embedding"})
)
"""What they write is a kernel where their first tensor is."""

_OF_ANY = LINEAR_OPS | frozenset({"mul", "add", "cat", "stack"})
"""What they write is a kernel where one of their tensors is: coefficients that the input gives mix or scale it."""


def is_kernel(name: str, inputs: Sequence[bool]) -> bool:
    """Whether what an operator writes is still a kernel: made of parameters, and mixed, scaled or chosen by an input.

    A nonlinearity ends it: what is behind one is an activation. The same rule reads a tape and a running model.

    Args:
        name: Name of the operator, without overload and underscore.
        inputs: For each tensor among its arguments, whether that is a kernel or a parameter.
    """
    if name in _OF_THE_FIRST:
        return bool(inputs) and inputs[0]
    return name in _OF_ANY and any(inputs)


class DynamicKernels:
    """The kernels on a tape that depend on the model's input and on parameters.

    Args:
        tape: What the model ran; which values depend on an input must be marked.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def kernel_of(self, op: Op) -> int | None:
        """The kernel that a convolution reads, where it is a dynamic one."""
        if op.name not in CONVOLUTIONS or not all(isinstance(operand, Ref) for operand in op.args[:2]):
            return None
        source, kernel = (operand.value for operand in op.args[:2])
        values = self._tape.values
        is_dynamic = values[source].dynamic and values[kernel].dynamic
        return kernel if is_dynamic and kernel in self._kernels else None

    def behind(self, kernel: int) -> tuple[list[int], set[int]]:
        """The parameters that a kernel is made of, as values, and the numbers of the operators that make it."""
        parameters, operators = list[int](), set[int]()
        waiting, seen = [kernel], {kernel}
        while waiting:
            value = waiting.pop()
            if self._tape.values[value].parameter is not None:
                parameters.append(value)
            number = self._tape.values[value].producer
            if number is None:
                continue
            operators.add(number)
            fresh = [v for v in self._tape.ops[number].inputs if v in self._kernels and v not in seen]
            seen.update(fresh)
            waiting += fresh
        return parameters, operators

    @cached_property
    def _kernels(self) -> set[int]:
        """All values that are a kernel, or a parameter."""
        kernels = {number for number, value in enumerate(self._tape.values) if value.parameter is not None}
        for op in self._tape.ops:
            if is_kernel(op.name, [value in kernels for value in op.inputs]):
                kernels.update(op.outputs)
        return kernels


def samples_of(tape: Tape, op: Op) -> int:
    """How many images a dynamic convolution reads side by side, as groups of one image: 1 where it does not.

    That is how a batch is convolved with a kernel of its own for each image.
    """
    images = next((value.shape[0] for value in tape.values if value.is_input and value.shape), 1)
    source = tape.values[op.args[0].value].shape
    folded = source[0] == 1 < images and int(op.args[8]) % images == 0 and source[1] % images == 0
    return images if folded else 1
