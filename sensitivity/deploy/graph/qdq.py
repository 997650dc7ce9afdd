"""Q/DQ written into an fp32 graph as a plan says: what TensorRT and OpenVINO read as int8.

Each quantized layer gets QuantizeLinear and DequantizeLinear on its input and an int8 weight behind a DequantizeLinear
with a scale for each output channel (axis 0; 1 for a transposed convolution and for the (in, out) weight of a MatMul).
Weights use [-127, 127], activations [-128, 127], rounding is half to even. Biases stay in float, corrected where a
recipe says so: an int32 bias is refused by TensorRT. No Clip stands between Q and DQ: it would break the patterns that
engines look for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from sensitivity.deploy.graph.copies import swept
from sensitivity.deploy.graph.nodes import CALL_MARK, LayerNode, absorb_zero_padding, bias_place, find_nodes
from sensitivity.deploy.graph.right_operand import turn_to_the_right
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.errors import ExportError
from sensitivity.quantize.scales import QuantParams

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True, eq=False)
class QdqGraph:
    """A graph with Q/DQ in it.

    Attributes:
        graph: The graph, checked.
        nodes: Names of the nodes of each layer found in it, quantized or not, one for each call.
        quantizers: Name of the tensor of codes that each quantized input has, by node name.
        missing: Layers of the plan that are in this graph but could not be quantized, with the reason.
        sides: For each node of a layer, whether its weight is its first (0) or second (1) input.
    """

    graph: ModelProto
    nodes: dict[str, tuple[str, ...]]
    quantizers: dict[str, str]
    missing: dict[str, str]
    sides: dict[str, int] = field(default_factory=dict)


def insert_qdq(fp32: ModelProto, plan: Plan) -> QdqGraph:
    """A copy of a graph with Q/DQ on the layers that a plan quantizes.

    Args:
        fp32: The exported graph; not changed.
        plan: Which layers are quantized, and with which scales.

    Raises:
        ExportError: If the result is no valid ONNX.
    """
    import onnx

    graph = onnx.ModelProto()
    graph.CopyFrom(fp32)
    turn_to_the_right(graph)
    layer_nodes, missing = find_nodes(graph, plan)
    for node in layer_nodes:
        if _pads_with_zeros(plan.model.get_submodule(node.layer.module)):
            absorb_zero_padding(graph, node.node)
    writer = _Writer(graph)
    for layer_node in layer_nodes:
        if layer_node.layer.name in plan.recipes:
            writer.quantize(layer_node, plan)
    writer.finish()
    graph = swept(graph)
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the graph with Q/DQ is not valid ONNX: {error}. Q/DQ is written around float32: if the model casts to "
            "another type inside (autocast), turn that off, or protect those layers."
        ) from error
    names: dict[str, list[str]] = {}
    for layer_node in layer_nodes:
        names.setdefault(layer_node.layer.name, []).append(layer_node.node.name)
    wrong = {name: reason for name, reason in missing.items() if name in plan.recipes}
    sides = {layer_node.node.name: layer_node.side for layer_node in layer_nodes}
    return QdqGraph(graph, {name: tuple(calls) for name, calls in names.items()}, writer.quantizers, wrong, sides)


def _pads_with_zeros(module: nn.Module) -> bool:
    """Whether a convolution is exported with a node in front that pads with zeros: "same" with sides that differ."""
    if not isinstance(module, _ConvNd) or module.padding != "same" or module.padding_mode != "zeros":
        return False
    return any(step * (side - 1) % 2 for step, side in zip(module.dilation, module.kernel_size, strict=True))


def _call_of(layer_node: LayerNode) -> str:
    """``#1`` and so on, where a layer has several calls."""
    return "" if layer_node.layer.calls == 1 else f"{CALL_MARK}{layer_node.call}"


@dataclass
class _Writer:
    """Collects new nodes, each placed before the node that reads it.

    Attributes:
        graph: Changed in place by ``finish``.
        quantizers: See ``QdqGraph``.
    """

    graph: ModelProto
    quantizers: dict[str, str] = field(default_factory=dict)
    _before: dict[str, list[NodeProto]] = field(default_factory=dict)
    _behind: dict[str, list[NodeProto]] = field(default_factory=dict)
    _inputs: dict[tuple[Any, ...], tuple[str, str]] = field(default_factory=dict)
    _weights: dict[str, bytes] = field(default_factory=dict)
    _written: set[str] = field(default_factory=set)

    def quantize(self, layer_node: LayerNode, plan: Plan) -> None:
        """Quantize input and weight of one call of a layer."""
        params = plan.input_params(layer_node.layer, layer_node.call)
        if params is not None:
            module = plan.model.get_submodule(layer_node.layer.module)
            pads = layer_node.layer.runs_in is None and getattr(module, "padding_mode", "zeros") != "zeros"
            self._quantize_input(layer_node, params, self._own_pad(layer_node) if pads else None)
        self._replace_weight(layer_node, plan)
        if plan.recipes[layer_node.layer.name].bias_correction:
            self._replace_bias(layer_node, plan)

    def finish(self) -> None:
        """Write the new nodes into the graph."""
        nodes = []
        for node in self.graph.graph.node:
            nodes += [*self._before.get(node.name, []), node, *self._behind.get(node.name, [])]
        del self.graph.graph.node[:]
        self.graph.graph.node.extend(nodes)

    def _own_pad(self, layer_node: LayerNode) -> NodeProto | None:
        """The node that pads a layer's input (reflected, replicated) as part of the layer; None if there is none.

        A layer that is met at its operator, as one with circular padding is, reads what was padded before.
        """
        maker = next((node for node in self.graph.graph.node if layer_node.node.input[0] in node.output), None)
        return maker if maker is not None and maker.op_type == "Pad" else None

    def _quantize_input(self, layer_node: LayerNode, params: QuantParams, pad: NodeProto | None = None) -> None:
        """Q and DQ in front of a node; layers that read one tensor with one scale share them.

        A layer that pads by itself has them in front of its padding: its input is what the padding reads.
        """
        position = 1 - layer_node.side
        source = layer_node.node.input[position] if pad is None else pad.input[0]
        stem = f"{layer_node.node.name}.input"
        scale, zero = params.scale.numpy(), params.zero_point.numpy()
        key = source, scale.tobytes(), zero.tobytes(), params.format.name
        if key not in self._inputs:
            dtype = np.int8 if params.format.is_signed else np.uint8
            scales = self._constants(stem, scale.astype(np.float32), zero.astype(dtype))
            self._inputs[key] = (f"{stem}.codes", f"{stem}.quantized")
            axis = {} if params.axis is None else {"axis": params.axis}
            self._add(layer_node.node, "QuantizeLinear", [source, *scales], f"{stem}.codes", **axis)
            self._add(layer_node.node, "DequantizeLinear", [f"{stem}.codes", *scales], f"{stem}.quantized", **axis)
        self.quantizers[layer_node.node.name], layer_node.node.input[position] = self._inputs[key]
        if pad is not None:
            self._repeat(pad, layer_node, f"{stem}.padded")

    def _repeat(self, pad: NodeProto, layer_node: LayerNode, output: str) -> None:
        """The padding once more, of the quantized input; nothing reads the old one."""
        import onnx

        again = onnx.NodeProto()
        again.CopyFrom(pad)
        again.name, again.input[0], again.output[0] = output, layer_node.node.input[0], output
        self._before.setdefault(layer_node.node.name, []).append(again)
        layer_node.node.input[0] = output

    def _replace_weight(self, layer_node: LayerNode, plan: Plan) -> None:
        codes = plan.multiplied_codes(layer_node.layer, layer_node.call)
        if codes is None:
            self._prune(layer_node, plan)
            return
        values = layer_node.arranged(codes.codes.cpu().numpy().astype(np.int8))
        axis = layer_node.axis_of(codes.params.axis)
        scale, zero = codes.params.scale.cpu().numpy(), codes.params.zero_point.numpy().astype(np.int8)
        name, is_new = self._weight_name(layer_node, values, ".T" if layer_node.is_transposed else "")
        if is_new:
            self._constant(f"{name}.codes", values)
            self._constants(name, scale, zero)
        stem = name + _call_of(layer_node)  # a shared head has a DQ for each call
        inputs = [f"{name}.codes", f"{name}.scale", f"{name}.zero_point"]
        self._add(
            layer_node.node, "DequantizeLinear", inputs, f"{stem}.quantized", **({} if axis is None else {"axis": axis})
        )
        layer_node.node.input[layer_node.side] = f"{stem}.quantized"

    def _replace_bias(self, layer_node: LayerNode, plan: Plan) -> None:
        """The corrected bias in the place of the old one, which stands at the node or is added behind it."""
        own = plan.model.get_submodule(layer_node.layer.module)._parameters.get("bias")
        bias = plan.bias(layer_node.layer)
        if bias is None or (own is not None and torch.equal(own, bias)):
            return
        place = bias_place(self.graph, layer_node.node, None if own is None else own.detach().cpu().numpy())
        if place is None and own is not None:
            raise ExportError(f"the bias of {layer_node.node.name} is nowhere in the graph: it cannot be corrected.")
        name = f"{layer_node.layer.module}.bias.corrected"
        if name not in self._written:
            self._written.add(name)
            self._constant(name, bias.cpu().numpy())
        if place is not None:
            reader, position = place
            reader.input[position] = name
        elif layer_node.node.op_type == "MatMul":
            self._add_behind(layer_node.node, name)
        else:
            layer_node.node.input.append(name)

    def _add_behind(self, node: NodeProto, addend: str) -> None:
        """Something added to what a node writes; all that read it read the sum."""
        import onnx.helper

        written = node.output[0]
        node.output[0] = f"{written}.before_bias"
        added = onnx.helper.make_node("Add", [node.output[0], addend], [written], name=f"{node.name}.bias")
        self._behind.setdefault(node.name, []).append(added)

    def _prune(self, layer_node: LayerNode, plan: Plan) -> None:
        """A pruned weight that stays in float takes the place of the old one."""
        if plan.recipes[layer_node.layer.name].pruning is None:
            return
        values = layer_node.arranged(plan.multiplied_weight(layer_node.layer, layer_node.call).cpu().numpy())
        name, is_new = self._weight_name(layer_node, values, ".pruned.T" if layer_node.is_transposed else ".pruned")
        if is_new:
            self._constant(name, values)
        layer_node.node.input[layer_node.side] = name

    def _weight_name(self, layer_node: LayerNode, values: npt.NDArray[Any], ending: str) -> tuple[str, bool]:
        """A name for a weight, and whether it has yet to be written; calls that multiply by the same share it."""
        name = f"{layer_node.layer.module}.{layer_node.layer.weight}".strip(".") + ending
        content = values.tobytes()
        if self._weights.setdefault(name, content) != content:
            name += _call_of(layer_node)
        is_new = name not in self._written
        self._written.add(name)
        self._weights[name] = content
        return name, is_new

    def _constants(self, stem: str, scale: npt.NDArray[Any], zero: npt.NDArray[Any]) -> list[str]:
        return [self._constant(f"{stem}.scale", scale), self._constant(f"{stem}.zero_point", zero)]

    def _constant(self, name: str, values: npt.NDArray[Any]) -> str:
        import onnx.numpy_helper

        self.graph.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        return name

    def _add(self, reader: NodeProto, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        import onnx.helper

        node = onnx.helper.make_node(kind, list(inputs), [output], name=output, **attributes)
        self._before.setdefault(reader.name, []).append(node)


def expose(graph: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """A copy of a graph that also returns these tensors, after its own outputs and in this order.

    Engines may choose other kernels for such a graph: it is for looking, not for speed.
    """
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    inferred = onnx.shape_inference.infer_shapes(copied)
    infos = {info.name: info for info in inferred.graph.value_info}
    for name in tensors:
        copied.graph.output.append(infos.get(name) or onnx.ValueInfoProto(name=name))
    return copied
