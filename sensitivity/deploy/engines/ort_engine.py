"""ONNX Runtime with all optimizations off: Q and DQ as the standard defines them, float in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sensitivity.contracts import Engine, EngineLayer
from sensitivity.deploy.engines.capabilities import ONNXRUNTIME
from sensitivity.deploy.engines.inputs import Array, checked_inputs, median_time_s
from sensitivity.deploy.graph.copies import without_weights
from sensitivity.deploy.graph.rounded import half_values, with_roundings
from sensitivity.deploy.packages import need
from sensitivity.errors import EngineBuildError, EngineError

if TYPE_CHECKING:
    from onnx import NodeProto

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class OrtEngine(Engine):
    """A graph run node by node by ONNX Runtime: a portable reference, not a fast engine.

    With optimizations on, ONNX Runtime quantizes float biases to int32 without being asked and moves Q/DQ about, so
    they are off. Every layer then computes in float between its quantizers, and ``layer_info`` says so. What the graph
    holds in fp16 is computed in fp32 and rounded to fp16, which is what ``layer_info`` calls fp16.

    Attributes:
        computes_in_float: Declares that int8 layers run in float here; ``verify`` then asks for the codes alone.

    Args:
        model: ONNX file as bytes.
        threads: Threads to run on; None leaves it to ONNX Runtime.

    Raises:
        MissingPackageError: If onnxruntime or onnx is not installed.
        EngineBuildError: If ONNX Runtime cannot load the graph.
    """

    name = "onnxruntime"
    capabilities = ONNXRUNTIME
    computes_in_float = True

    def __init__(self, model: bytes, *, threads: int | None = None) -> None:
        runtime, onnx = need("onnxruntime", "onnx"), need("onnx", "onnx")
        self.version = str(runtime.__version__)
        self._threads = threads
        options = self._options(runtime)
        try:
            graph = self._prepared(onnx.load_from_string(model))
            model = graph.SerializeToString()
            self._halves = half_values(graph)
            self._graph = without_weights(graph).graph
            if self._halves:
                model = with_roundings(graph, self._halves).SerializeToString()
            self._content = model
            self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common base but Exception
            raise EngineBuildError(f"ONNX Runtime {runtime.__version__} cannot build this graph: {error}") from error
        ports = self._session.get_inputs()
        self._names = [port.name for port in ports]
        self._shapes = [[size if isinstance(size, int) else None for size in port.shape] for port in ports]
        self._dtypes = [_TYPES[port.type] for port in ports]

    def _prepared(self, graph: Any) -> Any:
        """The graph that is run."""
        return graph

    def _options(self, runtime: Any) -> Any:
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        return options

    def run(self, *inputs: Any) -> tuple[Array, ...]:
        """All outputs of the graph, in its order.

        Args:
            inputs: One array for each input of the graph, in its order.

        Raises:
            EngineError: If the number, a shape or a dtype of the inputs is not what the engine was built for.
        """
        return self._infer(checked_inputs(self.name, inputs, self._shapes, self._dtypes))

    def layer_info(self) -> list[EngineLayer]:
        """Every node of the graph: nothing is fused, and all but the quantizers compute in float. Times are None."""
        return [
            EngineLayer(node.name or node.output[0], (node.name,), self._precision_of(node))
            for node in self._graph.node
        ]

    def _precision_of(self, node: NodeProto) -> str:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return "int8"
        return "fp16" if self._halves.intersection(node.output) else "fp32"

    def latency_s(self, *inputs: Any, repeats: int = 20) -> float:
        """Median time of one run in seconds, after a warm-up.

        Raises:
            EngineError: If the inputs do not fit, or repeats is not positive.
        """
        arrays = checked_inputs(self.name, inputs, self._shapes, self._dtypes)
        return median_time_s(lambda: self._infer(arrays), repeats)

    def _infer(self, arrays: list[Array]) -> tuple[Array, ...]:
        try:
            return tuple(self._session.run(None, dict(zip(self._names, arrays, strict=True))))
        except Exception as error:  # its errors have no common base but Exception
            raise EngineError(f"ONNX Runtime failed while running: {error}") from error


def describe_device() -> str:
    """What ONNX Runtime is here for, and what it could run on.

    Raises:
        MissingPackageError: If onnxruntime is not installed.
    """
    providers = need("onnxruntime", "onnx").get_available_providers()
    return f"the float reference; providers: {', '.join(providers)}"
