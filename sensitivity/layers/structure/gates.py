"""Layers whose output only scales another tensor: squeeze and excitation, spatial gates, routers."""

from __future__ import annotations

from math import prod

from sensitivity.layers.dataflow.operators import VIEWS
from sensitivity.layers.dataflow.sites import SiteCall
from sensitivity.layers.structure.neighbours import Neighbours


def find_gates(near: Neighbours) -> set[int]:
    """The layers of gates, by identity.

    The last layer of a gate is one whose output does nothing but scale a larger tensor (one factor a channel, or one a
    place). A layer that feeds nothing but that layer belongs to the gate too.
    """
    gates: set[int] = set()
    for site, call in near.pairs:
        if _only_scales(near, call):
            gates.add(id(site))
            gates |= {id(before) for before, previous in near.behind(call.source)[0] if near.only_feeds(previous, call)}
    return gates


def _only_scales(near: Neighbours, call: SiteCall) -> bool:
    """Whether every path from a layer ends in a product with a larger tensor."""
    waiting, scales = [call.end], False
    while waiting:
        value = waiting.pop()
        if value in near.tape.outputs:
            return False
        for reader in near.flow.readers(value):
            op = near.tape.ops[reader]
            if op.name == "mul" and len(near.tape.dynamic_inputs(op)) == 2 and not _fills(near, value, reader):
                scales = True
            elif reader in near.by_op or (len(near.tape.dynamic_inputs(op)) != 1 and op.name not in VIEWS):
                return False
            else:
                waiting += [output for output in op.outputs if output not in waiting]
    return scales


def _fills(near: Neighbours, value: int, reader: int) -> bool:
    """Whether a value is as large as the product that it is a factor of."""
    return prod(near.tape.values[value].shape) >= prod(near.tape.values[near.tape.ops[reader].outputs[0]].shape)
