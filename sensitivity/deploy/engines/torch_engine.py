"""The simulation behind the same contract as the engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sensitivity.contracts import Engine, EngineLayer
from sensitivity.deploy.engines.capabilities import SIMULATION
from sensitivity.deploy.engines.inputs import Array, checked_inputs, median_time_s
from sensitivity.deploy.graph.export.parts import Part
from sensitivity.deploy.graph.nodes import node_name
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.deploy.prepare.signature import tensors_of_nest


class TorchEngine(Engine):
    """Runs the folded copy with its layers fake-quantized in PyTorch.

    Args:
        plan: What is quantized.
        part: The submodule to run; its graph is not used.
    """

    name = "torch"
    version = torch.__version__
    computes_in_float = True
    is_simulation = True
    capabilities = SIMULATION

    def __init__(self, plan: Plan, part: Part) -> None:
        self._plan = plan
        self._part = part
        self._module = plan.model.get_submodule(part.path)
        self._dtypes = [np.dtype(str(dtype).removeprefix("torch.")) for dtype in part.signature.inputs.dtypes]

    def run(self, *inputs: Any) -> tuple[Array, ...]:
        """All outputs of the part, in the order of its graph.

        Args:
            inputs: One array for each input of the graph, in its order.

        Raises:
            EngineError: If the number, a shape or a dtype of the inputs is not what the part was exported with.
        """
        return self._infer(self._checked(inputs))

    def layer_info(self) -> list[EngineLayer]:
        """Every layer of the part: all compute in float on quantized values. Times are None."""
        prefix = f"{self._part.path}." if self._part.path else ""
        return [
            EngineLayer(node_name(layer, call), (node_name(layer, call),), "fp32")
            for layer in self._plan.layers
            if layer.module.startswith(prefix) or layer.module == self._part.path
            for call in range(layer.calls)
        ]

    def latency_s(self, *inputs: Any, repeats: int = 20) -> float:
        """Median time of one run in seconds, after a warm-up.

        Raises:
            EngineError: If the inputs do not fit, or repeats is not positive.
        """
        arrays = self._checked(inputs)
        return median_time_s(lambda: self._infer(arrays), repeats)

    def _checked(self, inputs: tuple[Any, ...]) -> list[Array]:
        return checked_inputs(self.name, inputs, self._part.signature.inputs.shapes, self._dtypes)

    def _infer(self, arrays: list[Array]) -> tuple[Array, ...]:
        args, kwargs = self._part.signature.inputs.filled([torch.from_numpy(array.copy()) for array in arrays])
        with self._plan.simulated():
            tensors = tensors_of_nest(self._module(*args, **kwargs))
        return tuple(tensor.numpy().copy() for tensor in tensors)
