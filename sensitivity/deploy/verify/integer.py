"""The simulation in integers: what an int8 engine computes, to the last bit.

Codes are multiplied and added as integers (in a float type that holds every sum exactly), the sum is scaled once by
``input scale x weight scale`` in float32, and the float32 bias is added. OpenVINO computes the same in the verify build
(``verify_graph``), where every tensor of codes is an output and nothing is fused across it. The fast build may round
differently in the last bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sensitivity.deploy.graph.nodes import node_name
from sensitivity.deploy.graph.qdq import QdqGraph, expose
from sensitivity.deploy.prepare.plan import Codes, Plan
from sensitivity.errors import CalibrationError, ExportError
from sensitivity.perturb.activations import Change, Hooks, activation_hooks
from sensitivity.perturb.hooks import After, hooked
from sensitivity.perturb.weights import exchanged
from sensitivity.quantize.fake import quantize
from sensitivity.quantize.scales import QuantParams
from sensitivity.records import Layer

if TYPE_CHECKING:
    from onnx import ModelProto

_EXACT_FLOAT32 = 2**24
"""Every integer up to this size is a float32 number, and so is every sum on the way to it."""


@contextlib.contextmanager
def integer_exact(plan: Plan, seen: dict[str, Tensor] | None = None) -> Iterator[nn.Module]:
    """The folded copy with its int8 layers computed in integers.

    Layers that are quantized only in part are simulated as in ``Plan.simulated``.

    Args:
        plan: What is quantized.
        seen: Filled with the input codes of every such layer by node name, if given.

    Yields:
        The plan's model, which computes so inside the ``with`` block.

    Raises:
        ExportError: If the plan's rest is in half precision: no engine says where it rounds there, to the last bit.
    """
    if plan.scheme.rest != "fp32":
        raise ExportError(
            f"the simulation in integers is exact to the last bit, and with rest={plan.scheme.rest!r} nothing is: give "
            "plan.in_fp32(), or use plan.simulated()."
        )
    int8 = [layer for layer in plan.quantized if plan.expected_precision(layer) == "int8"]
    names = {layer.name for layer in int8}
    others_plan = plan.only([layer.name for layer in plan.quantized if layer.name not in names])
    runners = [
        _IntegerLayer(plan, layer, seen) if layer.runs_in is None else _IntegerProducts(plan, layer, seen)
        for layer in int8
    ]
    with torch.no_grad(), contextlib.ExitStack() as stack:
        stack.enter_context(others_plan.simulated())
        before = [hook for runner in runners for hook in runner.before]
        after = [hook for runner in runners for hook in runner.after]
        for runner in runners:
            stack.enter_context(runner.in_place())
        stack.enter_context(hooked(before=before, after=after))
        yield plan.model


def verify_graph(qdq: QdqGraph, *, values: bool = False) -> tuple[ModelProto, tuple[str, ...]]:
    """A graph that also returns every tensor of codes, and the node that reads each, in that order.

    Args:
        qdq: The graph that is deployed; not changed.
        values: Whether it returns the numbers that the codes stand for instead of the codes: ``codes_of`` turns them
            into codes. That leaves the layers' kernels as they are deployed on a CPU without VNNI, where OpenVINO
            multiplies codes that are an output by halved weights.
    """
    readers: dict[str, str] = {}
    for node, codes in qdq.quantizers.items():
        readers.setdefault(codes, node)
    dequantized = {node.input[0]: node.output[0] for node in qdq.graph.graph.node if node.op_type == "DequantizeLinear"}
    tensors = [dequantized[codes] for codes in readers] if values else list(readers)
    return expose(qdq.graph, tensors), tuple(readers.values())


def codes_of(qdq: QdqGraph, reader: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The codes that stand for the numbers which a node reads.

    Args:
        qdq: The graph.
        reader: Node that reads them.
        values: What ``verify_graph(qdq, values=True)`` returned for it, of any shape.
    """
    import onnx.numpy_helper

    codes = qdq.quantizers[reader]
    quantizer = next(node for node in qdq.graph.graph.node if codes in node.output)
    constants = {tensor.name: tensor for tensor in qdq.graph.graph.initializer}
    scale, zero = (onnx.numpy_helper.to_array(constants[name]) for name in quantizer.input[1:3])
    numbers = np.asarray(values)
    if scale.ndim:  # one for each channel, along axis 1
        scale, zero = (constant.reshape(1, -1, *[1] * (numbers.ndim - 2)) for constant in (scale, zero))
    steps: npt.NDArray[np.int64] = np.rint(numbers / scale).astype(np.int64)
    return steps + zero.astype(np.int64)


class _IntegerLayer:
    """One layer: codes in, integer sum, float out."""

    def __init__(self, plan: Plan, layer: Layer, seen: dict[str, Tensor] | None) -> None:
        self.module = plan.model.get_submodule(layer.module)
        self._layer = layer
        codes = plan.weight_codes(layer)
        assert codes is not None
        self._codes = codes
        self._plan = plan
        self._params = [self._input_params(plan, call) for call in range(layer.calls)]
        self._dtype = _exact_type(codes, self._params)
        self._call = 0
        self._seen = seen
        self._bias: Tensor | None = None
        self.after: list[tuple[nn.Module, After]] = []
        self._prepare()

    def _prepare(self) -> None:
        bias = self._plan.bias(self._layer)
        self._bias = None if bias is None else bias.float()
        self.before = self._hooks(self._to_codes).before
        self.after = [(self.module, self.rescale)]

    def _hooks(self, change: Change, **settings: Any) -> Hooks:
        plan, layer = self._plan, self._layer
        return activation_hooks(plan.model, layer, plan.recipes[layer.name], change, **settings)

    def _input_params(self, plan: Plan, call: int) -> QuantParams:
        params = plan.input_params(self._layer, call)
        assert params is not None
        return params

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Codes in the place of the weight, nothing in the place of the bias, for the time of a ``with`` block."""
        with contextlib.ExitStack() as stack:
            codes = self._codes.codes.to(self._dtype)
            stack.enter_context(exchanged(self.module, self._layer.weight, codes))
            own = self.module._parameters.get("bias")
            if own is not None:
                stack.enter_context(exchanged(self.module, "bias", torch.zeros_like(own, dtype=self._dtype)))
            yield

    def _to_codes(self, place: str, call: int, values: Tensor) -> Tensor | None:
        if place != "input":
            return None
        if call >= len(self._params):
            raise CalibrationError(
                f"call #{call} of {self._layer.name} in one pass: the plan knows {len(self._params)}. Plan with an "
                "example that makes it run as often."
            )
        self._call = call
        params = self._params[call]
        codes = quantize(values, params, rounding="onnx")
        if self._seen is not None:
            self._seen[node_name(self._layer, call)] = codes
        return codes.to(self._dtype) - params.spread(params.zero_point, codes.shape).to(self._dtype)

    def rescale(self, _: nn.Module, __: tuple[Any, ...], total: Tensor) -> Tensor:
        """The integer sum as the float that it stands for, bias added."""
        scale = self._params[self._call].scale * self._codes.params.scale
        sizes = len(self._layer.kernel_size)
        if self._layer.conv_type.startswith("ConvTranspose") and scale.dim():
            scale = scale.repeat(self._layer.groups)  # groups share the scales of their channels
        scaled = total.float() * _along_channels(scale, sizes)
        return scaled if self._bias is None else scaled + _along_channels(self._bias, sizes)


class _IntegerProducts(_IntegerLayer):
    """The same for a layer that is met at its operator: what each product of it reads and writes."""

    def _prepare(self) -> None:
        hooks = self._hooks(self._at_product, change_weight=self._weight, outputs=True, adds_later=True)
        self.before = hooks.before

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Nothing: the weight is exchanged where it is multiplied."""
        yield

    def _weight(self, tensor: Tensor, _: int) -> Tensor:
        return self._own_codes().codes.to(self._dtype).expand_as(tensor)

    def _own_codes(self) -> Codes:
        codes = self._plan.multiplied_codes(self._layer, self._call)
        assert codes is not None
        return codes

    def _at_product(self, place: str, call: int, values: Tensor) -> Tensor | None:
        if place == "input":
            return self._to_codes(place, call, values)
        scale = self._params[self._call].scale * self._own_codes().params.scale
        if self._layer.conv_type != "Linear":
            scale = _along_channels(scale, len(self._layer.kernel_size))
        elif scale.dim() and values.dim() > 1 and not self._plan.basis.multiplied[self._layer.name][self._call].axis:
            scale = scale[:, None]
        return values.float() * scale


def _along_channels(values: Tensor, spatial: int) -> Tensor:
    return values.reshape(-1, *[1] * spatial) if values.dim() else values


def _exact_type(codes: Codes, params: list[QuantParams]) -> torch.dtype:
    """float32 where no sum of products can leave its integers, else float64, whose integers no layer leaves."""
    largest = max(max(-each.qmin, each.qmax) + int(each.zero_point.abs().max()) for each in params)
    weight = codes.codes.abs().to(torch.int64)
    worst = int(weight.flatten(1).sum(1).max()) if weight.dim() > 1 else int(weight.sum())
    along_input = int(weight.transpose(0, 1).flatten(1).sum(1).max()) if weight.dim() > 1 else worst
    return torch.float32 if max(worst, along_input) * largest < _EXACT_FLOAT32 else torch.float64
