"""Channels that can be scaled together: who writes them, who reads them, and what stands in the way.

A channel that one layer divides by a number and every layer behind multiplies by it again changes nothing, as long as
all that stands between is positively homogeneous: f(s x) = s f(x) for s > 0. The channels of the two operands of a
residual add are one channel; a depthwise convolution reads one and writes another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from sensitivity.layers.dataflow.operators import FUSED_NORMS
from sensitivity.layers.dataflow.sites import Site, SiteCall, find_sites
from sensitivity.layers.trace.tape import Op, Tape

Numbers = NDArray[np.int64]

# f(s x) = s f(x), channel by channel; what else they take does not depend on the input
_HOMOGENEOUS = frozenset(
    {
        *("relu", "leaky_relu", "prelu", "_prelu_kernel", "clone", "contiguous", "alias", "detach", "_to_copy"),
        *("native_dropout", "dropout", "lift_fresh", "lift_fresh_copy"),
        *("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices"),
        *("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
        *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d"),
        *("upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d"),
        *("_upsample_bilinear2d_aa", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"),
    }
)
_RESHAPES = frozenset(
    {"view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "squeeze", "unsqueeze"}
)
_AFFINE_NORMS = frozenset(FUSED_NORMS) - {"instance_norm", "_fused_rms_norm", "rms_norm"}


@dataclass(frozen=True, eq=False)
class LayerChannels:
    """The channels of one layer, or of the affine part of a norm.

    Attributes:
        module: Path of its module.
        read: Number of each channel that it reads; None for a norm, which reads none.
        written: Number of each channel that it writes.
    """

    module: str
    read: Numbers | None
    written: Numbers


@dataclass
class Channels:
    """All channels of a model that layers write or read.

    Attributes:
        layers: Layers and norms with the numbers of their channels; equal numbers are scaled together.
        reasons: For the number of every channel that cannot be scaled: why.
    """

    layers: list[LayerChannels] = field(default_factory=list)
    reasons: Mapping[int, str] = field(default_factory=dict)


def find_channels(tape: Tape, scalable: Iterable[str]) -> Channels:
    """Who writes and reads which channels.

    Args:
        tape: One pass of the model.
        scalable: Paths of the modules whose weights may be scaled; channels of other layers are left as they are.
    """
    sites, _, _ = find_sites(tape)
    walk = _Walk(tape, sites, frozenset(scalable))
    for number, op in enumerate(tape.ops):
        walk.step(number, op)
    for value in tape.outputs:
        walk.block(value, "the model returns them")
    return walk.channels()


class _Walk:
    """Follows channels along a tape.

    Attributes:
        held: For each value whose channels are known: their axis and numbers.
    """

    def __init__(self, tape: Tape, sites: Sequence[Site], scalable: frozenset[str]) -> None:
        self._tape = tape
        self._scalable = scalable
        self._calls: dict[int, tuple[Site, SiteCall]] = {call.op: (site, call) for site in sites for call in site.calls}
        self._inside = {
            number
            for call in (call for site in sites for call in site.calls)
            for number in [tape.values[call.written].producer]
            if number is not None and number != call.op
        }
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}
        self._layers: dict[str, LayerChannels] = {}
        self._lost: dict[int, str] = {}
        self.held: dict[int, tuple[int, Numbers]] = {}

    def step(self, number: int, op: Op) -> None:
        """Take an operator into account."""
        if number in self._calls:
            self._layer(op, *self._calls[number])
        elif number in self._inside:
            return  # the bias of a layer, whose channels are known already
        elif op.name in _AFFINE_NORMS:
            self._norm(op)
        elif not self._passes_on(op):
            self._lose(op, f"{op.name} behind them does not scale as they do")

    def channels(self) -> Channels:
        """Layers and norms with the numbers of their channels, which tell which channels go together."""
        layers = [
            LayerChannels(
                layer.module, None if layer.read is None else self._roots(layer.read), self._roots(layer.written)
            )
            for layer in self._layers.values()
        ]
        reasons: dict[int, str] = {}
        for channel, reason in self._reasons.items():
            reasons.setdefault(self._root(channel), reason)
        return Channels(layers, reasons)

    # layers -------------------------------------------------------------------------------------------------------

    def _layer(self, op: Op, site: Site, call: SiteCall) -> None:
        spatial = len(site.kernel_size)
        axes = [len(self._tape.values[v].shape) - (1 + spatial) for v in (call.source, call.written)]
        known = self._layers.get(site.module)
        if site.module not in self._scalable:
            self._block_all(op, f"{site.module} cannot be scaled")
            self.held[call.written] = (axes[1], self._blocked(site.out_channels, f"{site.module} cannot be scaled"))
            return
        read = self._on_axis(call.source, axes[0], site.in_channels)
        written = self._new(site.out_channels) if known is None else known.written
        if known is None:
            self._layers[site.module] = LayerChannels(site.module, read, written)
        elif known.read is not None:
            self._join(known.read, read)
        self.held[call.written] = (axes[1], written)

    def _norm(self, op: Op) -> None:
        """A norm with a scale and a shift of its own writes channels; those that it reads stay as they are."""
        self._lose(op, f"{op.name} behind them does not scale as they do")
        parameters = [self._tape.values[v].parameter for v in op.inputs]
        weight = next((path for path in parameters if path is not None and path.endswith(".weight")), None)
        value = op.outputs[0]
        shape = self._tape.values[value].shape
        module = None if weight is None else weight.rpartition(".")[0]
        if weight is None or module is None or module not in self._scalable or module in self._layers:
            return
        size = prod(self._tape.values[op.inputs[parameters.index(weight)]].shape)
        axis = len(shape) - 1 if "layer_norm" in op.name else 1
        if shape[axis] == size:
            written = self._new(size)
            self._layers[module] = LayerChannels(module, None, written)
            self.held[value] = (axis, written)

    # operators between layers ---------------------------------------------------------------------------------------

    def _passes_on(self, op: Op) -> bool:
        """Follow the channels through an operator, where each of its results scales as they do."""
        dynamic = self._tape.dynamic_inputs(op)
        if not dynamic or not op.outputs:
            return True
        if op.name in {"add", "sub"}:
            return self._added(op, dynamic)
        if op.name in {"mul", "div"}:
            return self._multiplied(op, dynamic)
        if op.name == "cat":
            return self._concatenated(op)
        return len(dynamic) == 1 and dynamic[0] in self.held and self._alone(op, dynamic[0])

    def _alone(self, op: Op, value: int) -> bool:
        axis, numbers = self.held[value]
        if op.name in _HOMOGENEOUS or self._keeps_zero(op):
            return self._hold(op.outputs[0], axis, numbers)
        if op.name in {"mean", "sum"}:
            return self._reduced(op, value)
        if op.name in {"index", "_unsafe_index"}:  # as interpolation to the nearest is written out
            chosen = list(op.args[1])[: axis + 1]
            return not any(chosen) and self._hold(op.outputs[0], axis, numbers)
        if op.name in _RESHAPES:
            return self._reshaped(op, value)
        if op.name in {"permute", "transpose", "t"}:
            return self._permuted(op, value)
        if op.name in {"split", "split_with_sizes", "chunk", "slice", "narrow"}:
            return self._parted(op, value)
        return False

    def _keeps_zero(self, op: Op) -> bool:
        numbers = [argument for argument in op.args[1:] if isinstance(argument, (int, float))]
        if op.name == "clamp_min":
            return numbers == [0]
        return op.name == "constant_pad_nd" and not any(numbers)

    def _hold(self, value: int, axis: int, numbers: Numbers) -> bool:
        shape = self._tape.values[value].shape
        if axis >= len(shape) or shape[axis] != len(numbers):
            return False
        self.held[value] = (axis, numbers)
        return True

    def _added(self, op: Op, dynamic: list[int]) -> bool:
        shapes = {self._tape.values[v].shape for v in (*dynamic, op.outputs[0])}
        scaled = op.kwargs.get("alpha", 1) != 1
        if len(dynamic) != 2 or len(op.inputs) != 2 or len(shapes) != 1 or scaled:
            return False
        if any(value not in self.held for value in dynamic):
            return False
        (axis, numbers), (other_axis, other_numbers) = (self.held[value] for value in dynamic)
        if axis != other_axis:
            return False
        self._join(numbers, other_numbers)
        return self._hold(op.outputs[0], axis, numbers)

    def _multiplied(self, op: Op, dynamic: list[int]) -> bool:
        """A product scales as one of its factors does while the other stays as it is."""
        output = op.outputs[0]
        shape = self._tape.values[output].shape
        carriers = [v for v in dynamic if v in self.held and self._tape.values[v].shape == shape]
        carrier = carriers[0] if carriers else None
        if carrier is None or (op.name == "div" and op.inputs[0] != carrier) or op.inputs.count(carrier) != 1:
            return False
        for value in dynamic:
            if value != carrier:
                self.block(value, "they are a factor of other channels")
        return self._hold(output, *self.held[carrier])

    def _concatenated(self, op: Op) -> bool:
        values = list(op.inputs)
        if any(value not in self.held for value in values) or len({self.held[value][0] for value in values}) != 1:
            return False
        axis, first = self.held[values[0]]
        along = int(op.args[1]) if len(op.args) > 1 else int(op.kwargs.get("dim", 0))
        if along % len(self._tape.values[op.outputs[0]].shape) == axis:
            return self._hold(op.outputs[0], axis, np.concatenate([self.held[value][1] for value in values]))
        for value in values[1:]:
            self._join(first, self.held[value][1])
        return self._hold(op.outputs[0], axis, first)

    def _reduced(self, op: Op, value: int) -> bool:
        axis, numbers = self.held[value]
        dimensions = len(self._tape.values[value].shape)
        dims = op.args[1] if len(op.args) > 1 else op.kwargs.get("dim")
        if not isinstance(dims, (list, tuple, int)):
            return False
        gone = {int(dim) % dimensions for dim in ([dims] if isinstance(dims, int) else dims)}
        keeps_dims = len(self._tape.values[op.outputs[0]].shape) == dimensions
        if axis in gone:
            return False
        return self._hold(op.outputs[0], axis if keeps_dims else axis - sum(dim < axis for dim in gone), numbers)

    def _reshaped(self, op: Op, value: int) -> bool:
        axis, numbers = self.held[value]
        before, after = self._tape.values[value].shape, self._tape.values[op.outputs[0]].shape
        front = prod(before[:axis])
        places = [place for place, size in enumerate(after) if size == before[axis] and prod(after[:place]) == front]
        return len(places) == 1 and len(numbers) > 1 and self._hold(op.outputs[0], places[0], numbers)

    def _permuted(self, op: Op, value: int) -> bool:
        axis, numbers = self.held[value]
        order = list(range(len(self._tape.values[value].shape)))
        if op.name == "permute":
            order = [int(dim) % len(order) for dim in op.args[1]]
        else:
            first, second = (0, len(order) - 1) if op.name == "t" else (int(dim) % len(order) for dim in op.args[1:3])
            order[first], order[second] = order[second], order[first]
        return self._hold(op.outputs[0], order.index(axis), numbers)

    def _parted(self, op: Op, value: int) -> bool:
        """Pieces of a tensor: of its channels in order, or of another axis."""
        axis, numbers = self.held[value]
        shape = self._tape.values[value].shape
        place = 1 if op.name in {"slice", "narrow"} else 2
        along = int(op.args[place]) if len(op.args) > place else int(op.kwargs.get("dim", 0))
        if along % len(shape) != axis:
            return all(self._hold(output, axis, numbers) for output in op.outputs)
        start = 0
        if op.name in {"slice", "narrow"}:
            start = int(op.args[2]) if len(op.args) > 2 and op.args[2] is not None else 0
            start += len(numbers) if start < 0 else 0
            if op.name == "slice" and len(op.args) > 4 and op.args[4] != 1:
                return False
        for output in op.outputs:
            size = self._tape.values[output].shape[axis]
            if not self._hold(output, axis, numbers[start : start + size]):
                return False
            start += size
        return True

    # which channels are one -------------------------------------------------------------------------------------------

    def _on_axis(self, value: int, axis: int, count: int) -> Numbers:
        """The channels that a layer reads; new ones that stay as they are where they are not known."""
        held = self.held.get(value)
        if held is not None and held[0] == axis and len(held[1]) == count:
            return held[1]
        self.block(value, "they are read along another axis")
        return self._blocked(count, self._lost.get(value, "they come from the model's input"))

    def _new(self, count: int) -> Numbers:
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def _blocked(self, count: int, reason: str) -> Numbers:
        numbers = self._new(count)
        self._reasons |= dict.fromkeys(numbers.tolist(), reason)
        return numbers

    def block(self, value: int, reason: str) -> None:
        """Say that the channels of a value stay as they are."""
        if value in self.held:
            for number in self.held[value][1].tolist():
                self._reasons.setdefault(number, reason)

    def _lose(self, op: Op, reason: str) -> None:
        """The channels end here: those that the operator reads stay as they are, those behind it are not known."""
        self._block_all(op, reason)
        earlier = [self._lost[value] for value in self._tape.dynamic_inputs(op) if value in self._lost]
        known = any(value in self.held for value in self._tape.dynamic_inputs(op))
        if known or earlier:
            behind = f"{op.name} in front of them does not scale as they do"
            self._lost |= dict.fromkeys(op.outputs, behind if known else earlier[0])

    def _block_all(self, op: Op, reason: str) -> None:
        for value in self._tape.dynamic_inputs(op):
            self.block(value, reason)

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number

    def _roots(self, numbers: Numbers) -> Numbers:
        return np.array([self._root(number) for number in numbers.tolist()], dtype=np.int64)

    def _join(self, numbers: Numbers, other_numbers: Numbers) -> None:
        for left, right in zip(numbers.tolist(), other_numbers.tolist(), strict=True):
            self._parent[self._root(left)] = self._root(right)
