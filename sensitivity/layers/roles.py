"""Kind, role and flags of a layer from the structure around it: exit, attention pointwise, depthwise, stem ..."""

from __future__ import annotations

from dataclasses import dataclass

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
        _, ops = self.near.behind(call.source)
        return not self.near.flow.layer_ops & set(ops)

    def _reads_attention(self, call: SiteCall) -> bool:
        """Whether a layer reads an attention product through no other layer: the projection behind it."""
        _, ops = self.near.behind(call.source)
        return any(self.near.is_attention(self.near.tape.ops[number]) for number in ops)

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
            before, _ = near.behind(call.source)
            leaking = self._reach_output_without(products) if before else set()
            if before and all(previous.op not in leaking for _, previous in before):
                inner.add(id(site))
                inner |= {id(s) for s, _ in before if id(s) not in feeding}
        projections = {id(site) for site, call in near.pairs if self._reads_attention(call)}
        return feeding - inner, inner, projections - feeding

    def _reach_output_without(self, products: set[int]) -> set[int]:
        """Operators whose result reaches the model's output on some path around the attention products."""
        near = self.near
        waiting, seen = list(near.tape.outputs), set(near.tape.outputs)
        reached: set[int] = set()
        while waiting:
            number = near.tape.values[waiting.pop()].producer
            if number is None or number in products or number in reached:
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
