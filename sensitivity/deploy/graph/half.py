"""A graph with Q/DQ whose float part is in half precision: the types are written down, and an engine keeps to them.

Every float value outside of what stays in fp32 is float16: weights, activations, biases and the scales of Q and DQ.
What stays in fp32 stands between casts. Opset 19 is the first whose Q and DQ take float16 scales.

The converters of onnxruntime and onnxconverter-common are not used: they round every value between two nodes that are
to stay in fp32 (a variance overflows there all the same), clip constants without a word, and know a list of operators
where ONNX itself says which inputs may be float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from sensitivity.deploy.graph.qdq import QdqGraph
from sensitivity.deploy.graph.rounded import values_of_type
from sensitivity.deploy.graph.scopes import Scopes
from sensitivity.deploy.prepare.overflow import entries_for
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.deploy.prepare.rest_in_words import in_file, in_python
from sensitivity.errors import ExportError
from sensitivity.perturb.half.kept import around
from sensitivity.records.recipes.scheme import IoType, Rest

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

OPSET = 19
"""The version of ONNX operators that is written: the first in which scales of Q and DQ may be float16."""

_IR_VERSION = 9  # the first that goes with it

_NAMED = 5  # constants that a message names
_FLOAT, _HALF = 1, 10  # onnx.TensorProto.FLOAT and FLOAT16
_NAMES = {_FLOAT: "fp32", _HALF: "fp16"}


def check_io(io: str) -> None:
    """Nothing, if a graph can have inputs and outputs of this type.

    Raises:
        ExportError: If not.
    """
    if io not in get_args(IoType):
        raise ExportError(f"io={io!r} is no type for inputs and outputs. Choose 'fp32' or 'fp16'.")


def to_half(qdq: QdqGraph, plan: Plan, part: str, *, io: IoType = "fp32") -> ModelProto:
    """A copy of a graph with its float values in float16, bar those of modules that the plan keeps in fp32.

    Args:
        qdq: The graph in fp32, with Q/DQ; not changed.
        plan: Says what stays in fp32; its scales are float16 numbers already.
        part: Path of the submodule that the graph was made of; empty for the whole model.
        io: Type of the graph's float inputs and outputs.

    Raises:
        ExportError: If a constant is too large for float16, or a single number that is not zero would be zero there
            (an epsilon that guards a division), or the result is no valid ONNX.
    """
    import onnx

    check_io(io)
    graph = onnx.ModelProto()
    graph.CopyFrom(qdq.graph)
    modules, in_fp32 = _kept_nodes(graph, qdq, plan, part)
    _raise_opset(graph)
    converter = _Converter(graph, in_fp32)
    converter.convert(_HALF if io == "fp16" else _FLOAT)
    _refuse_unfit(plan, {node: (modules.get(node) or "", text) for node, text in converter.unfit.items()})
    del graph.graph.value_info[:]  # of the old types
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the graph in half precision is not valid ONNX: {error}. Keep the module that it names in fp32,",
            python="scheme.with_rest('fp16', keep_fp32=...), or use with_rest('fp32').",
            shell=f"{in_file('fp16', ['PATH'])} in the file of the scheme, or write {in_file('fp32')} there.",
        ) from error
    return graph


def _refuse_unfit(plan: Plan, unfit: Mapping[str, tuple[str, str]]) -> None:
    """Nothing, if no constant is unfit for float16.

    Args:
        plan: What is exported.
        unfit: For nodes that read one: the module, and what is wrong.

    Raises:
        ExportError: If one is.
    """
    if not unfit:
        return
    texts = dict.fromkeys(
        f"{text} (in {module or 'the forward of the model itself'})" for module, text in unfit.values()
    )
    modules = dict.fromkeys(module for module, _ in unfit.values() if module)
    entries = tuple(dict.fromkeys([*plan.scheme.keep_fp32, *entries_for(plan, modules)]))
    wrong = f"fp16 cannot hold {'; '.join(list(texts)[:_NAMED])}."
    rest: tuple[Rest, tuple[str, ...]] = ("fp16", entries) if modules else ("bf16", ())
    cure = "Keep them in fp32:" if modules else "bf16 can:"
    shell = f"{in_file(*rest)} in the file of the scheme."
    raise ExportError(wrong, cure, python=f"{in_python(*rest)}.", shell=shell)


def _kept_nodes(
    graph: ModelProto, qdq: QdqGraph, plan: Plan, part: str
) -> tuple[dict[str, str | None], dict[str, bool]]:
    """For each node, by its first output: the module that it runs in, and whether it stays in fp32.

    A node that was written for another one (Q, DQ, a padding) goes with the first that reads it.
    """
    layers = {node: plan.layers[layer].module for layer, nodes in qdq.nodes.items() for node in nodes}
    scopes, kept_modules = Scopes(plan.model, part), plan.kept
    readers: dict[str, str] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, node.output[0])
    stays: dict[str, bool] = {}
    modules: dict[str, str | None] = {}
    for node in reversed(graph.graph.node):
        module = layers.get(node.name, scopes.module_of(node))
        modules[node.output[0]] = module
        reader = next((readers[name] for name in node.output if name in readers), "")
        stays[node.output[0]] = stays.get(reader, False) if module is None else kept_modules.holds(around(module))
    return modules, stays


def _raise_opset(graph: ModelProto) -> None:
    """Opset 19 where the graph has an older one: what it reads of each operator is the same (types were added)."""
    graph.ir_version = max(graph.ir_version, _IR_VERSION)
    for opset in graph.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, OPSET)


@dataclass
class _Converter:
    """Rewrites the nodes of a graph in order.

    Attributes:
        graph: Changed in place.
        in_fp32: For each node, by its first output: whether it stays in fp32.
        unfit: For nodes, by their first output, that read a constant unfit for float16: what is wrong.
    """

    graph: ModelProto
    in_fp32: Mapping[str, bool]
    unfit: dict[str, str] = field(default_factory=dict)
    _reader: str = ""
    _types: dict[str, int] = field(default_factory=dict)
    _constants: dict[str, TensorProto] = field(default_factory=dict)
    _written: dict[tuple[str, int], str] = field(default_factory=dict)
    _nodes: list[NodeProto] = field(default_factory=list)
    _initializers: list[TensorProto] = field(default_factory=list)

    def convert(self, ports: int) -> None:
        """Write the graph anew, with inputs and outputs of this type."""
        import onnx.shape_inference

        main = self.graph.graph
        inferred = onnx.shape_inference.infer_shapes(self.graph)
        floats = values_of_type(inferred.graph, _FLOAT)
        self._constants = {tensor.name: tensor for tensor in main.initializer if tensor.data_type == _FLOAT}
        self._initializers = [tensor for tensor in main.initializer if tensor.data_type != _FLOAT]
        for port in main.input:
            if port.name in floats:
                self._types[port.name] = port.type.tensor_type.elem_type = ports
        outputs = {port.name: port for port in main.output if port.name in floats}
        for node in main.node:
            if node.output[0] in outputs and node.op_type == "Identity":
                self._write_output(node, outputs[node.output[0]], ports)
            else:
                self._write(node, floats)
        del main.node[:]
        del main.initializer[:]
        main.node.extend(self._nodes)
        main.initializer.extend(self._initializers)

    def _write_output(self, node: NodeProto, port: Any, ports: int) -> None:
        """The last node before an output: a cast where the value is of another type."""
        import onnx.helper

        source = node.input[0]
        have = ports if source in self._constants else self._types[source]
        if have == ports:
            node.input[0] = self._as(source, ports)
        else:
            node = onnx.helper.make_node("Cast", [source], list(node.output), name=node.name, to=ports)
        port.type.tensor_type.elem_type = ports
        self._nodes.append(node)

    def _write(self, node: NodeProto, floats: frozenset[str]) -> None:
        if node.op_type == "Constant" and node.output[0] in floats:
            self._constants[node.output[0]] = _tensor_of(node)
            return
        self._reader = node.output[0]
        signature = None if self.in_fp32[node.output[0]] or _has_graph(node) else _Signature.of(node, self.graph)
        halves: set[str] = set()
        for position, name in enumerate(node.input):
            if name not in floats:
                continue
            wanted = _HALF if signature is not None and signature.takes_half(position) else _FLOAT
            node.input[position] = self._as(name, wanted)
            if signature is not None and wanted == _HALF:
                halves.add(signature.input_type(position))
        for attribute in node.attribute:
            if attribute.HasField("g"):
                self._write_captured(attribute.g, floats)
        makes_half = signature is not None and _write_attributes(node)
        for position, name in enumerate(node.output):
            if name in floats:
                is_half = signature is not None and signature.gives_half(position, halves, makes_half=makes_half)
                self._types[name] = _HALF if is_half else _FLOAT
        self._nodes.append(node)

    def _write_captured(self, graph: GraphProto, floats: frozenset[str]) -> None:
        """A graph inside a node stays in fp32, and reads what is outside of it so."""
        own = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
        for node in graph.node:
            for position, name in enumerate(node.input):
                if name in floats and name not in own:
                    node.input[position] = self._as(name, _FLOAT)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self._write_captured(attribute.g, floats - own)
        for port in graph.output:
            if port.name in floats and port.name not in own:
                port.name = self._as(port.name, _FLOAT)

    def _as(self, name: str, wanted: int) -> str:
        """The name by which a value has a type; it is cast, once, where it has another."""
        import onnx.helper

        if name not in self._constants and self._types[name] == wanted:
            return name
        key = name, wanted
        if key not in self._written:
            is_same = name in self._constants and wanted == _FLOAT
            self._written[key] = name if is_same else f"{name}.{_NAMES[wanted]}"
            if name in self._constants:
                self._initializers.append(self._constant(name, wanted, self._written[key]))
            else:
                cast = onnx.helper.make_node("Cast", [name], [self._written[key]], self._written[key], to=wanted)
                self._nodes.append(cast)
        return self._written[key]

    def _constant(self, name: str, wanted: int, new_name: str) -> TensorProto:
        import onnx.numpy_helper

        values = onnx.numpy_helper.to_array(self._constants[name])
        if wanted == _FLOAT:
            return onnx.numpy_helper.from_array(values, new_name)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if bool((np.isinf(halves) & ~np.isinf(values)).any()):
            largest = float(np.abs(values[np.isfinite(values)]).max())
            self.unfit[self._reader] = f"the constant {name!r}, which reaches {largest:.3g} (more than 65504)"
        elif values.size == 1 and values.item() != 0.0 and halves.item() == 0.0:
            self.unfit[self._reader] = (
                f"the constant {name!r}, {values.item():.3g}, which would be 0 and guard no division"
            )
        return onnx.numpy_helper.from_array(halves, new_name)


@dataclass(frozen=True)
class _Signature:
    """What ONNX says of the types that an operator takes and gives."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    may_be_half: frozenset[str]

    @classmethod
    def of(cls, node: NodeProto, model: ModelProto) -> _Signature | None:
        """That of a node's operator; None where no float input or output of it may be float16, or nobody knows it."""
        import onnx.defs

        version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), OPSET)
        try:
            schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        except onnx.defs.SchemaError:
            return None
        able = {kind.type_param_str for kind in schema.type_constraints if "tensor(float16)" in kind.allowed_type_strs}
        inputs, outputs = ([port.type_str for port in ports] for ports in (schema.inputs, schema.outputs))
        return cls(tuple(inputs), tuple(outputs), frozenset(able))

    def input_type(self, position: int) -> str:
        """The name of the type of an input; the last one of an operator may be repeated."""
        return self.inputs[min(position, len(self.inputs) - 1)]

    def takes_half(self, position: int) -> bool:
        """Whether an input may be float16."""
        return self.input_type(position) in self.may_be_half

    def gives_half(self, position: int, halves: set[str], *, makes_half: bool) -> bool:
        """Whether a float output is float16.

        Args:
            position: Which output.
            halves: Names of the types that are float16 at the inputs.
            makes_half: Whether an attribute says that what is made is float16.
        """
        kind = self.outputs[min(position, len(self.outputs) - 1)]
        if kind in self.inputs:
            return kind in halves
        return makes_half and kind in self.may_be_half


def _has_graph(node: NodeProto) -> bool:
    return any(attribute.HasField("g") for attribute in node.attribute)


def _tensor_of(node: NodeProto) -> TensorProto:
    """The float tensor that a Constant node holds."""
    import onnx.helper
    import onnx.numpy_helper

    value = onnx.helper.get_attribute_value(node.attribute[0])
    if node.attribute[0].name == "value":
        return value  # type: ignore[no-any-return]
    return onnx.numpy_helper.from_array(np.asarray(value, np.float32))


def _write_attributes(node: NodeProto) -> bool:
    """Let a node that says itself what it makes make float16; whether it does."""
    import onnx.helper

    types = [attribute for attribute in node.attribute if attribute.name in ("to", "dtype") and attribute.i == _FLOAT]
    for attribute in types:
        attribute.i = _HALF
    if node.op_type != "ConstantOfShape":
        return bool(types)
    value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
    filled = 0.0 if value is None else float(onnx.numpy_helper.to_array(value).ravel()[0])
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("value", onnx.helper.make_tensor("value", _HALF, [1], [filled])))
    return True
