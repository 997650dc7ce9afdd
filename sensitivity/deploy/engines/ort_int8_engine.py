"""ONNX Runtime's int8 kernels: quantized convolutions and matrix products computed in integers."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from sensitivity.contracts import EngineLayer, FormatChange
from sensitivity.deploy.engines.capabilities import ONNXRUNTIME_INT8
from sensitivity.deploy.engines.inputs import Array, checked_inputs
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.graph.integer_products import with_integer_products
from sensitivity.deploy.packages import need

_INTEGER = frozenset({"ConvInteger", "MatMulInteger", "QuantizeLinear", "DequantizeLinear"})
_CHANGES: dict[str, FormatChange] = {"QuantizeLinear": "to int8", "DequantizeLinear": "to float"}
_PROFILED_RUNS = 5
_KERNEL = "_kernel_time"


class OrtInt8Engine(OrtEngine):
    """A graph whose int8 layers ONNX Runtime multiplies in integers, on any CPU.

    Left to itself, ONNX Runtime computes such a graph in float: it has integer kernels for another form of Q/DQ, which
    also rounds biases. Here the products are written as ``ConvInteger`` and ``MatMulInteger``, whose sums are exact, so
    that this engine computes what was simulated. Transposed convolutions stay in float, and ``layer_info`` says so.

    Args:
        model: ONNX file as bytes.
        threads: Threads to run on; None leaves it to ONNX Runtime.

    Raises:
        MissingPackageError: If onnxruntime or onnx is not installed.
        EngineBuildError: If ONNX Runtime cannot load the graph.
    """

    name = "onnxruntime-int8"
    capabilities = ONNXRUNTIME_INT8
    computes_in_float = False

    def __init__(self, model: bytes, *, threads: int | None = None) -> None:
        self._last: list[Array] | None = None
        super().__init__(model, threads=threads)

    def run(self, *inputs: Any) -> tuple[Array, ...]:
        """See ``OrtEngine.run``."""
        self._last = checked_inputs(self.name, inputs, self._shapes, self._dtypes)
        return self._infer(self._last)

    def layer_info(self) -> list[EngineLayer]:
        """Every node that is run, with the precision of its operator.

        Times are medians over profiled passes of the last inputs, those of what scales and adds behind a product among
        its own; None before the first ``run``.
        """
        times = {} if self._last is None else self._profiled(self._last)
        makers = {name: self._operation_of(node) for node in self._graph.node for name in node.output}
        reads: dict[str, dict[str, None]] = defaultdict(dict)
        for node in self._graph.node:
            own = self._operation_of(node)
            sources = (makers[name] for name in node.input if name in makers)
            reads[own] |= dict.fromkeys(source for source in sources if source != own)
        layers = []
        for node in self._graph.node:
            name = self._operation_of(node)
            if self._product_of(node.name) == node.name:
                time_s = times.get(node.name, 0.0) if times else None
                precision, change = self._precision_of(node), _CHANGES.get(node.op_type)
                layers.append(EngineLayer(name, (node.name,), precision, time_s, tuple(reads[name]), change))
        return layers

    def _prepared(self, graph: Any) -> Any:
        prepared, self._products = with_integer_products(graph)
        return prepared

    def _options(self, runtime: Any) -> Any:
        options = super()._options(runtime)
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # it would round biases
        return options

    def _precision_of(self, node: Any) -> str:
        return "int8" if node.op_type in _INTEGER else "fp32"

    def _operation_of(self, node: Any) -> str:
        """Name of the operation that a node belongs to."""
        return self._product_of(node.name) or str(node.output[0])

    def _product_of(self, name: str) -> str:
        """The product that a node finishes (cast, scale, bias), or the node itself."""
        stem = name.rpartition("/")[0]
        finishes = name.endswith(("/float", "/scaled", "/bias", "/biased")) and stem in self._products
        return stem if finishes else name

    def _profiled(self, arrays: list[Array]) -> dict[str, float]:
        """Median seconds of every node, by name."""
        runtime = need("onnxruntime", "onnx")
        seconds: dict[str, float] = defaultdict(float)
        with tempfile.TemporaryDirectory() as folder:
            options = self._options(runtime)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder, "profile"))
            session = runtime.InferenceSession(self._content, options, providers=["CPUExecutionProvider"])
            feeds = dict(zip(self._names, arrays, strict=True))
            session.run(None, feeds)  # the first pass allocates; its share is taken off by what follows
            for _ in range(_PROFILED_RUNS):
                session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        runs: dict[str, list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
                runs[event["name"].removesuffix(_KERNEL)].append(event["dur"] / 1e6)
        for name, durations in runs.items():
            seconds[self._product_of(name)] += statistics.median(durations[1:] or durations)
        return dict(seconds)


def describe_device() -> str:
    """What the products run on here.

    Raises:
        MissingPackageError: If onnxruntime is not installed.
    """
    need("onnxruntime", "onnx")
    return "ConvInteger and MatMulInteger on this CPU"
