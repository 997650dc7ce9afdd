"""Which modules stay in fp32 while the other layers that are not quantized are computed in half precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from sensitivity.errors import LayerNotFoundError
from sensitivity.layers.dataflow.operators import DIVISIONS, FUSED_NORMS, REDUCTIONS
from sensitivity.layers.dataflow.sites import find_sites
from sensitivity.layers.structure.neighbours import Neighbours
from sensitivity.layers.trace.tape import Call, Op, Tape
from sensitivity.layers.trace.tracing import trace
from sensitivity.records import Layer, Scheme

NORMS, ATTENTION = "norms", "attention"
_FUSED = frozenset(name for name, kind in FUSED_NORMS.items() if kind != "BatchNorm")

Place = Literal["outside", "body", "whole"]
"""Whether operations are outside of all that is kept, of a module whose own operations are, or of one kept whole."""


@dataclass(frozen=True)
class KeptModules:
    """What stays in fp32.

    Attributes:
        whole: Paths of modules that are kept with all that is inside.
        bodies: Paths of modules that are kept but for the children that hold layers.
        layers: Paths of the modules that are layers.
        beside: Layers whose input others read as well: their paths to those of the others, empty for what is no layer.
    """

    whole: frozenset[str] = frozenset()
    bodies: frozenset[str] = frozenset()
    layers: frozenset[str] = frozenset()
    beside: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def entered(self, place: Place, path: str) -> Place:
        """Where the operations of a module are that is called at some place."""
        if place == "whole" or path in self.whole:
            return "whole"
        if path in self.bodies:
            return "body"
        return "body" if place == "body" and not self._holds_layer(path) else "outside"

    def holds(self, paths: Iterable[str]) -> bool:
        """Whether operations are kept, given the modules that they run in, outermost first."""
        place: Place = "outside"
        for path in paths:
            place = self.entered(place, path)
        return place != "outside"

    def _holds_layer(self, path: str) -> bool:
        return path == "" or any(layer == path or layer.startswith(f"{path}.") for layer in self.layers)


def around(path: str) -> list[str]:
    """A module's path behind those of all modules around it, outermost first."""
    steps = path.split(".") if path else []
    return ["", *(".".join(steps[: number + 1]) for number in range(len(steps)))]


def find_kept(model: nn.Module, layers: Sequence[Layer], scheme: Scheme, example_inputs: Any) -> KeptModules:
    """Find what a scheme's ``keep_fp32`` means in a model.

    Norms are modules without layers that run a fused norm, or both reduce and divide; norms that are folded (batch
    norms) are none. The body of attention is what the innermost module that holds a layer computes around a product of
    two tensors which both depend on the input; a fused module (``nn.MultiheadAttention``) includes its projections.

    Args:
        model: Any module; a copy is traced unless all is in fp32.
        layers: Its layers.
        scheme: Names ``norms``, ``attention``, module paths or globs.
        example_inputs: What the model accepts: a tensor, a tuple or a dict.

    Raises:
        LayerNotFoundError: If an entry selects nothing.
        TracingError: If the model fails with the inputs.
    """
    if scheme.rest == "fp32":
        return KeptModules()
    whole: set[str] = set()
    bodies: set[str] = set()
    finder = _Found(model, example_inputs)
    for entry in scheme.keep_fp32:
        if entry in (NORMS, ATTENTION):
            paths = finder.norms() if entry == NORMS else finder.attention()
        else:
            paths = {path for path, _ in model.named_modules() if path and (path == entry or fnmatchcase(path, entry))}
        if not paths:
            raise LayerNotFoundError(_nothing(entry, model))
        (bodies if entry == ATTENTION else whole).update(paths)
    modules = frozenset(layer.module for layer in layers)
    return KeptModules(frozenset(whole), frozenset(bodies), modules, finder.beside())


class _Found:
    """Norms and attention on a tape."""

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        self._tape: Tape = trace(model, example_inputs)
        self._sites, _, self._flow = find_sites(self._tape)

    def norms(self) -> set[str]:
        """Paths of the innermost modules without layers that normalize."""
        calls = [call for call in self._tape.calls if call.module and self._normalizes(call)]
        inner = [call for call in calls if not any(_inside(other, call) for other in calls)]
        return {call.module for call in inner}

    def attention(self) -> set[str]:
        """Paths of the innermost modules with layers that multiply two tensors which depend on the input."""
        near = Neighbours(self._tape, self._flow, self._sites)
        return {self._home(op) for op in self._tape.ops if near.is_attention(op)}

    def beside(self) -> dict[str, frozenset[str]]:
        """See ``KeptModules.beside``."""
        at = {call.op: site.module for site in self._sites for call in site.calls}
        partners: dict[str, frozenset[str]] = {}
        for site in self._sites:
            sources = {call.source for call in site.calls}
            readers = {at.get(reader, "") for source in sources for reader in self._flow.readers(source)}
            returned = {""} if sources & set(self._tape.outputs) else set()
            partners[site.module] = frozenset((readers | returned) - {site.module})
        return {path: modules for path, modules in partners.items() if modules}

    def _normalizes(self, call: Call) -> bool:
        if self._flow.holds_layer(call):
            return False
        names = {op.name for op in self._tape.ops[call.first : call.last]}
        return bool(names & _FUSED) or bool(names & REDUCTIONS and names & DIVISIONS)

    def _home(self, op: Op) -> str:
        calls: Iterator[Call] = (self._tape.calls[number] for number in reversed(op.scope))
        return next((call.module for call in calls if self._flow.holds_layer(call)), "")


def _inside(call: Call, other: Call) -> bool:
    """Whether a call runs inside another one of a different module."""
    within = other.first <= call.first and call.last <= other.last
    return within and call.module.startswith(f"{other.module}.")


def _nothing(entry: str, model: nn.Module) -> str:
    name = type(model).__name__
    if entry == NORMS:
        return (
            f"keep_fp32 names {NORMS!r}, and {name} has no module that is a LayerNorm, GroupNorm or RMSNorm or acts as "
            "one. Leave it out, or name modules by their paths."
        )
    if entry == ATTENTION:
        return (
            f"keep_fp32 names {ATTENTION!r}, and nothing in {name} multiplies two tensors that depend on the input. "
            "Leave it out, or name modules by their paths."
        )
    paths = [path for path, _ in model.named_modules() if path]
    near = ", ".join(repr(name) for name in get_close_matches(entry, [NORMS, ATTENTION, *paths], n=3, cutoff=0.4))
    return f"keep_fp32 names {entry!r}, which is no module of {name}. Nearest: {near or ', '.join(paths[:3])}."
