"""ONNX Runtime: arguments of ``onnxruntime.quantization.quantize_static``."""

from __future__ import annotations

from typing import Any

from sensitivity.deploy.graph.nodes import node_name
from sensitivity.deploy.handover.handed import Handover
from sensitivity.deploy.handover.placed import Placed, int8_specs
from sensitivity.records import Layer

TOOL = "ONNX Runtime"
_OPERATORS = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
_TYPES = {"int8": "QInt8", "uint8": "QUInt8"}
_CODE = """\
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

quantize_static(
    float_onnx,  # the graph that wrapped.deploy(sv.Scheme(), "onnxruntime").save(folder) writes
    int8_onnx,
    calibration_data_reader,  # yields {input name: array}
    quant_format=QuantFormat.QDQ,
    weight_type=QuantType[settings["weight_type"]],
    activation_type=QuantType[settings["activation_type"]],
    per_channel=settings["per_channel"],
    nodes_to_quantize=settings["nodes_to_quantize"],
    nodes_to_exclude=settings["nodes_to_exclude"],
    op_types_to_quantize=settings["op_types_to_quantize"],
    extra_options=settings["extra_options"],
)"""


def handed_over(placed: Placed) -> Handover:
    """The scheme as settings of static quantization."""
    weights, activations = int8_specs(placed.only_recipe(TOOL), TOOL)
    settings = {
        "weight_type": _TYPES[weights.format],
        "activation_type": _TYPES[activations.format],
        "per_channel": weights.granularity == "per-channel",
        "nodes_to_quantize": _nodes(placed.quantized),
        "nodes_to_exclude": _nodes(placed.protected),
        "op_types_to_quantize": list(_OPERATORS),
        "extra_options": _options(weights.symmetric, activations.symmetric),
    }
    return Handover.of(
        placed,
        "onnxruntime",
        settings,
        _CODE,
        (
            "The names are those of the nodes in a graph that wrapped.deploy wrote; another export names them "
            "otherwise.",
            "ONNX Runtime calibrates by itself: the ranges are not those of this library's calibration.",
        ),
    )


def _nodes(layers: tuple[Layer, ...]) -> list[str]:
    return [node_name(layer, call) for layer in layers for call in range(layer.calls)]


def _options(weights: bool, activations: bool) -> dict[str, Any]:
    return {
        "WeightSymmetric": weights,
        "ActivationSymmetric": activations,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": list(_OPERATORS),
    }
