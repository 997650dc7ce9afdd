"""Residual blocks, inverted residuals and attention on a tape: which layers form a block, and where it ends."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sensitivity.layers.flow import Flow
from sensitivity.layers.operators import ATTENTION, FUSED_ATTENTION_PREFIX, FUSED_NORMS, PADS, VIEWS
from sensitivity.layers.sites import Site, SiteCall
from sensitivity.layers.tape import Op, Tape

Pair = tuple[Site, SiteCall]

# what a skip connection without weights may do to fit the main branch
SHRINKING = VIEWS | PADS | {"slice", "avg_pool2d", "max_pool2d_with_indices"}

# a plain network doubles its channels where it halves its images; a fused MBConv expands them more than that
DOUBLING = 2


@dataclass(frozen=True, slots=True)
class Block:
    """Layers that belong together.

    Attributes:
        members: Its layers in execution order, the exit last.
        exit: The layer whose output leaves the block with no activation.
        shortcut: A layer on the skip connection, or None.
        attends: Whether an attention product runs inside.
        ends_in_add: Whether its output is added to a skip connection.
    """

    members: tuple[Site, ...]
    exit: Site
    shortcut: Site | None = None
    attends: bool = False
    ends_in_add: bool = True


class Neighbours:
    """Who is next to whom among the layers of a tape."""

    def __init__(self, tape: Tape, flow: Flow, sites: Iterable[Site]) -> None:
        self.tape = tape
        self.flow = flow
        self.pairs: list[Pair] = [(site, call) for site in sites for call in site.calls]
        self.by_op = {call.op: (site, call) for site, call in self.pairs}
        self.by_end = {call.end: (site, call) for site, call in self.pairs}
        self.shared_values = {value for value in tape.consumers if len(flow.readers(value)) > 1} | set(tape.outputs)

    def is_attention(self, op: Op) -> bool:
        """Whether an operator multiplies two tensors that both depend on the input."""
        if op.name.startswith(FUSED_ATTENTION_PREFIX):
            return True
        return op.name in ATTENTION and len(self.tape.dynamic_inputs(op)) == 2

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
            dynamic = self.tape.dynamic_inputs(op)
            straight = op.name in VIEWS or op.name in FUSED_NORMS or self.flow.is_affine(op)
            if not straight or len(dynamic) != 1:
                return None
            value = dynamic[0]
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


def find_blocks(near: Neighbours) -> list[Block]:
    """Residual blocks and inverted residuals without an add; the smallest first."""
    blocks = [block for number in range(len(near.tape.ops)) if (block := _residual(near, number))]
    ends = {id(block.exit) for block in blocks}
    for site, call in near.pairs:
        block = None if id(site) in ends else _inverted(near, site, call)
        if block:
            blocks.append(block)
    return sorted(blocks, key=lambda block: len(block.members))


def _residual(near: Neighbours, number: int) -> Block | None:
    """The block that an add ends, if one of its operands is computed from the other or from what that one is."""
    op = near.tape.ops[number]
    if op.name != "add" or len(op.inputs) != 2 or len(near.tape.dynamic_inputs(op)) != 2:
        return None
    shapes = [near.tape.values[v].shape for v in op.inputs]
    if shapes[0] != shapes[1]:
        return None
    for main, skip in (op.inputs, op.inputs[::-1]):
        block = _with_skip(near, main, skip)
        if block:
            return block
    return None


def _with_skip(near: Neighbours, main: int, skip: int) -> Block | None:
    """The block with this main branch, whose skip connection is plain or one layer."""
    last = near.straight_back(main)
    if last is None:
        return None
    start = near.flow.root(skip, through=SHRINKING)
    if near.reaches(main, start):
        return _block(near, main, start, last[0], None)
    pair = near.straight_back(skip)
    if pair is None or near.flow.behind_views(last[1].end) in near.shared_values:
        return None  # a level of a pyramid is read by others as well, the branch of a block by its add alone
    start = near.flow.root(pair[1].source, through=SHRINKING)
    members, _ = near.behind(main, stop=start, layers_too=True)
    if near.reaches(main, start) and len({id(site) for site, _ in members}) >= 2:
        return _block(near, main, start, last[0], pair[0])
    return None


def _block(near: Neighbours, main: int, start: int, last: Site, shortcut: Site | None) -> Block | None:
    pairs, ops = near.behind(main, stop=start, layers_too=True)
    members = list({id(site): site for site, _ in pairs if site is not shortcut}.values())
    if not members or last not in members:
        return None
    attends = any(near.is_attention(near.tape.ops[number]) for number in ops)
    return Block(tuple(members), last, shortcut, attends)


def _inverted(near: Neighbours, site: Site, call: SiteCall) -> Block | None:
    """An inverted residual that ends without an add: a narrowing, activation-free 1x1 after an expansion."""
    narrows = site.pointwise and site.groups == 1 and site.in_channels > site.out_channels
    if site.conv_type == "Linear" or not narrows or call.activation or near.flow.tape.outputs == (call.end,):
        return None
    before = near.by_end.get(near.input_of(call))
    if before is None or not before[1].activation or not _only_feeds(near, before[1], call):
        return None
    middle = before[0]
    if middle.depthwise:
        first = near.by_end.get(near.input_of(before[1]))
        widens = first is not None and first[0].pointwise and bool(first[1].activation)
        expand = (first[0],) if first is not None and widens and _only_feeds(near, first[1], before[1]) else ()
        return Block((*expand, middle, site), site, ends_in_add=False)
    expands = middle.out_channels > DOUBLING * middle.in_channels
    if not middle.pointwise and expands and near.behind(before[1].source)[0]:
        return Block((middle, site), site, ends_in_add=False)
    return None


def _only_feeds(near: Neighbours, call: SiteCall, target: SiteCall) -> bool:
    """Whether everything that reads a layer's output leads to the target layer and nowhere past it."""
    waiting, seen = [call.end], {call.end}
    while waiting:
        value = waiting.pop()
        if value in near.tape.outputs:
            return False
        for reader in near.flow.readers(value):
            if reader == target.op:
                continue
            if reader > target.op:
                return False
            fresh = [v for v in near.tape.ops[reader].outputs if v not in seen]
            seen.update(fresh)
            waiting += fresh
    return True
