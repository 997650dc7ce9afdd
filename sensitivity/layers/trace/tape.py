"""What one traced pass did: every operator, who feeds whom, and inside which module call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


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
        buffer: Path of the buffer it is, or None.
    """

    producer: int | None
    shape: tuple[int, ...]
    parameter: str | None = None
    is_input: bool = False
    dynamic: bool = False
    is_complex: bool = False
    buffer: str | None = None


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
