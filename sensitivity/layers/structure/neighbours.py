"""Who is next to whom among the layers of a tape: walks back from a value, and what attention is."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from functools import cached_property

from sensitivity.layers.dataflow.flow import Flow
from sensitivity.layers.dataflow.operators import (
    ATTENTION,
    COMPARISONS,
    FUSED_ATTENTION_PREFIX,
    FUSED_NORMS,
    PADS,
    VIEWS,
)
from sensitivity.layers.dataflow.sites import Site, SiteCall
from sensitivity.layers.trace.tape import Op, Tape

Pair = tuple[Site, SiteCall]

# what stands between the windows of attention and the image they are cut from
WINDOWS = frozenset({"roll", "slice"})

# what a value may pass on its way to the add of its block: nothing of this is nonlinear
STRAIGHT = VIEWS | WINDOWS | {"neg"}

# what stands between the samples of deformable attention and the product with their weights
GATHERING = VIEWS | {"cat", "stack"}


class Neighbours:
    """Who is next to whom among the layers of a tape."""

    def __init__(self, tape: Tape, flow: Flow, sites: Iterable[Site]) -> None:
        self.tape = tape
        self.flow = flow
        self.pairs: list[Pair] = [(site, call) for site in sites for call in site.calls]
        self.by_op = {call.op: (site, call) for site, call in self.pairs}
        self.by_end = {call.end: (site, call) for site, call in self.pairs}
        self.shared_values = {value for value in tape.consumers if len(flow.readers(value)) > 1} | set(tape.outputs)

    @cached_property
    def from_input(self) -> frozenset[int]:
        """Values that depend on the model's input; others are made of constants, by layers or without."""
        made = {number for number, value in enumerate(self.tape.values) if value.is_input}
        for op in self.tape.ops:
            if not made.isdisjoint(op.inputs):
                made.update(op.outputs)
        return frozenset(made)

    def is_attention(self, op: Op) -> bool:
        """Whether an operator is one of the products that attention is made of."""
        return not self.attention.isdisjoint(op.outputs)

    @cached_property
    def attention(self) -> frozenset[int]:
        """The values that attention products write.

        A product of two computed tensors is one if a layer or another product reads it, or it is made of another
        product: a product by itself at the end of a network (masks from mask embeddings) attends to nothing.
        """
        behind = self.products_behind
        read = {number for numbers in behind.values() for number in numbers}
        attending = {n for n in behind if self._is_fused(n) or n in read or behind[n] or self._reaches_a_layer(n)}
        return frozenset(value for number in attending for value in self.tape.ops[number].outputs)

    @cached_property
    def products_behind(self) -> dict[int, set[int]]:
        """By the number of each product of two computed tensors: the other products it is made of through no layer."""
        products = {number for number, op in enumerate(self.tape.ops) if self._multiplies(op)}
        return {number: self._products_behind(number, products) for number in products}

    def _is_fused(self, number: int) -> bool:
        return self.tape.ops[number].name.startswith(FUSED_ATTENTION_PREFIX)

    def _multiplies(self, op: Op) -> bool:
        """Whether an operator multiplies two computed tensors as attention does."""
        if op.name.startswith(FUSED_ATTENTION_PREFIX):
            return True
        operands = self.tape.dynamic_inputs(op)
        if op.name == "mul" and len(operands) == 2:
            return any(self._is_sampled(value) for value in operands)
        return op.name in ATTENTION and len(operands) == 2

    def _is_sampled(self, value: int) -> bool:
        """Whether a value is a feature map read at computed places, as in deformable attention."""
        while True:
            op = self.tape.producer(value)
            if op is None or op.name not in GATHERING:
                return op is not None and op.name == "grid_sampler_2d" and len(self.tape.dynamic_inputs(op)) == 2
            value = op.inputs[0]

    def _products_behind(self, number: int, products: set[int]) -> set[int]:
        waiting, seen = list(self.tape.dynamic_inputs(self.tape.ops[number])), set[int]()
        behind: set[int] = set()
        while waiting:
            producer = self.tape.values[waiting.pop()].producer
            if producer is None or producer in self.by_op or producer in seen:
                continue
            seen.add(producer)
            if producer in products:
                behind.add(producer)
            elif self.tape.ops[producer].name not in COMPARISONS:
                waiting += self.tape.dynamic_inputs(self.tape.ops[producer])
        return behind

    def _reaches_a_layer(self, number: int) -> bool:
        waiting, seen = [number], {number}
        while waiting:
            current = waiting.pop()
            for value in self.tape.ops[current].outputs:
                for reader in self.flow.readers(value):
                    if reader in self.by_op:
                        return True
                    if reader not in seen and self.tape.ops[reader].name not in COMPARISONS:
                        seen.add(reader)
                        waiting.append(reader)
        return False

    def only_feeds(self, call: SiteCall, target: SiteCall) -> bool:
        """Whether everything that reads a layer's output leads to the target layer and nowhere past it."""
        waiting, seen = [call.end], {call.end}
        while waiting:
            value = waiting.pop()
            if value in self.tape.outputs:
                return False
            for reader in self.flow.readers(value):
                if reader == target.op:
                    continue
                if reader > target.op:
                    return False
                fresh = [v for v in self.tape.ops[reader].outputs if v not in seen]
                seen.update(fresh)
                waiting += fresh
        return True

    def behind(self, value: int, *, stop: int | None = None, layers_too: bool = False) -> tuple[list[Pair], list[int]]:
        """Walk back from a value.

        Args:
            value: Where to start.
            stop: A value that is not walked past.
            layers_too: Walk on through layers (to find all of a block) instead of stopping at the first ones.

        Returns:
            The layer calls met, and the numbers of all operators met.
        """
        floor = -1 if stop is None else self.tape.values[stop].producer
        floor = -1 if floor is None else floor
        waiting, seen, pairs, ops = [value], {value}, [], []
        while waiting:
            current = waiting.pop()
            number = self.tape.values[current].producer
            if current == stop or number is None or number <= floor:
                continue
            ops.append(number)
            if number in self.by_op:
                pairs.append(self.by_op[number])
                if not layers_too:
                    continue
            fresh = [v for v in self.tape.dynamic_inputs(self.tape.ops[number]) if v not in seen]
            seen.update(fresh)
            waiting += fresh
        return sorted(pairs, key=lambda pair: pair[1].op), ops

    def layers_behind(self, value: int) -> Iterator[Pair]:
        """The layer calls that a value is made of through no other layer, one after another, the latest first."""
        numbers: list[int] = []  # a heap of operators, with their signs turned
        seen = {value}

        def add(values: Iterable[int]) -> None:
            for fresh in values:
                number = self.tape.values[fresh].producer
                if number is not None:
                    heapq.heappush(numbers, -number)

        add([value])
        done = None
        while numbers:
            number = -heapq.heappop(numbers)
            if number == done:
                continue
            done = number
            if number in self.by_op:
                yield self.by_op[number]
                continue
            fresh = [v for v in self.tape.dynamic_inputs(self.tape.ops[number]) if v not in seen]
            seen.update(fresh)
            add(fresh)

    def reaches(self, value: int, target: int) -> bool:
        """Whether a value was computed from another one."""
        floor = self.tape.values[target].producer
        floor = -1 if floor is None else floor
        waiting, seen = [value], {value}
        while waiting:
            current = waiting.pop()
            if current == target:
                return True
            number = self.tape.values[current].producer
            if number is None or number <= floor:
                continue
            fresh = [v for v in self.tape.dynamic_inputs(self.tape.ops[number]) if v not in seen]
            seen.update(fresh)
            waiting += fresh
        return False

    def straight_back(self, value: int) -> Pair | None:
        """The layer whose output this value is, through reshapes, norms and scalings but no activation."""
        while value not in self.by_end:
            op = self.tape.producer(value)
            if op is None or self.tape.values[value].producer in self.by_op:
                return self.by_op.get(self.tape.values[value].producer or -1)
            operands = self.tape.dynamic_inputs(op)
            straight = op.name in STRAIGHT or op.name in FUSED_NORMS or self.flow.is_affine(op)
            if not straight or len(operands) != 1:
                return None
            value = operands[0]
        pair = self.by_end[value]
        return None if pair[1].activation else pair

    def input_of(self, call: SiteCall) -> int:
        """Where the value that a layer reads was computed, gates of squeeze-and-excitation looked through."""
        value = self.flow.root(call.source, through=VIEWS | PADS)
        op = self.tape.producer(value)
        while op is not None and op.name == "mul" and len(op.inputs) == 2:
            shape = self.tape.values[value].shape
            full = [v for v in op.inputs if self.tape.values[v].shape == shape]
            if len(full) != 1:
                break
            value = self.flow.root(full[0], through=VIEWS | PADS)
            op = self.tape.producer(value)
        return value
