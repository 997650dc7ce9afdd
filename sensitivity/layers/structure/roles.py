"""Kind, role and flags of a layer from the structure around it: exit, attention pointwise, depthwise, stem ..."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

from sensitivity.layers.dataflow.flow import Flow
from sensitivity.layers.dataflow.operators import VIEWS
from sensitivity.layers.dataflow.sites import Site, SiteCall
from sensitivity.layers.structure.attention import AroundAttention
from sensitivity.layers.structure.blocks import Block, Ending, find_blocks
from sensitivity.layers.structure.cross_stage import cross_stage_blocks
from sensitivity.layers.structure.gates import find_gates
from sensitivity.layers.structure.merges import merged_values
from sensitivity.layers.structure.neighbours import Neighbours
from sensitivity.layers.trace.tape import Tape

PREDICTING = frozenset({None, "Sigmoid", "Hardsigmoid", "Tanh"})
"""Activations behind layers that predict; others make feature maps."""


@dataclass(frozen=True, slots=True)
class Structure:
    """What the structure says of one layer: its block's kind, its role there, and its flags."""

    kind: str
    role: str
    flags: frozenset[str]


def structure_of(tape: Tape, flow: Flow, sites: list[Site]) -> list[Structure]:
    """Kind, role and flags of every layer, in the order given."""
    near = Neighbours(tape, flow, sites)
    places = _Places(near, find_blocks(near))
    home: dict[int, Block] = {}
    for block in places.blocks:
        for site in (*block.members, *([block.shortcut] if block.shortcut else [])):
            home.setdefault(id(site), block)
    return [_structure(site, home.get(id(site)), places) for site in sites]


class _Places:
    """Layers by where they stand: first, last, in front of attention, behind it."""

    def __init__(self, near: Neighbours, blocks: list[Block]) -> None:
        self.near = near
        fed = {id(site) for site, call in near.pairs if call.source in near.from_input}
        self.constant = {id(site) for site, _ in near.pairs} - fed
        self.stem = {id(site) for site, call in near.pairs if self._reads_input(call)} - self.constant
        self.output = self._outputs({id(block.last) for block in blocks if block.has_exit})
        self.blocks = [block for block in blocks if self._stays(block)]
        self.blocks += cross_stage_blocks(near, self.blocks)
        self.blocks.sort(key=lambda block: len(block.members))
        self.attention = AroundAttention(near)
        self.exits = {id(block.last) for block in self.blocks if block.has_exit and not self._projects(block)}
        self.shortcuts = {id(block.shortcut) for block in self.blocks if block.shortcut}
        self.gates = find_gates(near)

    def _stays(self, block: Block) -> bool:
        """Whether a block is one: only its last layer may be an output of the model, and that before an add alone."""
        inside = {id(site) for site in block.members if site is not block.last}
        ends_outside = block.ending is Ending.NARROWING and id(block.last) in self.output
        return inside.isdisjoint(self.output) and not ends_outside

    def _projects(self, block: Block) -> bool:
        """Whether a block ends in the projection behind its attention."""
        return block.attends and id(block.last) in self.attention.projections

    def _reads_input(self, call: SiteCall) -> bool:
        """Whether nothing with a weight stands between the model's input and a layer."""
        return call.source not in self._made_by_layers

    @cached_property
    def _made_by_layers(self) -> set[int]:
        """Values that some layer has a part in."""
        made: set[int] = set()
        for number, op in enumerate(self.near.tape.ops):
            if number in self.near.flow.layer_ops or not made.isdisjoint(op.inputs):
                made.update(op.outputs)
        return made

    def _outputs(self, ends: set[int]) -> set[int]:
        """Layers whose output the model returns through no other layer, along the main branch of residual adds.

        One that further layers read is an output too if it has no norm, at most an activation as predictions have
        them, and does not end a residual block: boxes that proposals are made of are, feature maps are not.
        """
        near, outputs = self.near, set[int]()
        waiting, seen = list(near.tape.outputs), set(near.tape.outputs)
        while waiting:
            value = waiting.pop()
            number = near.tape.values[value].producer
            if number is None:
                continue
            if number in near.by_op:
                site, call = near.by_op[number]
                bare = not site.norm and site.activation in PREDICTING and id(site) not in ends
                if bare or call.end not in self._read_by_layers:
                    outputs.add(id(site))
                continue
            fresh = [v for v in self._main_operands(number) if v not in seen]
            seen.update(fresh)
            waiting += fresh
        return outputs

    @cached_property
    def _read_by_layers(self) -> set[int]:
        """Values that some layer is computed from."""
        read: set[int] = set()
        for number in range(len(self.near.tape.ops) - 1, -1, -1):
            op = self.near.tape.ops[number]
            if number in self.near.by_op or not read.isdisjoint(op.outputs):
                read.update(op.inputs)
        return read

    def _main_operands(self, number: int) -> list[int]:
        near = self.near
        op = near.tape.ops[number]
        for main, skip in permutations(merged_values(near.tape, op), 2):
            if near.reaches(main, near.flow.root(skip, through=VIEWS)):
                return [main]
        return near.tape.dynamic_inputs(op)


def _structure(site: Site, block: Block | None, places: _Places) -> Structure:
    flags = _flags(site, places)
    kind = _kind(block, places)
    return Structure(kind, _role(site, block, kind, flags, places), flags)


def _kind(block: Block | None, places: _Places) -> str:
    if block is None:
        return "independent"
    if block.attends:
        return "att"
    if block.ending is Ending.CONCATENATION:
        return "csp"
    if not block.has_exit:
        return "res"
    if any(site.depthwise for site in block.members) and block.last.pointwise:
        return "mb"
    return "fmb" if _is_fused(block, places) else "res"


def _is_fused(block: Block, places: _Places) -> bool:
    """A fused MBConv: one dense convolution that does not narrow, then the 1x1 exit."""
    members = _main(block, places)
    if len(members) != 2 or not block.last.pointwise:
        return False
    first = members[0]
    return not first.pointwise and first.groups == 1 and first.out_channels >= first.in_channels


def _main(block: Block, places: _Places) -> list[Site]:
    """The layers of a block without its gates."""
    return [site for site in block.members if id(site) not in places.gates]


def _flags(site: Site, places: _Places) -> frozenset[str]:
    scaling = id(site) in places.attention.inner and site.pointwise and not site.norm and not site.activation
    facts = {
        "exit": id(site) in places.exits,
        "attention-pointwise": scaling,
        "depthwise": site.depthwise,
        "stem": id(site) in places.stem,
        "output": id(site) in places.output,
        "no-norm": site.norm is None,
        "no-activation": site.activation is None,
        "shared": len(site.calls) > 1,
        "computed-weight": site.computed_weight,
        "dynamic-kernel": site.dynamic_kernel,
        "batched-weight": site.batched_weight,
    }
    return frozenset(flag for flag, holds in facts.items() if holds)


def _role(site: Site, block: Block | None, kind: str, flags: frozenset[str], places: _Places) -> str:
    around = places.attention
    if id(site) in places.shortcuts:
        return "shortcut"
    if id(site) in around.inner:
        return "scale-depthwise" if site.depthwise else "scale-pointwise"
    if id(site) in around.queries and "output" not in flags:
        return "qkv"
    if id(site) in around.projections and (kind == "att" or block is None) and "output" not in flags:
        return "proj"
    if id(site) in places.constant:
        return "position"
    if id(site) in places.gates:
        return "gate"
    for role in ("exit", "depthwise"):
        if role in flags:
            return role
    if block is not None and _expands(site, block, kind, places):
        return "expand"
    for role in ("stem", "output"):
        if role in flags:
            return role
    return "linear" if site.conv_type == "Linear" else "conv"


def _expands(site: Site, block: Block, kind: str, places: _Places) -> bool:
    """Whether a layer is what widens an inverted residual or a pair of linear layers."""
    members = _main(block, places)
    if site is block.last or site not in members:
        return False
    if kind in {"mb", "fmb"}:
        return site is members[0] or site.out_channels > site.in_channels
    return block.has_exit and all(member.pointwise for member in members) and site.out_channels > site.in_channels
