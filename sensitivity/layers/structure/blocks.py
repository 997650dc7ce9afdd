"""Residual blocks and inverted residuals on a tape: which layers form a block, and where it ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import permutations

from sensitivity.layers.dataflow.operators import PADS, VIEWS
from sensitivity.layers.dataflow.sites import Site, SiteCall
from sensitivity.layers.structure.merges import merged_values
from sensitivity.layers.structure.neighbours import Neighbours, Pair

# what a skip connection without weights may do to fit the main branch
SHRINKING = VIEWS | PADS | {"slice", "avg_pool2d", "max_pool2d_with_indices"}

# a plain network doubles its channels where it halves its images; a fused MBConv expands them more than that
DOUBLING = 2


class Ending(Enum):
    """How a block ends.

    Attributes:
        ADD: Its last layer reaches the add of a skip connection with no activation between: an exit.
        ACTIVATED_ADD: The same with an activation between (the bottlenecks of YOLO).
        NARROWING: A narrowing 1x1 without activation, and no skip connection.
        CONCATENATION: A 1x1 over what was concatenated (CSP, ELAN).
    """

    ADD = "add"
    ACTIVATED_ADD = "activated-add"
    NARROWING = "narrowing"
    CONCATENATION = "concatenation"


@dataclass(frozen=True, slots=True)
class Block:
    """Layers that belong together.

    Attributes:
        members: Its layers in execution order.
        last: The layer that ends it.
        ending: How it ends.
        shortcut: A layer on the skip connection, or None.
        attends: Whether an attention product runs inside.
    """

    members: tuple[Site, ...]
    last: Site
    ending: Ending = Ending.ADD
    shortcut: Site | None = None
    attends: bool = False

    @property
    def has_exit(self) -> bool:
        """Whether its last layer is an exit."""
        return self.ending in (Ending.ADD, Ending.NARROWING)


def find_blocks(near: Neighbours) -> list[Block]:
    """Residual blocks and inverted residuals without an add; the smallest first."""
    blocks = [block for number in range(len(near.tape.ops)) if (block := _residual(near, number))]
    blocks = [block for block in blocks if block.shortcut is None or not _holds_another(block, blocks)]
    ends = {id(block.last) for block in blocks}
    for site, call in near.pairs:
        block = None if id(site) in ends else _inverted(near, site, call)
        if block:
            blocks.append(block)
    return sorted(blocks, key=lambda block: len(block.members))


def _holds_another(block: Block, blocks: list[Block]) -> bool:
    """Whether a smaller block ends inside: then its skip connection joins levels, as in a head over two of them."""
    members = {id(site) for site in block.members}
    return any(
        other is not block and id(other.last) in members and len(other.members) < len(members) for other in blocks
    )


def _residual(near: Neighbours, number: int) -> Block | None:
    """The block that a merge ends, if one of its values is computed from another or from what that one is."""
    for main, skip in permutations(merged_values(near.tape, near.tape.ops[number]), 2):
        block = _with_skip(near, main, skip) or _with_activated_end(near, main, skip)
        if block:
            return block
    return None


def _with_activated_end(near: Neighbours, main: int, skip: int) -> Block | None:
    """The block of convolutions that ends in an activation, with a plain skip connection and images of one size."""
    last = near.by_end.get(near.flow.root(main))
    start = near.flow.root(skip)
    if last is None or last[1].activation is None or not near.reaches(main, start):
        return None
    pairs, _ = near.behind(main, stop=start, layers_too=True)
    size = near.tape.values[main].shape[2:]
    if len(size) < 1 or any(near.tape.values[call.end].shape[2:] != size for _, call in pairs):
        return None
    return _block(near, main, start, last[0], None, ending=Ending.ACTIVATED_ADD)


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


def _block(
    near: Neighbours, main: int, start: int, last: Site, shortcut: Site | None, *, ending: Ending = Ending.ADD
) -> Block | None:
    pairs, ops = near.behind(main, stop=start, layers_too=True)
    members = list({id(site): site for site, _ in pairs if site is not shortcut}.values())
    if not members or last not in members:
        return None
    attends = any(near.is_attention(near.tape.ops[number]) for number in ops)
    return Block(tuple(members), last, ending, shortcut, attends)


def _inverted(near: Neighbours, site: Site, call: SiteCall) -> Block | None:
    """An inverted residual that ends without an add: a narrowing, activation-free 1x1 after an expansion."""
    narrows = site.pointwise and site.groups == 1 and site.in_channels > site.out_channels
    if site.conv_type == "Linear" or not narrows or call.activation or near.flow.tape.outputs == (call.end,):
        return None
    before = near.by_end.get(near.input_of(call))
    if before is None or not before[1].activation or not near.only_feeds(before[1], call):
        return None
    middle = before[0]
    if middle.depthwise:
        first = near.by_end.get(near.input_of(before[1]))
        widens = first is not None and first[0].pointwise and bool(first[1].activation)
        expand = (first[0],) if first is not None and widens and near.only_feeds(first[1], before[1]) else ()
        return Block((*expand, middle, *_between(near, before, call), site), site, Ending.NARROWING)
    expands = middle.out_channels > DOUBLING * middle.in_channels
    if not middle.pointwise and expands and near.behind(before[1].source)[0]:
        return Block((middle, *_between(near, before, call), site), site, Ending.NARROWING)
    return None


def _between(near: Neighbours, before: Pair, call: SiteCall) -> list[Site]:
    """The layers of a gate that stands between two layers (squeeze and excitation)."""
    pairs, _ = near.behind(call.source, stop=before[1].end, layers_too=True)
    return list({id(site): site for site, _ in pairs if site is not before[0]}.values())
