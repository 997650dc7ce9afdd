"""Layers around attention products: those that feed one, those that scale what feeds it, those that read one."""

from __future__ import annotations

from functools import cached_property

from sensitivity.layers.dataflow.operators import FUSED_ATTENTION_PREFIX
from sensitivity.layers.dataflow.sites import Site, SiteCall
from sensitivity.layers.structure.neighbours import Neighbours

# a fused attention has query, key and value first; what follows is a mask or a bias
OPERANDS = 3


class AroundAttention:
    """Where layers stand around attention, by identity.

    Attributes:
        queries: They feed an attention product: query, key, value.
        inner: They stand between such a layer and the same product: the scaling of linear attention.
        projections: They are the first to read an attention product.
    """

    def __init__(self, near: Neighbours) -> None:
        self._near = near
        self._fed = self._feeding()
        feeding = {id(site) for site, _, _ in self._fed.values()}
        self.inner: set[int] = set()
        for site, call, products in self._fed.values():
            scaled = self._scaled_by(call, products)
            if scaled:
                self.inner.add(id(site))
                self.inner |= {id(before) for before in scaled if id(before) not in feeding}
        self.queries = feeding - self.inner
        self.projections = self._first_readers() - feeding

    def _feeding(self) -> dict[int, tuple[Site, SiteCall, set[int]]]:
        """By the operator of a layer's call: the products that it feeds.

        An operand that is made of another product (the attention weights) is left to that product.
        """
        near = self._near
        fed: dict[int, tuple[Site, SiteCall, set[int]]] = {}
        for number, op in enumerate(near.tape.ops):
            if not near.is_attention(op):
                continue
            operands = op.inputs[:OPERANDS] if op.name.startswith(FUSED_ATTENTION_PREFIX) else op.inputs
            for value in operands:
                pairs, ops = near.behind(value)
                if any(near.is_attention(near.tape.ops[behind]) for behind in ops):
                    continue
                for site, call in pairs:
                    if op.name == "mul" and call.activation:
                        continue  # a feature map that deformable attention samples as it is
                    fed.setdefault(call.op, (site, call, set()))[2].add(number)
        return fed

    def _first_readers(self) -> set[int]:
        """The layers that read a product through no other layer, unless an earlier one reads another value of it."""
        near = self._near
        made: dict[int, frozenset[int]] = {}  # by value: the products that have a part in it
        read: dict[int, int] = {}  # by product: the value that the first layer behind it reads
        readers: set[int] = set()
        for number, op in enumerate(near.tape.ops):
            if number in near.by_op:
                site, call = near.by_op[number]
                products = made.get(call.source, frozenset())
                if any(read.setdefault(product, call.source) == call.source for product in products):
                    readers.add(id(site))
                continue
            products = frozenset().union(*(made.get(value, frozenset()) for value in op.inputs))
            if near.is_attention(op):
                products |= {number}
            made.update(dict.fromkeys(op.outputs, products) if products else {})
        return readers

    def _scaled_by(self, call: SiteCall, products: set[int]) -> list[Site]:
        """The layers between a layer and another one that feeds the same product, if all lead to attention alone."""
        before = []
        all_products = self._with_what_is_made_of(products)
        for site, previous in self._near.layers_behind(call.source):
            if self._leaks(previous.op, all_products):
                return []
            before.append(site)
        return before if self._reads_what_feeds(call, products) else []

    def _with_what_is_made_of(self, products: set[int]) -> set[int]:
        """Some products and those that are made of them through no layer."""
        chain, waiting = set(products), list(products)
        while waiting:
            fresh = self._made_of.get(waiting.pop(), set()) - chain
            chain |= fresh
            waiting += fresh
        return chain

    @cached_property
    def _made_of(self) -> dict[int, set[int]]:
        """By the number of a product: the products that are made of it through no layer."""
        made: dict[int, set[int]] = {}
        for number, numbers in self._near.products_behind.items():
            for behind in numbers:
                made.setdefault(behind, set()).add(number)
        return made

    def _reads_what_feeds(self, call: SiteCall, products: set[int]) -> bool:
        """Whether a layer reads one that feeds the same product, through no attention in between."""
        near = self._near
        waiting, seen = [call.source], set[int]()
        while waiting:
            pairs, ops = near.behind(waiting.pop())
            if any(near.is_attention(near.tape.ops[number]) for number in ops):
                continue
            for _, previous in pairs:
                if previous.op in self._fed and not products.isdisjoint(self._fed[previous.op][2]):
                    return True
                if previous.op not in seen:
                    seen.add(previous.op)
                    waiting.append(previous.source)
        return False

    def _leaks(self, number: int, products: set[int]) -> bool:
        """Whether an operator's result reaches the model's output on some path around the attention products."""
        near, last = self._near, max(products)
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
        return frozenset(self._near.tape.outputs)

    @cached_property
    def _reaching_output(self) -> set[int]:
        """Operators whose result the model's output is made of."""
        near = self._near
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
