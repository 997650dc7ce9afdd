"""OpenVINO on a CPU: the engine of record here, it runs Q/DQ graphs in true int8."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from sensitivity.contracts import Engine, EngineLayer
from sensitivity.deploy.engines.capabilities import OPENVINO
from sensitivity.deploy.engines.inputs import WARM_UP_RUNS, Array, check_repeats, checked_inputs, median_time_s
from sensitivity.deploy.engines.openvino_formats import NO_OPERATION, change_of, facts_of, quantizers_of, reads_of
from sensitivity.deploy.engines.openvino_names import GraphNames
from sensitivity.deploy.engines.openvino_workarounds.biases import with_lasting_biases
from sensitivity.deploy.engines.openvino_workarounds.chains import holds_quantized_chain
from sensitivity.deploy.engines.openvino_workarounds.concatenation import with_concatenated_codes
from sensitivity.deploy.engines.openvino_workarounds.groups import with_wide_groups
from sensitivity.deploy.engines.openvino_workarounds.kernels import with_odd_kernels
from sensitivity.deploy.engines.openvino_workarounds.pads import with_pieces_for_circular_pads
from sensitivity.deploy.graph.copies import without_weights
from sensitivity.deploy.packages import need
from sensitivity.deploy.prepare.rest_in_words import in_file, in_python
from sensitivity.errors import EngineBuildError, EngineError
from sensitivity.records.recipes.scheme import Rest

PRECISIONS = {"i8": "int8", "u8": "int8", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}
"""OpenVINO's words for ours; others are passed on."""

_MULTIPLY = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
_MARKS = ("/WithoutBiases", "/DequantizationMultiply")


class OpenVinoEngine(Engine):
    """A graph compiled by OpenVINO for the CPU.

    ``INFERENCE_PRECISION_HINT`` is pinned to what was simulated: left alone, OpenVINO computes what is not quantized in
    bf16 on a CPU that has it, which costs far more accuracy than int8 does.

    ``DYNAMIC_QUANTIZATION_GROUP_SIZE`` is pinned to 0: left alone, it quantizes the activations of linear layers whose
    weights alone are int8, with scales of its own, and calls that float.

    ``SNIPPETS_MODE`` is ``DISABLE`` for graphs with quantized linear layers behind each other, some without a bias; see
    ``openvino_workarounds.chains.holds_quantized_chain``.

    Args:
        model: ONNX file as bytes.
        threads: Threads to run on; None leaves it to OpenVINO.
        rest: What is not quantized is computed in this precision.

    Raises:
        MissingPackageError: If openvino is not installed.
        EngineBuildError: If OpenVINO cannot read or compile the graph, or the CPU does not compute in ``rest``.
    """

    name = "openvino"
    capabilities = OPENVINO

    def __init__(self, model: bytes, *, threads: int | None = None, rest: Rest = "fp32") -> None:
        self._openvino = need("openvino", "openvino")
        self.version = str(self._openvino.__version__)
        self._threads = threads
        self._hint = next(word for word, precision in PRECISIONS.items() if precision == rest)
        onnx = need("onnx", "openvino")
        try:
            file = onnx.load_from_string(model)
        except Exception as error:  # protobuf's DecodeError is no error of onnx's own
            raise EngineBuildError(f"OpenVINO {self.version} cannot build this graph: it is no ONNX file.") from error
        changes = with_pieces_for_circular_pads(file) + with_concatenated_codes(file) + with_wide_groups(file)
        if changes + with_lasting_biases(file, rest) + with_odd_kernels(file, rest):
            model = file.SerializeToString()
        graph = without_weights(file).graph
        del file  # it takes the memory of all weights
        self._snippets = {"SNIPPETS_MODE": "DISABLE"} if holds_quantized_chain(graph) else {}
        try:
            self._core = self._openvino.Core()
            self._check_rest(rest)
            self._model = self._core.read_model(model)
            self._compiled = self._compile(profile=False)
        except RuntimeError as error:
            raise EngineBuildError(f"OpenVINO {self.version} cannot build this graph: {_telling(error)}") from error
        self._makers = _output_makers(graph)
        self._graph_names = GraphNames(graph)
        self._quantizers = quantizers_of(graph)
        weights = {tensor.name for tensor in graph.initializer}
        ports = [port for port in graph.input if port.name not in weights]
        self._shapes = [[size.dim_value or None for size in port.type.tensor_type.shape.dim] for port in ports]
        self._dtypes = [onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type) for port in ports]
        used = {name for port in self._compiled.inputs for name in port.get_names()}
        self._names = [
            port.name if port.name in used else None for port in ports
        ]  # OpenVINO drops inputs that nothing reads
        self._request = self._compiled.create_infer_request()
        self._last: list[Array] | None = None
        self._profiled: Any = None
        self._times_s: dict[str, float] = {}

    def run(self, *inputs: Any) -> tuple[Array, ...]:
        """All outputs of the graph, in its order.

        Args:
            inputs: One array for each input of the graph, in its order.

        Raises:
            EngineError: If the number, a shape or a dtype of the inputs is not what the engine was built for.
        """
        arrays = self._remembered(inputs)
        return self._infer(self._request, arrays)

    def layer_info(self) -> list[EngineLayer]:
        """Every operation of the execution graph that computes something, in execution order.

        Times are those of ``profile``, which is called here with the last inputs where it was not yet; None before the
        first ``run``.
        """
        if self._last is not None and not self._times_s:
            self.profile(*self._last, repeats=1)
        compiled = self._compiled if self._profiled is None else self._profiled
        operations = compiled.get_runtime_model().get_ordered_ops()
        weights = {
            operation.get_friendly_name(): _names_of_weight(operation)
            for operation in operations
            if facts_of(operation).get("layerType") in _MULTIPLY
        }
        layers = [layer for operation in operations if (layer := self._layer(operation)) is not None]
        return self._graph_names.completed(self._with_real_names(layers, weights), weights)

    def profile(self, *inputs: Any, repeats: int = 20) -> Mapping[str, float]:
        """Median seconds of each operation by its name; ``layer_info`` has them too from now on.

        Args:
            inputs: As for ``run``.
            repeats: Runs that are timed after a warm-up, on a copy that is compiled for profiling and kept.

        Raises:
            EngineError: As ``run``, if ``repeats`` is not positive, or if the copy cannot be compiled.
        """
        check_repeats(repeats)
        arrays = self._remembered(inputs)
        if self._profiled is None:
            self._profiled = self._compile(profile=True)
        request = self._profiled.create_infer_request()
        seconds: dict[str, list[float]] = defaultdict(list)
        for number in range(WARM_UP_RUNS + repeats):
            self._infer(request, arrays)
            for timed in request.get_profiling_info() if number >= WARM_UP_RUNS else ():
                seconds[timed.node_name].append(timed.real_time.total_seconds())
        self._times_s = {name: statistics.median(runs) for name, runs in seconds.items()}
        return dict(self._times_s)

    def latency_s(self, *inputs: Any, repeats: int = 20) -> float:
        """Median time of one run in seconds, after a warm-up.

        Raises:
            EngineError: If the inputs do not fit, or repeats is not positive.
        """
        arrays = checked_inputs(self.name, inputs, self._shapes, self._dtypes)
        return median_time_s(lambda: self._infer(self._request, arrays), repeats)

    def _remembered(self, inputs: tuple[Any, ...]) -> list[Array]:
        """The inputs as they are run; times of inputs of other sizes are forgotten."""
        arrays = checked_inputs(self.name, inputs, self._shapes, self._dtypes)
        if self._last is None or [array.shape for array in arrays] != [array.shape for array in self._last]:
            self._times_s = {}
        self._last = arrays
        return arrays

    def _layer(self, operation: Any) -> EngineLayer | None:
        """One operation of the execution graph; None for what computes nothing (inputs, constants, results)."""
        facts = facts_of(operation)
        if facts.get("layerType", "") in NO_OPERATION:
            return None
        nodes = tuple(name for name in facts.get("originalLayersNames", "").split(",") if name)
        precision = _precision(facts.get("runtimePrecision", ""), facts.get("primitiveType", ""))
        name = operation.get_friendly_name()
        change = change_of(operation, self._quantizers)
        return EngineLayer(name, nodes, precision, self._times_s.get(name), reads_of(operation), change)

    def _with_real_names(self, layers: list[EngineLayer], multiplying: Collection[str]) -> list[EngineLayer]:
        """OpenVINO calls an operation by the output that it computes, where nothing else tells of the node."""
        layers = _without_leftovers(layers, multiplying)
        named = {node for layer in layers for node in layer.nodes}
        hidden = {output: node for output, node in self._makers.items() if node not in named}
        return [
            replace(layer, nodes=(*layer.nodes, *(hidden[name] for name in layer.nodes if name in hidden)))
            for layer in layers
        ]

    def _check_rest(self, rest: Rest) -> None:
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if rest.upper() not in able:
            raise EngineBuildError(
                f"OpenVINO {self.version} does not compute in {rest} on this CPU, it would fall back to another "
                f"precision; it tells {', '.join(able)}. Deploy to 'torch', the simulation, or choose fp32 or one that "
                "it tells:",
                python=f"{in_python('fp32')}.",
                shell=f"{in_file('fp32')} in the file of the scheme.",
            )

    def _compile(self, *, profile: bool) -> Any:
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "PERFORMANCE_HINT": "LATENCY",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            **self._snippets,
        }
        if self._threads is not None:
            config["INFERENCE_NUM_THREADS"] = self._threads
        if profile:
            config["PERF_COUNT"] = True
        try:
            return self._core.compile_model(self._model, "CPU", config)
        except RuntimeError as error:  # the second time too, where memory has run out
            raise EngineBuildError(f"OpenVINO {self.version} cannot build this graph: {_telling(error)}") from error

    def _infer(self, request: Any, arrays: list[Array]) -> tuple[Array, ...]:
        try:
            request.infer({name: array for name, array in zip(self._names, arrays, strict=True) if name is not None})
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed while running: {_telling(error)}") from error
        count = len(self._compiled.outputs)
        return tuple(request.get_output_tensor(number).data.copy() for number in range(count))


def describe_device() -> str:
    """The CPU that OpenVINO runs on here.

    Raises:
        MissingPackageError: If openvino is not installed.
        EngineError: If OpenVINO finds no CPU device.
    """
    core = need("openvino", "openvino").Core()
    if "CPU" not in core.available_devices:
        raise EngineError(f"OpenVINO finds no CPU device; it has: {', '.join(core.available_devices) or 'none'}.")
    return f"on {core.get_property('CPU', 'FULL_DEVICE_NAME')}"


def _output_makers(graph: Any) -> dict[str, str]:
    """The node that computes each output of an ONNX graph, seen through the Identity in front of it."""
    makers = {name: node for node in graph.node for name in node.output}
    makers_of_outputs = {}
    for output in graph.output:
        node = makers.get(output.name)
        while node is not None and node.op_type == "Identity":
            node = makers.get(node.input[0])
        if node is not None:
            makers_of_outputs[output.name] = node.name
    return makers_of_outputs


def _precision(runtime: str, primitive: str) -> str:
    """What an operation computes in: int8 only where its primitive does, e.g. ``brgconv_avx512_I8``.

    A linear layer with weights in int8 and activations in float tells ``i8`` and runs ``brgemm_avx512_f32``.
    """
    declared = PRECISIONS.get(runtime, runtime)
    computed = PRECISIONS.get(primitive.rpartition("_")[2].lower(), declared)
    return computed if declared == "int8" else declared


def _names_of_weight(operation: Any) -> tuple[str, ...]:
    """The names of the constant that an operation multiplies by, and of what moves it; none where it has no such."""
    names: list[str] = []
    if operation.get_input_size() < _OPERANDS:
        return ()
    node = operation.input_value(1).get_node()
    while True:
        facts = facts_of(node)
        names += [node.get_friendly_name(), *facts.get("originalLayersNames", "").split(",")]
        if facts.get("layerType") == "Const":
            return tuple(dict.fromkeys(name for name in names if name))
        if facts.get("layerType") not in _MOVES:
            return ()
        node = node.input_value(0).get_node()


_OPERANDS = 2
_MOVES = frozenset({"Transpose", "Reorder", "Reshape", "Convert"})


def _without_leftovers(layers: list[EngineLayer], multiplying: Collection[str]) -> list[EngineLayer]:
    """The layers under the names of the graph's nodes.

    OpenVINO marks one part when it splits a layer, and gives the plain name to what is left of it, e.g. the bias, or
    the product itself. The node is what multiplies; where no part is known to, it is the one that is marked.
    """
    marked = {name: _unmarked(name) for layer in layers for name in layer.nodes if any(mark in name for mark in _MARKS)}
    split = {base for name, base in marked.items() if base != name}
    products = {marked.get(name, name) for layer in layers if layer.name in multiplying for name in layer.nodes} & split
    renamed = []
    for layer in layers:
        own = {marked[name] for name in layer.nodes if marked.get(name, name) != name}
        lost = (split - own) | (set() if layer.name in multiplying else products)
        kept_names = products if layer.name in multiplying else set()
        nodes = [marked.get(name, name) for name in layer.nodes]
        nodes = [name for name in nodes if name in kept_names or name not in lost]
        renamed.append(replace(layer, nodes=tuple(dict.fromkeys(nodes))))
    return renamed


def _unmarked(name: str) -> str:
    """A node's name without the marks that OpenVINO puts behind it, one or several."""
    for mark in reversed(_MARKS):
        name = name.removesuffix(mark)
    return name


def _telling(error: Exception) -> str:
    """The lines of an error that tell something: no places in OpenVINO's source, no headings."""
    lines = [_SOURCE.sub("", line).strip(" :") for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_HEADINGS)]
    return "; ".join(dict.fromkeys(telling)) or type(error).__name__


_SOURCE = re.compile(r"(Exception from|failed at) \S+\.[ch]pp:\d+:?")
_HEADINGS = ("Check 'false'", "FrontEnd API failed", "Model wasn't fully converted", "Summary")
