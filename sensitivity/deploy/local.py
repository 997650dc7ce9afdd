"""One layer by itself: from the codes that the simulation has at its input, what codes does the engine compute?

End to end, codes cannot be compared: a handful flip at the first layer (float rounding in the last bit), and each flip
moves others behind it. From the same input codes a layer has only its own flips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sensitivity.deploy.nodes import MULTIPLIERS, consumers, node_name, sweep_up
from sensitivity.deploy.plan import Plan
from sensitivity.deploy.qdq import QdqGraph
from sensitivity.perturb.hooks import hooked
from sensitivity.quantize.fake import dequantize, quantize
from sensitivity.quantize.scales import QuantParams, params_from_range
from sensitivity.records import Layer, QuantSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_ACTIVATIONS = {
    "Relu",
    "LeakyRelu",
    "PRelu",
    "Elu",
    "Selu",
    "Celu",
    "Clip",
    "HardSwish",
    "HardSigmoid",
    "Sigmoid",
    "Tanh",
}
_ARITHMETIC = {
    "Erf",
    "Gelu",
    "Softplus",
    "Mish",
    "Mul",
    "Add",
    "Sub",
    "Div",
    "Pow",
    "Sqrt",
    "Exp",
    "Abs",
    "Neg",
    "Min",
    "Max",
}
_MOVES = {"Identity", "Cast", "MaxPool", "Pad", "Reshape", "Transpose", "Flatten"}
PASSED_THROUGH = frozenset(_ACTIVATIONS | _ARITHMETIC | _MOVES)
"""What may stand between a layer and the quantizer behind it for the two to be tried together."""


Counts = tuple[int, int, int]
"""Codes compared, codes that differ, and the largest difference in steps."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One call of a layer, cut out.

    Attributes:
        layer: The layer.
        call: Which call.
        graph: Takes the layer's input in float and returns codes.
        inputs: Values of the simulation's input codes.
        codes: Output codes of the simulation.
    """

    layer: Layer
    call: int
    graph: ModelProto
    inputs: Tensor
    codes: Tensor


@dataclass
class Seen:
    """What the simulation had at one call of a layer: codes of its input, and its output."""

    codes: Tensor
    output: Tensor


def simulate_and_record(
    plan: Plan, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Seen]:
    """Run the simulation once and keep what every quantized layer reads and writes.

    Args:
        plan: What is quantized.
        module: Submodule of the plan's model that is run.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Returns:
        By node name.
    """
    seen: dict[str, Seen] = {}
    before, after = [], []
    for layer in plan.quantized:
        if plan.recipes[layer.name].activations is None:
            continue
        watched = _Watch(plan, layer, seen)
        target = plan.model.get_submodule(layer.module)
        before.append((target, watched.before))
        after.append((target, watched.after))
    with hooked(before=before, after=after), plan.simulated():  # first here: sees inputs before they are quantized
        module(*args, **kwargs)
    return seen


class _Watch:
    """Keeps input codes and output of one layer, call by call."""

    def __init__(self, plan: Plan, layer: Layer, seen: dict[str, Seen]) -> None:
        self._layer, self._seen, self._call = layer, seen, -1
        self._params = [plan.input_params(layer, call) for call in range(layer.calls)]

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._call += 1
        params = self._params[self._call % self._layer.calls]
        values = args[0] if args else next(iter(kwargs.values()))
        assert params is not None
        codes = quantize(values.detach(), params, rounding="onnx")
        self._seen[node_name(self._layer, self._call % self._layer.calls)] = Seen(codes, codes)

    def after(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        self._seen[node_name(self._layer, self._call % self._layer.calls)].output = output.detach().clone()


def trials(plan: Plan, qdq: QdqGraph, seen: Mapping[str, Seen]) -> list[Trial]:
    """Every quantized call of a graph cut out, with the activation and the quantizer behind it.

    Where something else stands between (an add, a pooling, the output), the layer's own output is quantized by its
    largest absolute value.

    Args:
        plan: What is quantized.
        qdq: The graph.
        seen: What the simulation had there.
    """
    finder = Finder(qdq)
    made = []
    for layer in plan.quantized:
        for call in range(layer.calls if layer.name in qdq.nodes else 0):
            name = node_name(layer, call)
            params = plan.input_params(layer, call)
            if name not in seen or params is None or plan.weight_codes(layer) is None:
                continue
            inputs = dequantize(seen[name].codes, params)
            behind = finder.quantizer_behind(name)
            if behind is not None and behind[1] in seen:
                graph = finder.cut(name, behind[0], tuple(inputs.shape))
                made.append(Trial(layer, call, graph, inputs, seen[behind[1]].codes))
            else:
                made.append(_with_own_quantizer(finder, layer, call, seen[name].output, inputs))
    return made


def _with_own_quantizer(finder: Finder, layer: Layer, call: int, output: Tensor, inputs: Tensor) -> Trial:
    name = node_name(layer, call)
    end, value = finder.end_of(name, output)
    largest = value.abs().max().double()
    params = params_from_range(-largest, largest, QuantSpec("int8"))
    graph = finder.cut(name, end, tuple(inputs.shape), params)
    return Trial(layer, call, graph, inputs, quantize(value, params, rounding="onnx"))


class Finder:
    """Looks for what stands behind a layer in a graph."""

    def __init__(self, qdq: QdqGraph) -> None:
        self._graph = qdq.graph
        self._quantizers = qdq.quantizers
        self._nodes = {node.name: node for node in qdq.graph.graph.node}
        self._makers = {name: node for node in qdq.graph.graph.node for name in node.output}
        self._constants = {one.name for one in qdq.graph.graph.initializer}
        self._readers = consumers(qdq.graph)

    def quantizer_behind(self, name: str) -> tuple[str, str] | None:
        """Codes that depend on this layer's input codes alone, and the node that reads them; None if there are none."""
        source = self._quantizers[name]
        waiting, visited = [self._nodes[name].output[0]], set()
        while waiting:
            tensor = waiting.pop(0)
            for node in self._readers.get(tensor, []):
                if node.op_type == "QuantizeLinear" and self._depends_only_on(tensor, source):
                    reader = next(key for key, codes in self._quantizers.items() if codes == node.output[0])
                    return node.output[0], reader
                if node.op_type in PASSED_THROUGH and node.output[0] not in visited:
                    visited.add(node.output[0])
                    waiting.append(node.output[0])
        return None

    def end_of(self, name: str, output: Tensor) -> tuple[str, Tensor]:
        """The tensor that holds a layer's own output, bias included: where a MatMul is, the Add behind it."""
        tensor = self._nodes[name].output[0]
        readers = self._readers.get(tensor, [])
        if self._nodes[name].op_type == "MatMul" and len(readers) == 1 and readers[0].op_type == "Add":
            bias = [one for one in readers[0].input if one != tensor]
            if len(bias) == 1 and bias[0] in self._constants:
                tensor = readers[0].output[0]
        return tensor, output

    def cut(self, name: str, end: str, shape: tuple[int, ...], params: QuantParams | None = None) -> ModelProto:
        """The graph from a layer's input to some codes, or to a tensor that is quantized with these parameters."""
        import onnx

        graph = onnx.ModelProto()
        graph.CopyFrom(self._graph)
        kinds = onnx.TensorProto
        signed = True
        if params is not None:
            end = _append_quantizer(graph, end, params)
        else:
            zero = next(one for one in graph.graph.initializer if one.name == self._makers[end].input[2])
            signed = zero.data_type == kinds.INT8
        del graph.graph.input[:]
        del graph.graph.output[:]
        graph.graph.input.append(onnx.helper.make_tensor_value_info("values", kinds.FLOAT, list(shape)))
        for node in graph.graph.node:
            if node.output[0] == self._quantizers[name]:
                node.input[0] = "values"
        graph.graph.output.append(onnx.helper.make_tensor_value_info(end, kinds.INT8 if signed else kinds.UINT8, None))
        del graph.graph.value_info[:]
        sweep_up(graph)
        return graph

    def _depends_only_on(self, tensor: str, codes: str) -> bool:
        """Whether a tensor is made of these codes and constants, by one layer and nothing that reduces."""
        waiting, visited, layers = [tensor], set(self._constants) | {codes, ""}, 0
        while waiting:
            name = waiting.pop()
            if name in visited:
                continue
            visited.add(name)
            node = self._makers.get(name)
            if node is None or not _is_plain(node):
                return False
            layers += node.op_type in MULTIPLIERS
            waiting += node.input
        return layers == 1


def _is_plain(node: NodeProto) -> bool:
    return node.op_type in PASSED_THROUGH | MULTIPLIERS | {"DequantizeLinear", "Constant"}


def _append_quantizer(graph: ModelProto, tensor: str, params: QuantParams) -> str:
    import numpy as np
    import onnx

    for name, values in (("own.scale", params.scale.numpy()), ("own.zero_point", np.zeros((), np.int8))):
        graph.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    inputs = [tensor, "own.scale", "own.zero_point"]
    graph.graph.node.append(onnx.helper.make_node("QuantizeLinear", inputs, ["own.codes"], name="own.codes"))
    return "own.codes"


def merged(found: Sequence[Counts]) -> Counts:
    """Codes compared, codes that differ and the largest difference over several comparisons."""
    return sum(one[0] for one in found), sum(one[1] for one in found), max((one[2] for one in found), default=0)


def compare(engine_codes: Any, codes: Tensor) -> Counts:
    """Codes compared, codes that differ, and the largest difference in steps."""
    given = torch.as_tensor(engine_codes).reshape(codes.shape)
    difference = (given.to(torch.int64) - codes.to(torch.int64)).abs()
    return difference.numel(), int((difference > 0).sum()), int(difference.max()) if difference.numel() else 0
