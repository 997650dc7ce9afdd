"""Which nodes of a graph are which layers: found by the weight they multiply with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sensitivity.deploy.prepare.plan import Plan
from sensitivity.errors import ExportError
from sensitivity.records import Layer

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MULTIPLIERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_PASSES_ON = frozenset({"Transpose", "Identity"})  # between an initializer and its node
CALL_MARK = "#"
_LEADING_AXES = 2  # samples and channels, which no convolution slides along
_BIAS = 2  # position of the bias among the inputs of a node that multiplies
_PAD_AXES = 3  # position of the input of Pad that chooses axes


@dataclass(frozen=True, eq=False)
class LayerNode:
    """One call of a layer in a graph.

    Attributes:
        layer: The layer.
        call: Which call, from zero.
        node: Its node; named by the module path of the layer.
        transposed: Whether the graph holds the weight as (in, out), as a MatMul does.
    """

    layer: Layer
    call: int
    node: NodeProto
    transposed: bool


def node_name(layer: Layer, call: int) -> str:
    """Name of the node of one call: the module path, and ``#1`` and so on where there are several calls."""
    return layer.module if layer.calls == 1 else f"{layer.module}{CALL_MARK}{call}"


def find_nodes(graph: ModelProto, plan: Plan) -> tuple[list[LayerNode], dict[str, str]]:
    """Find the nodes of all layers of a graph, and name them by module path.

    A node belongs to a layer when its weight bears the layer's path and holds its content, or, where an exporter
    renamed it, when its content is that of this layer's weight alone. Calls are counted in the order of the graph.

    Args:
        graph: An fp32 graph; the nodes found get their new names.
        plan: Holds the folded copy.

    Returns:
        The nodes in the order of the graph, and the layers that have nodes but not one for each call, with the reason.
    """
    values = _Weights(graph)
    known = _Known(plan)
    found: dict[str, list[tuple[NodeProto, bool]]] = {}
    for node in graph.graph.node:
        if node.op_type not in MULTIPLIERS or len(node.input) < 2:
            continue
        match = known.layer_of(*values.behind(node.input[1]))
        if match is not None:
            found.setdefault(match[0], []).append((node, match[1]))
    nodes, wrong = [], {}
    for layer in plan.layers:
        calls = found.get(layer.name, [])
        if len(calls) not in (0, layer.calls):
            wrong[layer.name] = f"the graph runs it {len(calls)} times, the model {layer.calls} times"
            continue
        for call, (node, transposed) in enumerate(calls):
            node.name = node_name(layer, call)
            nodes.append(LayerNode(layer, call, node, transposed))
    return nodes, wrong


class _Weights:
    """The initializers of a graph, as seen through transpositions."""

    def __init__(self, graph: ModelProto) -> None:
        self._initializers = {one.name: one for one in graph.graph.initializer}
        self._makers = {name: node for node in graph.graph.node for name in node.output}

    def behind(self, name: str) -> tuple[str, npt.NDArray[Any] | None]:
        """Name and content of the initializer that a value is made of, None where it is made of anything else."""
        import onnx.numpy_helper

        permutation: list[tuple[int, ...] | None] = []
        while name not in self._initializers:
            node = self._makers.get(name)
            if node is None or node.op_type not in _PASSES_ON:
                return name, None
            if node.op_type == "Transpose":
                given = [tuple(a.ints) for a in node.attribute if a.name == "perm"]
                permutation.append(given[0] if given else None)
            name = node.input[0]
        content = onnx.numpy_helper.to_array(self._initializers[name])
        for axes in reversed(permutation):
            content = content.transpose(axes)
        return name, content


class _Known:
    """The weights of the layers, by path and by content."""

    def __init__(self, plan: Plan) -> None:
        self._weights: dict[str, npt.NDArray[Any]] = {}
        self._paths: dict[str, str] = {}
        hashes: dict[str, list[str]] = {}
        for layer in plan.layers:
            weight = plan.model.get_submodule(layer.module)._parameters.get(layer.weight)
            if weight is None:
                continue
            array = weight.detach().cpu().numpy()
            self._weights[layer.name] = array
            self._paths[f"{layer.module}.{layer.weight}"] = layer.name
            for key in {_hash(array), _hash(array.T)}:
                hashes.setdefault(key, []).append(layer.name)
        self._unique = {key: names[0] for key, names in hashes.items() if len(names) == 1}

    def layer_of(self, name: str, content: npt.NDArray[Any] | None) -> tuple[str, bool] | None:
        """The layer whose weight this is, and whether it is transposed."""
        if content is None:
            return None
        layer = self._paths.get(name) or self._unique.get(_hash(content))
        if layer is None:
            return None
        weight = self._weights[layer]
        if np.array_equal(weight, content):
            return layer, False
        if weight.ndim == 2 and np.array_equal(weight.T, content):
            return layer, True
        return None


def _hash(array: npt.NDArray[Any]) -> str:
    content = np.ascontiguousarray(array)
    return hashlib.sha256(f"{content.shape}".encode() + content.tobytes()).hexdigest()


def bias_place(graph: ModelProto, node: NodeProto, bias: npt.NDArray[Any] | None) -> tuple[NodeProto, int] | None:
    """Where the bias of a layer's node enters: the node that reads it and which of its inputs it is; None if nowhere.

    It is an input of the node itself, or of the Add behind a MatMul, which may add other constants to a layer without.

    Args:
        graph: The graph.
        node: The node that multiplies by the layer's weight.
        bias: The layer's own bias; None where it has none.

    Raises:
        ExportError: If the node adds something else than the layer's bias.
    """
    import onnx.numpy_helper

    constants = {one.name: one for one in graph.graph.initializer}

    def is_bias(name: str) -> bool:
        content = onnx.numpy_helper.to_array(constants[name]) if name in constants else None
        if content is None or bias is None:
            return content is not None and not content.any()  # zeros that an exporter gave to a layer without
        return content.size == bias.size and np.array_equal(content.ravel(), bias.ravel())

    if len(node.input) > _BIAS and node.input[_BIAS]:
        if not is_bias(node.input[_BIAS]):
            raise ExportError(f"the exporter made another bias of that of {node.name}: it cannot be corrected.")
        return node, _BIAS
    readers = consumers(graph).get(node.output[0], [])
    if bias is None or len(readers) != 1 or readers[0].op_type != "Add":
        return None
    places = [place for place, name in enumerate(readers[0].input) if is_bias(name)]
    return (readers[0], places[0]) if places else None


def sweep_up(graph: ModelProto, keep: Iterable[str] = ()) -> None:
    """Remove nodes and initializers that no output depends on.

    Args:
        graph: Changed in place.
        keep: Further tensors that are needed.
    """
    needed = {one.name for one in graph.graph.output} | set(keep)
    for node in reversed(graph.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
    nodes = [node for node in graph.graph.node if needed & set(node.output)]
    weights = [one for one in graph.graph.initializer if one.name in needed]
    del graph.graph.node[:]
    del graph.graph.initializer[:]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend(weights)


def consumers(graph: ModelProto) -> Mapping[str, list[NodeProto]]:
    """Every tensor's readers, in the order of the graph."""
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def absorb_zero_padding(graph: ModelProto, conv: NodeProto) -> None:
    """Let a convolution pad with zeros itself what a node in front of it pads.

    A module that pads its own input is exported as two nodes. Its input is what the first one reads, so a quantizer has
    to stand there; a convolution with pads of its own leaves nothing between the quantizer and the product.

    Args:
        graph: The node that pads stays in it, for ``sweep_up`` to remove where nothing else reads it.
        conv: Changed in place; left alone where no zeros are padded in front of it, or along other axes than it slides.
    """
    import onnx.helper

    pad = next((node for node in graph.graph.node if conv.input[0] in node.output), None)
    if conv.op_type != "Conv" or pad is None or pad.op_type != "Pad":
        return
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in conv.attribute}
    amounts = _zeros_padded(graph, pad)
    if amounts is None or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return
    rank = len(amounts) // 2
    outside = [*amounts[:_LEADING_AXES], *amounts[rank : rank + _LEADING_AXES]]
    spatial = [*amounts[_LEADING_AXES:rank], *amounts[rank + _LEADING_AXES :]]
    if any(outside) or min(spatial) < 0:
        return
    own = attributes.get("pads", [0] * len(spatial))
    others = [attribute for attribute in conv.attribute if attribute.name != "pads"]
    del conv.attribute[:]
    total = [before + added for before, added in zip(own, spatial, strict=True)]
    conv.attribute.extend([*others, onnx.helper.make_attribute("pads", total)])
    conv.input[0] = pad.input[0]


def _zeros_padded(graph: ModelProto, pad: NodeProto) -> list[int] | None:
    """How many zeros a Pad adds, at all starts and then at all ends; None where it pads otherwise, or with others."""
    import onnx.helper
    import onnx.numpy_helper

    modes = [onnx.helper.get_attribute_value(one) for one in pad.attribute if one.name == "mode"]
    has_axes = len(pad.input) > _PAD_AXES and pad.input[_PAD_AXES]
    if modes not in ([], [b"constant"]) or has_axes:
        return None
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    names = [name for name in pad.input[1:_PAD_AXES] if name]
    if any(name not in constants for name in names):
        return None
    amounts, *value = [constants[name] for name in names]
    return None if any(float(number) != 0.0 for number in value) else [int(amount) for amount in amounts]
