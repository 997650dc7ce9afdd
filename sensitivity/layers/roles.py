"""Kind, role and flags of a layer from the structure around it: exit, attention pointwise, depthwise, stem ..."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sensitivity.layers.blocks import Block, Neighbours, find_blocks
from sensitivity.layers.flow import Flow
from sensitivity.layers.operators import VIEWS
from sensitivity.layers.sites import Site, SiteCall
from sensitivity.layers.tape import Tape


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
        self.stem = {id(site) for site, call in near.pairs if self._reads_input(call)}
        self.output = self._outputs()
        self.blocks = [block for block in blocks if block.ends_in_add or id(block.exit) not in self.output]
        self.exits = {id(b.exit) for b in self.blocks if not b.attends or not self._reads_attention(b.exit.calls[0])}
        self.shortcuts = {id(block.shortcut) for block in self.blocks if block.shortcut}
        self.queries, self.inner, self.projections = self._around_attention()

    def _reads_input(self, call: SiteCall) -> bool:
        """Whether nothing with a weight stands between the model's input and a layer."""
        return call.source not in self._made_by_layers

    def _reads_attention(self, call: SiteCall) -> bool:
        """Whether a layer reads an attention product through no other layer: the projection behind it."""
        return call.source in self._made_by_attention

    @cached_property
    def _made_by_layers(self) -> set[int]:
        """Values that some layer has a part in."""
        made: set[int] = set()
        for number, op in enumerate(self.near.tape.ops):
            if number in self.near.flow.layer_ops or not made.isdisjoint(self.near.tape.dynamic_inputs(op)):
                made.update(op.outputs)
        return made

    @cached_property
    def _made_by_attention(self) -> set[int]:
        """Values that an attention product has a part in, through no layer."""
        near, made = self.near, set[int]()
        for number, op in enumerate(near.tape.ops):
            passes_on = number not in near.by_op and not made.isdisjoint(near.tape.dynamic_inputs(op))
            if passes_on or near.is_attention(op):
                made.update(op.outputs)
        return made

    def _outputs(self) -> set[int]:
        """Layers whose output the model returns through no other layer, along the main branch of residual adds."""
        near, found = self.near, set()
        waiting, seen = list(near.tape.outputs), set(near.tape.outputs)
        while waiting:
            value = waiting.pop()
            number = near.tape.values[value].producer
            if number is None:
                continue
            if number in near.by_op:
                found.add(id(near.by_op[number][0]))
                continue
            fresh = [v for v in self._main_operands(number) if v not in seen]
            seen.update(fresh)
            waiting += fresh
        return found

    def _main_operands(self, number: int) -> list[int]:
        near = self.near
        op = near.tape.ops[number]
        dynamic = near.tape.dynamic_inputs(op)
        if op.name == "add" and len(dynamic) == 2:
            for main, skip in (dynamic, dynamic[::-1]):
                if near.reaches(main, near.flow.root(skip, through=VIEWS)):
                    return [main]
        return dynamic

    def _around_attention(self) -> tuple[set[int], set[int], set[int]]:
        """Layers that feed an attention product: from outside, from inside the attention; and those that read it."""
        near = self.near
        fed: dict[int, tuple[Site, SiteCall, set[int]]] = {}  # by operator of the layer's call: the products it feeds
        for number in (i for i, op in enumerate(near.tape.ops) if near.is_attention(op)):
            for value in near.tape.ops[number].inputs:
                for site, call in near.behind(value)[0]:
                    fed.setdefault(call.op, (site, call, set()))[2].add(number)
        feeding = {id(site) for site, _, _ in fed.values()}
        inner = set()
        for site, call, products in fed.values():
            before = self._before_unless_one_leaks(call, products)
            if before:
                inner.add(id(site))
                inner |= {id(previous) for previous in before if id(previous) not in feeding}
        projections = {id(site) for site, call in near.pairs if self._reads_attention(call)}
        return feeding - inner, inner, projections - feeding

    def _before_unless_one_leaks(self, call: SiteCall, products: set[int]) -> list[Site]:
        """The layers that a layer reads, if all of them lead to attention products alone; else none.

        The nearest is looked at first: on a residual stream its output is added to what goes on to the model's output,
        so that of the many layers before no other need be looked at.
        """
        before = []
        for site, previous in self.near.layers_behind(call.source):
            if self._leaks(previous.op, products):
                return []
            before.append(site)
        return before

    def _leaks(self, number: int, products: set[int]) -> bool:
        """Whether an operator's result reaches the model's output on some path around the attention products."""
        near, last = self.near, max(products)
        waiting, seen = [number], {number}
        while waiting:
            current = waiting.pop()
            if current in products or current not in self._reaching_output:
                continue
            if current > last or not self._returned.isdisjoint(near.tape.ops[current].outputs):
                return True
            readers = {reader for value in near.tape.ops[current].outputs for reader in near.flow.readers(value)}
            waiting += readers - seen
            seen |= readers
        return False

    @cached_property
    def _returned(self) -> frozenset[int]:
        return frozenset(self.near.tape.outputs)

    @cached_property
    def _reaching_output(self) -> set[int]:
        """Operators whose result the model's output is made of."""
        near = self.near
        waiting, seen = list(near.tape.outputs), set(near.tape.outputs)
        reached: set[int] = set()
        while waiting:
            number = near.tape.values[waiting.pop()].producer
            if number is None or number in reached:
                continue
            reached.add(number)
            fresh = [v for v in near.tape.dynamic_inputs(near.tape.ops[number]) if v not in seen]
            seen.update(fresh)
            waiting += fresh
        return reached


def _structure(site: Site, block: Block | None, places: _Places) -> Structure:
    flags = _flags(site, places)
    kind = _kind(block)
    return Structure(kind, _role(site, block, kind, flags, places), flags)


def _kind(block: Block | None) -> str:
    if block is None:
        return "independent"
    if block.attends:
        return "att"
    if any(site.depthwise for site in block.members) and block.exit.pointwise and block.exit.kernel_size:
        return "mb"
    return "fmb" if _is_fused(block) else "res"


def _is_fused(block: Block) -> bool:
    """A fused MBConv: one dense convolution that does not narrow, then the 1x1 exit."""
    if len(block.members) != 2 or not block.exit.pointwise:
        return False
    first = block.members[0]
    return not first.pointwise and first.groups == 1 and first.out_channels >= first.in_channels


def _flags(site: Site, places: _Places) -> frozenset[str]:
    scaling = id(site) in places.inner and site.pointwise and not site.norm and not site.activation
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
    }
    return frozenset(flag for flag, holds in facts.items() if holds)


def _role(site: Site, block: Block | None, kind: str, flags: frozenset[str], places: _Places) -> str:
    if id(site) in places.shortcuts:
        return "shortcut"
    if id(site) in places.inner:
        return "scale-depthwise" if site.depthwise else "scale-pointwise"
    if id(site) in places.queries:
        return "qkv"
    if id(site) in places.projections and kind == "att":
        return "proj"
    if "exit" in flags:
        return "exit"
    if "depthwise" in flags:
        return "depthwise"
    if block is not None and kind in {"mb", "fmb"}:
        return "expand" if site is block.members[0] else "conv"
    for role in ("stem", "output"):
        if role in flags:
            return role
    return "conv"
