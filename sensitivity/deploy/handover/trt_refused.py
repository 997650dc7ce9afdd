"""TensorRT has no settings that say which layer is quantized: the graph says it."""

from __future__ import annotations

from sensitivity.deploy.handover.handed import Handover
from sensitivity.deploy.handover.placed import Placed
from sensitivity.errors import RecipeError


def handed_over(placed: Placed) -> Handover:
    """Refused.

    Raises:
        RecipeError: Always.
    """
    raise RecipeError(
        f"TensorRT takes no scheme of {len(placed.quantized)} quantized layers as settings: a strongly typed network "
        "reads it from Q/DQ nodes. Deploy ONNX with Q/DQ instead: wrapped.deploy(scheme, 'tensorrt'), or "
        "wrapped.deploy(scheme, 'onnxruntime').save(folder) and build an engine of the ONNX file."
    )
