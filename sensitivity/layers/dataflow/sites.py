"""Convolutions and linear layers on a tape, each with the norm and activation that follow it by data flow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from math import prod

from sensitivity.layers.dataflow.dynamic_kernels import samples_of
from sensitivity.layers.dataflow.flow import Flow, Follower
from sensitivity.layers.dataflow.left_out import PLAIN, no_layers, why_unchangeable
from sensitivity.layers.dataflow.operators import FUSED_NORMS, PADS, VIEWS
from sensitivity.layers.dataflow.products import CONVOLUTIONS, PARTS, WeightOrigin, axis_before, origin_of
from sensitivity.layers.dataflow.weighted import Weighted, find_weighted
from sensitivity.layers.trace.tape import Call, Op, Tape
from sensitivity.records import SkippedModule


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
        folds: Whether that norm module, if it is a batch norm, counts the channels that the layer writes.
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
    folds: bool = True


@dataclass
class Site:
    """One layer as found: a module, its weight, its geometry and all its calls.

    Attributes:
        parameter: Path of the parameter that the weight is made of.
        output_axis: Axis of the parameter that counts output channels; None where what is multiplied is not the
            parameter itself.
        runs_in: Path of the module in whose calls the operator runs, where its input is not simply what the layer's own
            module is called with; else None.
        batched_weight: Whether the weight is several matrices, one for each group: (G, in, out) in a batched product.
        dynamic_kernel: Whether the weight depends on the model's input: it is mixed, scaled or chosen in each pass.
    """

    module: str
    weight: str
    conv_type: str
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    in_channels: int
    out_channels: int
    computed_weight: bool
    parameter: str
    output_axis: int | None
    runs_in: str | None = None
    dynamic_kernel: bool = False
    batched_weight: bool = False
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
    def folds(self) -> bool:
        """Whether a batch norm that follows every call can be folded into the weight."""
        return all(call.folds for call in self.calls)

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


def find_sites(tape: Tape) -> tuple[list[Site], list[SkippedModule], Flow]:
    """All layers in execution order, and the modules with a weight that are none, each with its reason."""
    weighted = find_weighted(tape)
    flow = Flow(tape, frozenset(product.op for product in weighted))
    members: dict[tuple[str, str], list[Weighted]] = {}
    for product in weighted:
        members.setdefault((product.module, product.attribute), []).append(product)
    owners = Counter(module for module, _ in members)
    sites = [_site(tape, flow, group, is_alone=owners[module] == 1) for (module, _), group in members.items()]
    sites, refused = _without_unchangeable(tape, sites)
    return (
        sites,
        [*refused, *no_layers(tape, {site.module for site in sites} | {each.module for each in refused})],
        flow,
    )


def _without_unchangeable(tape: Tape, sites: list[Site]) -> tuple[list[Site], list[SkippedModule]]:
    """The layers whose weights can be exchanged, and the others with the reason."""
    reasons = {site.parameter: why_unchangeable(tape, site.module, site.parameter) for site in sites}
    refused = {site.module: reason for site in sites if (reason := reasons[site.parameter]) is not None}
    changeable = [site for site in sites if reasons[site.parameter] is None]
    return changeable, [SkippedModule(module, reason) for module, reason in refused.items()]


def _site(tape: Tape, flow: Flow, group: list[Weighted], *, is_alone: bool) -> Site:
    """The layer that a group of operators with one weight is; alone where its module multiplies by no other weight."""
    site = _new_site(tape, group[0])
    site.dynamic_kernel = any(product.is_dynamic for product in group)
    site.calls = [_site_call(tape, flow, site, product) for product in group]
    origins = [origin_of(tape, product.weight, product.axis) for product in group]
    site.batched_weight = any(map(partial(_is_batched, tape), group, origins))
    axes = {origin.axis for origin in origins}
    itself = all(tape.values[origin.value].parameter is not None for origin in origins)
    operators = {product.op for product in group}
    if itself and not all(_reads_only(tape, origin.value, operators, VIEWS | PARTS) for origin in origins):
        itself = _called_plainly(tape, group)
    site.computed_weight = not all(tape.values[origin.value].parameter is not None for origin in origins)
    site.output_axis = axes.pop() if itself and len(axes) == 1 else None
    plain = is_alone and all(_reads_its_argument_alone(tape, product, operators) for product in group)
    if site.output_axis is None or not plain:
        site.runs_in = _home(tape, group)
    return site


def _is_batched(tape: Tape, product: Weighted, origin: WeightOrigin) -> bool:
    """Whether an operator multiplies by several matrices of a weight; those that it is expanded to do not count."""
    if tape.ops[product.op].name in CONVOLUTIONS:
        return False
    shape = tape.values[product.weight].shape
    return min(prod(shape), prod(tape.values[origin.value].shape)) > prod(shape[-2:])


def _called_plainly(tape: Tape, group: list[Weighted]) -> bool:
    """Whether a weight that others read as well (it is tied) can be exchanged in its own module alone."""
    return all(
        product.call is not None and product.parameter.startswith(product.module) for product in group
    ) and isinstance(tape.modules[group[0].module], PLAIN)


def _reads_its_argument_alone(tape: Tape, product: Weighted, operators: set[int]) -> bool:
    """Whether the module is called with one tensor, and does nothing with it but multiply it by the weight."""
    call = product.call
    if call is None or len(call.inputs) != 1 or not call.top_level or call.inputs[0] in call.outputs:
        return False
    return _reads_only(tape, call.inputs[0], operators, VIEWS | PADS, call) and _is_made_of(
        tape, product, call.inputs[0]
    )


def _is_made_of(tape: Tape, product: Weighted, argument: int) -> bool:
    value = product.source
    while value != argument:
        op = tape.producer(value)
        if op is None or op.name not in VIEWS | PADS:
            return False
        value = op.inputs[0]
    return True


def _reads_only(tape: Tape, value: int, operators: set[int], through: frozenset[str], call: Call | None = None) -> bool:
    """Whether all that reads a value, in one call or anywhere, are some operators, behind views."""
    waiting = [value]
    while waiting:
        for reader in tape.consumers.get(waiting.pop(), []):
            if reader in operators or (call is not None and not call.first <= reader < call.last):
                continue
            if tape.ops[reader].name not in through:
                return False
            waiting += tape.ops[reader].outputs
    return True


def _home(tape: Tape, group: list[Weighted]) -> str:
    """Path of the innermost module in whose calls all these operators run; the owner of the weight where it is one."""
    paths = []
    for product in group:
        scope = [tape.calls[number].module for number in tape.ops[product.op].scope]
        paths.append(scope[: scope.index(product.module) + 1] if product.call is not None else scope)
    common = ""
    for steps in zip(*paths, strict=False):
        if len(set(steps)) > 1:
            break
        common = steps[0]
    return common


def _new_site(tape: Tape, product: Weighted) -> Site:
    op = tape.ops[product.op]
    shape = tape.values[product.weight].shape
    if op.name in CONVOLUTIONS:
        return _conv_site(op, shape, product, samples_of(tape, op) if product.is_dynamic else 1)
    into, out = shape[-1], shape[-1 if product.side == 1 else -2] if len(shape) > 1 else 1
    if product.side == 1 and len(shape) > 1:
        into = shape[-2]
    if op.name == "linear":
        into, out = shape[-1], shape[0] if len(shape) > 1 else 1
    return Site(product.module, product.attribute, "Linear", (), (), 1, into, out, False, product.parameter, 0)


def _conv_site(op: Op, shape: tuple[int, ...], product: Weighted, samples: int) -> Site:
    stride, transposed, groups = tuple(op.args[3]), bool(op.args[6]), int(op.args[8]) // samples
    dimensions = len(shape) - 2
    shape = (shape[0] // samples, *shape[1:])
    into, out = (shape[0], shape[1] * groups) if transposed else (shape[1] * groups, shape[0])
    stride = stride * dimensions if len(stride) == 1 else stride
    kind = f"Conv{'Transpose' if transposed else ''}{dimensions}d"
    module, attribute = product.module, product.attribute
    return Site(module, attribute, kind, shape[2:], stride, groups, into, out, False, product.parameter, 0)


def _site_call(tape: Tape, flow: Flow, site: Site, product: Weighted) -> SiteCall:
    op = tape.ops[product.op]
    output = op.outputs[0]
    elements = prod(tape.values[output].shape)
    if site.conv_type.startswith("ConvTranspose"):
        elements_in = prod(tape.values[product.source].shape)
        macs = elements_in * site.out_channels // site.groups * prod(site.kernel_size)
    else:
        macs = elements * site.in_channels // site.groups * prod(site.kernel_size)
    written = output if product.call is None else _with_bias(tape, flow, output, product.call)
    norm, activation, end, direct = _what_follows(flow, written)
    return SiteCall(
        op=product.op,
        source=product.source,
        written=written,
        end=end,
        macs=macs,
        elements=elements,
        norm=norm.name if norm else None,
        norm_module=norm.module if norm and direct else None,
        activation=activation.name if activation else None,
        activation_module=activation.module if activation else None,
        folds=norm is None or _counts_channels(tape, site, written, norm.output),
    )


def _counts_channels(tape: Tape, site: Site, written: int, normalized: int) -> bool:
    """Whether a norm's second axis, which a batch norm counts by, is the axis of the channels that a layer writes."""
    op = tape.producer(normalized)
    if op is None or op.name not in FUSED_NORMS:
        return True
    linear = site.conv_type == "Linear"
    value, axis = op.inputs[0], 1
    while value != written:
        origin = tape.producer(value)
        if origin is None or not origin.inputs:
            return False
        earlier = axis_before(tape, origin, value, axis)
        if earlier is None:
            return False
        value, axis = origin.inputs[0], earlier
    return axis == (len(tape.values[written].shape) - 1 if linear else 1)


def _with_bias(tape: Tape, flow: Flow, value: int, call: Call) -> int:
    """The value behind a bias that the module adds in an operator of its own."""
    ahead = flow.behind_views(value)
    reader = flow.sole_reader(ahead)
    if reader is not None and call.first <= reader < call.last:
        op = tape.ops[reader]
        if op.name == "add" and flow.is_affine(op):
            return op.outputs[0]
    return value


def _what_follows(flow: Flow, value: int) -> tuple[Follower | None, Follower | None, int, bool]:
    """The norm, the activation, the value behind both, and whether the norm comes first."""
    norm: Follower | None = None
    activation: Follower | None = None
    end, direct = value, False
    while True:
        follower = flow.norm_after(end) if norm is None else None
        if follower is not None:
            norm, direct = follower, activation is None
            activation = follower if follower.has_nonlinearity and activation is None else activation
        else:
            follower = flow.activation_after(end) if activation is None else None
            if follower is None:
                return norm, activation, end, direct
            activation = follower
        end = follower.output
