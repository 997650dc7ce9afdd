"""Cross-stage blocks: a part of the input goes by, the rest through layers, and a 1x1 reads both concatenated."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from sensitivity.layers.dataflow.operators import VIEWS
from sensitivity.layers.structure.blocks import Block, Ending
from sensitivity.layers.structure.neighbours import Neighbours, Pair

SPLITS = VIEWS | {"split", "split_with_sizes", "chunk", "slice", "unbind"}


def cross_stage_blocks(near: Neighbours, residual: Iterable[Block]) -> list[Block]:
    """CSP, C2f and ELAN blocks: everything between the one value that they start from and the 1x1 that fuses them.

    The concatenated values must come from one value, on images of one size, and nothing between may be read elsewhere.
    Parallel branches alone (Inception, ASPP) are no such block: one concatenated value must be a part of what another
    one is computed from, or a single 1x1 beside a longer branch.
    """
    inside = {id(site) for block in residual if block.has_exit for site in block.members}
    blocks = [_cross_stage(near, pair) for pair in near.pairs if id(pair[0]) not in inside]
    return [block for block in blocks if block is not None]


def _cross_stage(near: Neighbours, fuse: Pair) -> Block | None:
    """The block that a 1x1 ends, if the concatenation that it reads is one of a cross-stage block."""
    site, call = fuse
    number = near.tape.values[call.source].producer
    if number is None or not site.kernel_size or not site.pointwise or site.groups > 1:
        return None
    op = near.tape.ops[number]
    operands = near.tape.dynamic_inputs(op)
    if op.name != "cat" or len(operands) < 2 or near.flow.sole_reader(call.source) != call.op:
        return None
    start, between = _from_one_value(near, operands)
    if start is None or not _is_closed(near, start, between, number, call.op):
        return None
    pairs = [near.by_op[n] for n in sorted(between) if n in near.by_op]
    if not _has_one_size(near, (start, call.source), pairs) or not _goes_by(near, start, operands):
        return None
    members = {id(member): member for member, _ in (*_splitting(near, start), *pairs, fuse)}
    attends = any(near.is_attention(near.tape.ops[n]) for n in between)
    return Block(tuple(members.values()), site, Ending.CONCATENATION, attends=attends)


def _from_one_value(near: Neighbours, operands: list[int]) -> tuple[int | None, set[int]]:
    """The latest value that all of some values are computed from alone, and the operators between."""
    open_values, between = set(operands), set[int]()
    latest = [(-(near.tape.values[value].producer or -1), value) for value in open_values]
    heapq.heapify(latest)
    while len(open_values) > 1:
        _, value = heapq.heappop(latest)
        if value not in open_values:
            continue
        number = near.tape.values[value].producer
        if number is None:
            return None, between
        between.add(number)
        open_values -= set(near.tape.ops[number].outputs)
        for source in near.tape.dynamic_inputs(near.tape.ops[number]):
            if source not in open_values:
                open_values.add(source)
                heapq.heappush(latest, (-(near.tape.values[source].producer or -1), source))
    return (open_values.pop() if open_values else None), between


def _is_closed(near: Neighbours, start: int, between: set[int], concatenation: int, fuse: int) -> bool:
    """Whether nothing outside reads what is computed between."""
    written = {value for number in between for value in near.tape.ops[number].outputs if value != start}
    readers = {reader for value in written for reader in near.flow.readers(value)}
    return readers <= between | {concatenation, fuse} and written.isdisjoint(near.tape.outputs)


def _has_one_size(near: Neighbours, ends: tuple[int, int], pairs: list[Pair]) -> bool:
    """Whether all layers between write images of the size that goes in and comes out."""
    values = near.tape.values
    images = {
        values[call.written].shape[2:]
        for _, call in pairs
        if len(values[call.written].shape) == len(values[ends[1]].shape)
    }
    return (
        bool(pairs) and images <= {values[ends[1]].shape[2:]} and values[ends[0]].shape[2:] == values[ends[1]].shape[2:]
    )


def _goes_by(near: Neighbours, start: int, operands: list[int]) -> bool:
    """Whether a part of the input, or what an early layer made of it, stands beside what is computed from it."""
    roots = [near.flow.root(value, through=SPLITS) for value in operands]
    if start in roots:
        return True
    if any(near.reaches(value, other) for value in operands for other in operands if value != other):
        return True
    branches = [near.behind(value, stop=start, layers_too=True)[0] for value in operands]
    lengths = sorted(len(branch) for branch in branches)
    first = [branch[0][0] for branch in branches if branch]
    one_beside_more = len(operands) == 2 and lengths[0] == 1 and lengths[1] > 1
    return one_beside_more and all(site.pointwise and site.groups == 1 for site in first)


def _splitting(near: Neighbours, start: int) -> list[Pair]:
    """The 1x1 whose output is split, if that is what the block starts from."""
    pair = near.by_end.get(start)
    splits = any(near.tape.ops[reader].name in SPLITS - VIEWS for reader in near.flow.readers(start))
    return [pair] if splits and pair is not None and pair[0].pointwise and pair[0].groups == 1 else []
