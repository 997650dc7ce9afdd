"""Which tools a scheme is handed over to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sensitivity.deploy.handover import (
    aimet_quantizers,
    modelopt_config,
    nncf_scope,
    ort_static,
    pt2e_quantizer,
    trt_onnx,
)
from sensitivity.deploy.handover.handed import Handover
from sensitivity.deploy.handover.placed import Placed, placed
from sensitivity.errors import RecipeError
from sensitivity.records import Layer, Scheme

TOOLS: dict[str, Callable[[Placed], Handover]] = {
    "nncf": nncf_scope.handed_over,
    "modelopt": modelopt_config.handed_over,
    "onnxruntime": ort_static.handed_over,
    "aimet": aimet_quantizers.handed_over,
    "pt2e": pt2e_quantizer.handed_over,
    "openvino": nncf_scope.handed_over_to_openvino,
    "tensorrt": trt_onnx.handed_over,
}


def hand_over(scheme: Scheme, tool: str, layers: Sequence[Layer]) -> Handover:
    """The scheme in the words of a tool; see ``Scheme.handover``.

    Raises:
        RecipeError: If the tool is not known or cannot do what the scheme says.
        LayerNotFoundError: If a rule selects no layer.
    """
    if tool not in TOOLS:
        raise RecipeError(
            f"tool={tool!r} is no tool that a scheme can be handed over to. Choose one of: {', '.join(TOOLS)}."
        )
    return TOOLS[tool](placed(scheme, layers, tool))
