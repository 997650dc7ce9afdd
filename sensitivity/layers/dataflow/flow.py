"""Following values along a tape: what only reshapes, what normalises, what is nonlinear, who else reads."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import prod

from torch import nn

from sensitivity.layers.dataflow.operators import (
    ARITHMETIC,
    DIVISIONS,
    ELEMENTWISE,
    FUSED_NORMS,
    NONLINEAR_PARTS,
    NONLINEARITIES,
    PADS,
    REDUCTIONS,
    VIEWS,
    WRITTEN_OUT,
)
from sensitivity.layers.trace.tape import Call, Op, Ref, Tape

# 0.5 * x * (1 + tanh(c * (x + 0.044715 * x**3))) takes at least this many operators; x * tanh(x) takes two
GELU_TANH_OPERATORS = 6


@dataclass(frozen=True, slots=True)
class Follower:
    """A norm or an activation that follows a value.

    Attributes:
        name: Class of the module, or the name that a function's module would have.
        module: Path of the module, or None for a function.
        output: The value behind it.
        has_nonlinearity: Whether a norm holds a nonlinearity as well (EvoNorm).
    """

    name: str
    module: str | None
    output: int
    has_nonlinearity: bool = False


class Flow:
    """Questions about a tape, once it is known which of its operators are layers."""

    def __init__(self, tape: Tape, layer_ops: frozenset[int]) -> None:
        self.tape = tape
        self.layer_ops = layer_ops

    def readers(self, value: int) -> list[int]:
        """Operators that read a value and write one that depends on it."""
        return [i for i in self.tape.consumers.get(value, []) if self.tape.ops[i].outputs]

    def sole_reader(self, value: int) -> int | None:
        """The only operator that reads a value; None where several do or the model returns it."""
        readers = self.readers(value)
        return readers[0] if len(readers) == 1 and value not in self._returned else None

    @cached_property
    def _returned(self) -> frozenset[int]:
        return frozenset(self.tape.outputs)

    def is_static(self, value: int) -> bool:
        """Whether a value does not depend on the model's input."""
        return not self.tape.values[value].dynamic

    def is_affine(self, op: Op) -> bool:
        """Whether an operator scales or shifts its one dynamic input by a number, a parameter or a constant."""
        return op.name in ARITHMETIC and len(self.tape.dynamic_inputs(op)) == 1 and len(op.inputs) <= 2

    def behind_views(self, value: int) -> int:
        """The same numbers further on: through reshapes, as long as nobody else reads."""
        while True:
            reader = self.sole_reader(value)
            if reader is None or self.tape.ops[reader].name not in VIEWS:
                return value
            value = self.tape.ops[reader].outputs[0]

    def root(self, value: int, *, through: frozenset[str] = VIEWS | PADS) -> int:
        """The same numbers further back: where a value was computed, before reshapes, padding and ``sum``'s ``0 +``."""
        while True:
            op = self.tape.producer(value)
            if op is None or not (op.name in through or _is_neutral(op)):
                return value
            dynamic = self.tape.dynamic_inputs(op)
            if len(dynamic) != 1:
                return value
            value = dynamic[0]

    # norms ------------------------------------------------------------------------------------------------------

    def norm_after(self, value: int) -> Follower | None:
        """The normalisation that reads a value and nothing else does, if any."""
        fused = self._fused_norm(value)
        return fused or self._module_norm(value)

    def _fused_norm(self, value: int) -> Follower | None:
        value = self.behind_views(value)
        reader = self.sole_reader(value)
        if reader is None or self.tape.ops[reader].name not in FUSED_NORMS:
            return None
        op = self.tape.ops[reader]
        if self.root(op.inputs[0]) != self.root(value):
            return None
        call = self._leaf_call(op)
        name = type(self.tape.modules[call.module]).__name__ if call else FUSED_NORMS[op.name]
        return Follower(name, call.module if call else None, op.outputs[0])

    def _module_norm(self, value: int) -> Follower | None:
        """A module without layers inside that reads only this value and normalises it by hand."""
        starts = dict.fromkeys((value, self.behind_views(value)))  # a view may stand before the module, or open it
        for number in chain.from_iterable(map(self._calls_reading_only, starts)):
            call = self.tape.calls[number]
            inside = [op for op in self.tape.ops[call.first : call.last] if self.tape.values[op.outputs[0]].dynamic]
            if self._normalises(inside):
                has_nonlinearity = any(op.name in NONLINEARITIES for op in inside)
                name = type(self.tape.modules[call.module]).__name__
                return Follower(name, call.module, self._dynamic_output(call), has_nonlinearity)
        return None

    def _normalises(self, inside: list[Op]) -> bool:
        names = {op.name for op in inside}
        if names & set(FUSED_NORMS) or (names & REDUCTIONS and names & DIVISIONS):
            return True
        per_channel = [op.name for op in inside if self.is_affine(op) and self._static_size(op) > 1]
        return "mul" in per_channel and ("add" in per_channel or "sub" in per_channel)

    def _static_size(self, op: Op) -> int:
        return max((prod(self.tape.values[v].shape) for v in op.inputs if self.is_static(v)), default=0)

    def _leaf_call(self, op: Op) -> Call | None:
        """The innermost module call around an operator, if no layer ran in it."""
        if not op.scope:
            return None
        call = self.tape.calls[op.scope[-1]]
        return None if self.holds_layer(call) else call

    def holds_layer(self, call: Call) -> bool:
        """Whether a layer's operator runs inside a call."""
        ordered = self._ordered_layer_ops
        following = bisect_left(ordered, call.first)
        return following < len(ordered) and ordered[following] < call.last

    @cached_property
    def _ordered_layer_ops(self) -> list[int]:
        return sorted(self.layer_ops)

    def _calls_reading_only(self, value: int) -> list[int]:
        """Module calls without layers whose one dynamic input is this value and nobody else reads it; inner first."""
        readers = self.readers(value)
        if not readers or value in self._returned:
            return []
        producer = self.tape.values[value].producer
        scope = self.tape.ops[readers[0]].scope
        fitting = []
        for number in reversed(scope):
            call = self.tape.calls[number]
            started_later = producer is None or call.first > producer
            if not started_later or self.holds_layer(call):
                break
            if self._is_function_of(call, value) and all(call.first <= r < call.last for r in readers):
                fitting.append(number)
        return fitting

    def _is_function_of(self, call: Call, value: int) -> bool:
        if len({v for v in call.outputs if self.tape.values[v].dynamic}) != 1:
            return False
        if prod(self.tape.values[self._dynamic_output(call)].shape) != prod(self.tape.values[value].shape):
            return False
        written: set[int] = {value}
        for op in self.tape.ops[call.first : call.last]:
            if any(v not in written for v in self.tape.dynamic_inputs(op)):
                return False
            written.update(op.outputs)
        return True

    def _dynamic_output(self, call: Call) -> int:
        return next(v for v in call.outputs if self.tape.values[v].dynamic)

    # activations ------------------------------------------------------------------------------------------------

    def activation_after(self, value: int) -> Follower | None:
        """The activation that reads a value, written as a module, a function or operators, if any."""
        value = self.behind_views(value)
        region, output = self._nonlinear_region(value)
        if output is None:
            return None
        call = self._call_of_region(region)
        if call is not None:
            return Follower(_class_name(self.tape.modules[call.module]), call.module, output)
        return Follower(self._name_of(region), None, output)

    def _nonlinear_region(self, value: int) -> tuple[list[int], int | None]:
        """Elementwise operators from a value to the first point where all its paths have met, one of them nonlinear."""
        size = prod(self.tape.values[value].shape)
        region: list[int] = []
        open_values = {value: len(self.readers(value))}
        nonlinear = False
        while True:
            ready = sorted(r for v in open_values for r in self.readers(v) if r not in region)
            step = next((r for r in ready if self._fits(r, set(open_values), region, size)), None)
            if step is None or any(v in self._returned for v in open_values):
                return [], None
            op = self.tape.ops[step]
            region.append(step)
            nonlinear = nonlinear or op.name in NONLINEARITIES or op.name in NONLINEAR_PARTS
            for v in self.tape.dynamic_inputs(op):
                if v in open_values and all(r in region for r in self.readers(v)):
                    del open_values[v]
            open_values[op.outputs[0]] = len(self.readers(op.outputs[0]))
            if nonlinear and list(open_values) == [op.outputs[0]]:
                return self._with_scalars(region), self.tape.ops[self._with_scalars(region)[-1]].outputs[0]

    def _fits(self, reader: int, known: set[int], region: list[int], size: int) -> bool:
        op = self.tape.ops[reader]
        inside = known | {o for r in region for o in self.tape.ops[r].outputs}
        same_size = op.name == "glu" or prod(self.tape.values[op.outputs[0]].shape) == size
        return op.name in ELEMENTWISE and same_size and all(v in inside for v in self.tape.dynamic_inputs(op))

    def _with_scalars(self, region: list[int]) -> list[int]:
        """The region with the scalings by plain numbers that end it, e.g. the ``/ 6`` of a hard swish."""
        region = list(region)
        while len(region) > 1:
            reader = self.sole_reader(self.tape.ops[region[-1]].outputs[0])
            if reader is None:
                break
            op = self.tape.ops[reader]
            if op.name not in {"mul", "div"} or not self._by_number(op):
                break
            region.append(reader)
        return region

    def _by_number(self, op: Op) -> bool:
        """Whether an operator combines its one dynamic input with a plain number."""
        static = [v for v in op.inputs if self.is_static(v)]
        return len(op.inputs) - len(static) == 1 and all(not self.tape.values[v].shape for v in static)

    def _call_of_region(self, region: list[int]) -> Call | None:
        """The module call that consists of this region alone."""
        scopes = [self.tape.ops[i].scope for i in region]

        def belongs(number: int) -> bool:
            op = self.tape.ops[number]
            return number in region or op.name in VIEWS or not self.tape.values[op.outputs[0]].dynamic

        for number in reversed(scopes[0]):
            call = self.tape.calls[number]
            if not all(number in scope for scope in scopes):
                continue
            return call if all(map(belongs, range(call.first, call.last))) else None
        return None

    def _name_of(self, region: list[int]) -> str:
        ops = [self.tape.ops[i] for i in region]
        if len(ops) == 1:
            return _function_name(ops[0])
        parts = frozenset(f"{o.name}_scalar" if o.name in ARITHMETIC and self._by_number(o) else o.name for o in ops)
        nonlinear = [op.name for op in ops if op.name in NONLINEARITIES or op.name in NONLINEAR_PARTS]
        if nonlinear == ["erf"]:
            return "GELU"
        if nonlinear == ["tanh"] and len(ops) >= GELU_TANH_OPERATORS:
            return "GELU(tanh)"
        return WRITTEN_OUT.get(parts, "+".join(nonlinear))


def _class_name(module: nn.Module) -> str:
    name = type(module).__name__
    return f"{name}(tanh)" if name == "GELU" and getattr(module, "approximate", None) == "tanh" else name


def _function_name(op: Op) -> str:
    numbers = [a for a in op.args if not isinstance(a, Ref)]
    if op.name == "hardtanh":
        return "ReLU6" if numbers[:2] == [0, 6] or numbers[:2] == [0.0, 6.0] else "Hardtanh"
    if op.name == "elu" and len(numbers) > 1:  # alpha, scale, scale of the input
        return "CELU" if numbers[2:] not in ([], [1], [1.0]) else "SELU" if numbers[1] not in (1, 1.0) else "ELU"
    if op.name == "gelu":
        return "GELU(tanh)" if op.kwargs.get("approximate") == "tanh" else "GELU"
    if op.name == "clamp_min" and numbers == [0]:
        return "ReLU"
    if op.name == "clamp" and numbers == [0, 6]:
        return "ReLU6"
    return NONLINEARITIES.get(op.name, op.name)


def _is_neutral(op: Op) -> bool:
    """Whether an operator adds the number 0, as Python's ``sum`` does first."""
    return op.name == "add" and len(op.inputs) == 1 and len(op.args) == 2 and op.args[1] in (0, 0.0)
