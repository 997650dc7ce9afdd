"""Convolutions and linear layers on a tape, each with the norm and activation that follow it by data flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import nn

from sensitivity.layers.flow import Flow, Found
from sensitivity.layers.operators import VIEWS
from sensitivity.layers.tape import Call, Op, Ref, Tape
from sensitivity.records import SkippedModule

LINEAR_OPS = frozenset({"addmm", "mm", "linear", "bmm", "baddbmm", "matmul"})


@dataclass(frozen=True, slots=True)
class SiteCall:
    """One call of a layer.

    Attributes:
        op: Number of its operator on the tape.
        source: Value it reads.
        written: Value it writes, bias included.
        end: Value after the norm and activation that follow.
        macs: Multiply-adds.
        elements: Elements written.
        norm: Class of the norm that follows, or None.
        norm_module: Its path, where it is a module that reads the convolution directly.
        activation: Name of the activation that follows, or None.
        activation_module: Its path, where it is a module.
    """

    op: int
    source: int
    written: int
    end: int
    macs: int
    elements: int
    norm: str | None
    norm_module: str | None
    activation: str | None
    activation_module: str | None


@dataclass
class Site:
    """One layer as found: a module, its weight, its geometry and all its calls."""

    module: str
    weight: str
    conv_type: str
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    in_channels: int
    out_channels: int
    computed_weight: bool
    calls: list[SiteCall] = field(default_factory=list)

    @property
    def norm(self) -> str | None:
        """The norm that follows its calls, or None."""
        return next((call.norm for call in self.calls if call.norm), None)

    @property
    def norm_module(self) -> str | None:
        """Path of the one norm module that follows every call; None where calls differ."""
        return _only({call.norm_module for call in self.calls})

    @property
    def activation(self) -> str | None:
        """The activation that follows its calls, or None."""
        return next((call.activation for call in self.calls if call.activation), None)

    @property
    def activation_module(self) -> str | None:
        """Path of the one activation module that follows every call; None where calls differ."""
        return _only({call.activation_module for call in self.calls})

    @property
    def depthwise(self) -> bool:
        """One filter a channel."""
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def pointwise(self) -> bool:
        """Mixes channels only."""
        return all(side == 1 for side in self.kernel_size)


def _only(paths: set[str | None]) -> str | None:
    return next(iter(paths)) if len(paths) == 1 else None


@dataclass(frozen=True, slots=True)
class _Weighted:
    """An operator that multiplies by a weight."""

    op: int
    source: int
    weight: int


def find_sites(tape: Tape) -> tuple[list[Site], list[SkippedModule], Flow]:
    """All layers in execution order, and the modules with a weight that are none, each with its reason."""
    weighted = [w for number in range(len(tape.ops)) if (w := _weighted(tape, number))]
    flow = Flow(tape, frozenset(w.op for w in weighted))
    sites: dict[tuple[str, str], Site] = {}
    reasons: dict[str, str] = {}
    for candidate in weighted:
        owner = _owner(tape, candidate)
        if owner is None:
            continue
        module, weight, call = owner
        if call is None:
            reasons[module] = "its parent uses its weight without calling it, so a hook on it never runs"
        elif flow.root(candidate.source) not in {flow.root(v) for v in call.inputs}:
            reasons[module] = "what it multiplies is computed inside itself, out of the reach of a hook"
        else:
            site = sites.setdefault((module, weight), _new_site(tape, candidate, module, weight))
            site.calls.append(_site_call(tape, flow, site, candidate, call))
    taken = {module for module, _ in sites}
    return list(sites.values()), _skipped(tape, taken, reasons), flow


def _weighted(tape: Tape, number: int) -> _Weighted | None:
    """The operator as a multiplication of something dynamic by something static, if it is one."""
    op = tape.ops[number]
    if op.name in {"convolution", "_convolution"}:
        operands = op.args[0], op.args[1]
    elif op.name in LINEAR_OPS:
        operands = op.args[1:3] if op.name in {"addmm", "baddbmm"} else op.args[0:2]
    else:
        return None
    left, right = (ref.value for ref in operands)
    dynamic = tape.values[left].dynamic, tape.values[right].dynamic
    if dynamic == (True, False):
        return _Weighted(number, left, right)
    if dynamic == (False, True) and op.name in LINEAR_OPS:
        return _Weighted(number, right, left)
    return None


def _owner(tape: Tape, candidate: _Weighted) -> tuple[str, str, Call | None] | None:
    """Path of the module that owns the weight, the attribute that holds it, and the call it runs in.

    None where the weight does not come from a parameter (a fixed blur filter, a table of positions).
    """
    leaves = _parameters_behind(tape, candidate.weight)
    if not leaves:
        return None
    for number in reversed(tape.ops[candidate.op].scope):
        call = tape.calls[number]
        attribute = _attribute(tape.modules[call.module], call.module, leaves, tape)
        if attribute:
            return call.module, attribute, call
    module, _, attribute = leaves[0].rpartition(".")
    return module.split(".parametrizations.")[0], attribute, None


def _attribute(module: nn.Module, path: str, leaves: list[str], tape: Tape) -> str | None:
    """The attribute of a module that one of these parameters is, tied parameters included."""
    for leaf in leaves:
        parent, _, _ = leaf.rpartition(".")
        parameter = _parameter_at(tape, leaf)
        for name, own in module._parameters.items():
            if own is parameter:
                return "weight" if name == "weight_v" or name == "weight_g" else name
        if parent.startswith(f"{path}.parametrizations." if path else "parametrizations."):
            return parent.rpartition("parametrizations.")[2]
    return None


def _parameter_at(tape: Tape, path: str) -> nn.Parameter | None:
    parent, _, name = path.rpartition(".")
    return tape.modules[parent]._parameters[name]


def _parameters_behind(tape: Tape, value: int) -> list[str]:
    """Paths of the parameters that a static value is made of, matrices before scales."""
    found: dict[str, int] = {}
    waiting, seen = [value], {value}
    while waiting:
        current = waiting.pop()
        path = tape.values[current].parameter
        if path is not None:
            found[path] = prod(tape.values[current].shape)
        producer = tape.producer(current)
        for previous in producer.inputs if producer else ():
            if previous not in seen:
                seen.add(previous)
                waiting.append(previous)
    return sorted(found, key=lambda path: -found[path])


def _new_site(tape: Tape, candidate: _Weighted, module: str, weight: str) -> Site:
    op = tape.ops[candidate.op]
    shape = tape.values[candidate.weight].shape
    computed = tape.values[_through_views(tape, candidate.weight)].parameter is None
    if op.name in {"convolution", "_convolution"}:
        return _conv_site(op, shape, module, weight, computed)
    source = tape.values[candidate.source].shape
    into = source[-1] if op.args and _is_left(op, candidate.source) else source[-2]
    out = tape.values[op.outputs[0]].shape[-1 if _is_left(op, candidate.source) else -2]
    return Site(module, weight, "Linear", (), (), 1, into, out, computed)


def _conv_site(op: Op, shape: tuple[int, ...], module: str, weight: str, computed: bool) -> Site:
    stride, transposed, groups = tuple(op.args[3]), bool(op.args[6]), int(op.args[8])
    dimensions = len(shape) - 2
    into, out = (shape[0], shape[1] * groups) if transposed else (shape[1] * groups, shape[0])
    stride = stride * dimensions if len(stride) == 1 else stride
    kind = f"Conv{'Transpose' if transposed else ''}{dimensions}d"
    return Site(module, weight, kind, shape[2:], stride, groups, into, out, computed)


def _is_left(op: Op, value: int) -> bool:
    operands: tuple[Any, ...] = op.args[1:3] if op.name in {"addmm", "baddbmm"} else op.args[0:2]
    first = operands[0]
    return isinstance(first, Ref) and first.value == value


def _through_views(tape: Tape, value: int) -> int:
    """The static value that a static value is a view of."""
    producer = tape.producer(value)
    while producer is not None and producer.name in VIEWS and len(producer.inputs) == 1:
        value = producer.inputs[0]
        producer = tape.producer(value)
    return value


def _site_call(tape: Tape, flow: Flow, site: Site, candidate: _Weighted, call: Call) -> SiteCall:
    op = tape.ops[candidate.op]
    output = op.outputs[0]
    elements = prod(tape.values[output].shape)
    if site.conv_type.startswith("ConvTranspose"):
        elements_in = prod(tape.values[candidate.source].shape)
        macs = elements_in * site.out_channels // site.groups * prod(site.kernel_size)
    else:
        macs = elements * site.in_channels // site.groups * prod(site.kernel_size)
    written = _with_bias(tape, flow, output, call)
    norm, activation, end, direct = _what_follows(flow, written)
    return SiteCall(
        op=candidate.op,
        source=candidate.source,
        written=written,
        end=end,
        macs=macs,
        elements=elements,
        norm=norm.name if norm else None,
        norm_module=norm.module if norm and direct else None,
        activation=activation.name if activation else None,
        activation_module=activation.module if activation else None,
    )


def _with_bias(tape: Tape, flow: Flow, value: int, call: Call) -> int:
    """The value behind a bias that the module adds in an operator of its own."""
    ahead = flow.behind_views(value)
    reader = flow.sole_reader(ahead)
    if reader is not None and call.first <= reader < call.last:
        op = tape.ops[reader]
        if op.name == "add" and flow.is_affine(op):
            return op.outputs[0]
    return value


def _what_follows(flow: Flow, value: int) -> tuple[Found | None, Found | None, int, bool]:
    """The norm, the activation, the value behind both, and whether the norm comes first."""
    norm: Found | None = None
    activation: Found | None = None
    end, direct = value, False
    while True:
        found = flow.norm_after(end) if norm is None else None
        if found is not None:
            norm, direct = found, activation is None
            activation = found if found.bends and activation is None else activation
        else:
            found = flow.activation_after(end) if activation is None else None
            if found is None:
                return norm, activation, end, direct
            activation = found
        end = found.output


def _skipped(tape: Tape, taken: set[str], reasons: dict[str, str]) -> list[SkippedModule]:
    """Modules that look like layers but are none, with the reason."""
    called = {call.module for call in tape.calls}
    skipped = []
    for path, module in tape.modules.items():
        if path in taken or not (path in reasons or _looks_like_a_layer(module)):
            continue
        default = "runs, but its weight enters no convolution or linear operator"
        if path not in called:
            default = "never called with the example inputs"
        skipped.append(SkippedModule(path, reasons.get(path, default)))
    return skipped


def _looks_like_a_layer(module: nn.Module) -> bool:
    no_layers = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.modules.batchnorm._NormBase, nn.GroupNorm)
    matrices = [name for name, own in module._parameters.items() if own is not None and own.dim() >= 2]
    return any("weight" in name for name in matrices) and not isinstance(module, no_layers)
