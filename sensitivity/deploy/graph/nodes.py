"""Which nodes of a graph are which layers: found by the weight they multiply with."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sensitivity.deploy.graph.constants import Constants
from sensitivity.deploy.graph.multipliers import MULTIPLIERS
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.errors import ExportError
from sensitivity.perturb.parameters import parameter_of
from sensitivity.records import Layer

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

CALL_MARK = "#"
_LEADING_AXES = 2  # samples and channels, which no convolution slides along
_BIAS = 2  # position of the bias among the inputs of a node that multiplies
_MATRIX_AXES = 3  # of a batch of matrices; the axes of a kernel are never exchanged
_ROUNDING = 1e-5  # of a weight that is computed in the graph, relative to its largest number
_PAD_AXES = 3  # position of the input of Pad that chooses axes


@dataclass(frozen=True, eq=False)
class LayerNode:
    """One call of a layer in a graph.

    Attributes:
        layer: The layer.
        call: Which call, from zero.
        node: Its node; see ``node_name``.
        side: Whether the weight is its first (0) or second (1) input.
        axes: The order in which the graph holds the axes of the weight that this call multiplies by.
        leading: Axes of length 1 that the graph puts in front of them.
    """

    layer: Layer
    call: int
    node: NodeProto
    side: int
    axes: tuple[int, ...]
    leading: int = 0

    @property
    def is_transposed(self) -> bool:
        """Whether the graph holds the weight in another order of axes, as a MatMul does."""
        return self.axes != tuple(range(len(self.axes)))

    def arranged(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A weight as this call multiplies by it, in the order of axes that the graph holds."""
        arranged = weight.transpose(self.axes)
        return np.ascontiguousarray(arranged.reshape((1,) * self.leading + arranged.shape))

    def axis_of(self, axis: int | None) -> int | None:
        """An axis of the weight, as the graph counts it."""
        return None if axis is None else self.leading + self.axes.index(axis)


def node_name(layer: Layer, call: int) -> str:
    """Name of the node of one call: the module path, and ``#1`` and so on where there are several calls.

    The weight's own name stands behind the path where it is not ``weight``: a module may hold several.
    """
    path = layer.module if layer.weight == "weight" and layer.module else f"{layer.module}.{layer.weight}".strip(".")
    return path if layer.calls == 1 else f"{path}{CALL_MARK}{call}"


def find_nodes(graph: ModelProto, plan: Plan) -> tuple[list[LayerNode], dict[str, str]]:
    """Find the nodes of all layers of a graph, and name them.

    A node belongs to a layer when one of its inputs is made of the layer's parameter and holds what the layer's next
    call multiplies by, or, where an exporter renamed the parameter, when it holds what this layer alone multiplies by.
    Calls are counted in the order of the graph.

    Args:
        graph: An fp32 graph; the nodes found get their new names.
        plan: Holds the folded copy.

    Returns:
        The nodes in the order of the graph, and the layers that have nodes but not one for each call, with the reason.
    """
    constants, known = Constants(graph), _Known(plan)
    matches: dict[str, list[tuple[NodeProto, int, _Arrangement]]] = {}
    for node in graph.graph.node:
        if node.op_type not in MULTIPLIERS or len(node.input) < 2:
            continue
        for side in (1,) if node.op_type.startswith("Conv") else (1, 0):
            match = known.layer_of(constants, node.input[side], matches)
            if match is not None:
                matches.setdefault(match[0], []).append((node, side, match[1]))
                break
    nodes, wrong = [], {}
    for layer in plan.layers:
        calls = matches.get(layer.name, [])
        if len(calls) > layer.calls:  # a first state of zeros is multiplied as well, which is no call of the layer
            calls = [(node, side, axes) for node, side, axes in calls if _reads_data(constants, node.input[1 - side])]
        if len(calls) not in (0, layer.calls):
            wrong[layer.name] = f"the graph runs it {len(calls)} times, the model {layer.calls} times"
            continue
        for call, (node, side, (axes, leading)) in enumerate(calls):
            node.name = node_name(layer, call)
            nodes.append(LayerNode(layer, call, node, side, axes, leading))
    places = {node.name: place for place, node in enumerate(graph.graph.node)}
    return sorted(nodes, key=lambda layer_node: places[layer_node.node.name]), wrong


def _reads_data(constants: Constants, name: str) -> bool:
    """Whether a value is made of numbers that the graph is given, and not of constants and sizes alone."""
    return constants.initializers_behind(name, sizes_count=False) is None


_Arrangement = tuple[tuple[int, ...], int]
"""The order of the axes of a weight, and the axes of length 1 in front of them."""


class _Known:
    """The weights of the layers, by the parameters that they are made of and by content."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._layers: dict[str, list[Layer]] = {}
        hashes: dict[str, list[Layer]] = {}
        for layer in plan.layers:
            if layer.runs_in is not None and not plan.basis.multiplied[layer.name]:
                continue  # no operator was given its weight in the pass
            self._layers.setdefault(layer.parameter, []).append(layer)
            array = self._weight(layer, 0)
            for key in {_hash(array), _hash(array.T)}:
                hashes.setdefault(key, []).append(layer)
        self._unique = {key: layers[0] for key, layers in hashes.items() if len(layers) == 1}

    def layer_of(
        self, constants: Constants, name: str, matches: Mapping[str, Sequence[Any]]
    ) -> tuple[str, _Arrangement] | None:
        """The layer that multiplies by a value of the graph, and how its axes are arranged there.

        Args:
            constants: Those of the graph.
            name: The value.
            matches: The nodes that each layer has so far.
        """
        initializers = constants.initializers_behind(name)
        constant = constants.behind(name) if initializers else None
        if constant is None or initializers is None:
            return None
        candidates = [layer for key in sorted(initializers) for layer in self._layers.get(key, [])]
        renamed = self._unique.get(_hash(constant.content))
        for layer in [*candidates, *([renamed] if renamed is not None else [])]:
            call = min(len(matches.get(layer.name, [])), layer.calls - 1)
            arrangement = _arrangement(self._weight(layer, call), constant.content)
            if arrangement is not None:
                return layer.name, arrangement
        return None

    def _weight(self, layer: Layer, call: int) -> npt.NDArray[Any]:
        plan = self._plan
        if layer.runs_in is None:
            return parameter_of(plan.model, layer).detach().cpu().numpy()
        calls = plan.basis.multiplied[layer.name]
        return calls[min(call, len(calls) - 1)].weight.cpu().numpy()


def _arrangement(weight: npt.NDArray[Any], content: npt.NDArray[Any]) -> _Arrangement | None:
    """How the axes of a weight were arranged to give a content, up to the rounding of what computed it; None if not."""
    leading = content.ndim - weight.ndim
    if leading < 0 or any(length != 1 for length in content.shape[:leading]):
        return None
    content = content.reshape(content.shape[leading:])
    tolerance = _ROUNDING * float(np.abs(weight).max(initial=0.0))
    orders = itertools.permutations(range(weight.ndim)) if weight.ndim <= _MATRIX_AXES else [tuple(range(weight.ndim))]
    for axes in orders:
        arranged = weight.transpose(axes)
        if arranged.shape == content.shape and np.allclose(arranged, content, rtol=0.0, atol=tolerance):
            return axes, leading
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

    constants = {tensor.name: tensor for tensor in graph.graph.initializer}

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
        graph: The node that pads stays in it, for ``swept`` to remove where nothing else reads it.
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
    other_attributes = [attribute for attribute in conv.attribute if attribute.name != "pads"]
    del conv.attribute[:]
    total = [before + added for before, added in zip(own, spatial, strict=True)]
    conv.attribute.extend([*other_attributes, onnx.helper.make_attribute("pads", total)])
    conv.input[0] = pad.input[0]


def _zeros_padded(graph: ModelProto, pad: NodeProto) -> list[int] | None:
    """How many zeros a Pad adds, at all starts and then at all ends; None where it pads otherwise, or with others."""
    import onnx.helper
    import onnx.numpy_helper

    modes = [onnx.helper.get_attribute_value(setting) for setting in pad.attribute if setting.name == "mode"]
    has_axes = len(pad.input) > _PAD_AXES and pad.input[_PAD_AXES]
    if modes not in ([], [b"constant"]) or has_axes:
        return None
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    names = [name for name in pad.input[1:_PAD_AXES] if name]
    if any(name not in constants for name in names):
        return None
    amounts, *value = [constants[name] for name in names]
    return None if any(float(number) != 0.0 for number in value) else [int(amount) for amount in amounts]
