"""NVIDIA ModelOpt: the configuration of ``modelopt.torch.quantization.quantize``, one entry a layer."""

from __future__ import annotations

from typing import Any

from sensitivity.deploy.handover.handed import Handover
from sensitivity.deploy.handover.module_quantizers import check_is_module
from sensitivity.deploy.handover.placed import Placed
from sensitivity.errors import RecipeError
from sensitivity.records import Layer, QuantSpec, Recipe

TOOL = "ModelOpt"
_BITS: dict[str, int | tuple[int, int]] = {"int8": 8, "int4": 4, "fp8_e4m3": (4, 3)}
_CODE = """\
import modelopt.torch.quantization as mtq

quantized = mtq.quantize(model, settings, lambda model: [model(batch) for batch in batches])"""


def handed_over(placed: Placed) -> Handover:
    """The scheme as a list of quantizers, all disabled but those of the layers that it quantizes.

    Raises:
        RecipeError: If ModelOpt cannot do what a recipe says, or the scheme quantizes nothing.
    """
    if not placed.quantized:
        raise RecipeError(f"the scheme quantizes no layer: there is nothing to hand over to {TOOL}.")
    entries = [entry for layer in placed.quantized for entry in _entries(layer, placed.recipes[layer.name])]
    return Handover.of(
        placed,
        "modelopt",
        {"quant_cfg": [{"quantizer_name": "*", "enable": False}, *entries], "algorithm": "max"},
        _CODE,
        ("ModelOpt calibrates by itself: the ranges are not those of this library's calibration.",),
    )


def _entries(layer: Layer, recipe: Recipe) -> list[dict[str, Any]]:
    check_is_module(layer, TOOL)
    parts = {"weight": recipe.weights, "input": recipe.activations}
    return [
        {"quantizer_name": f"{layer.module}.{part}_quantizer", "enable": True, "cfg": _quantizer(spec, recipe, layer)}
        for part, spec in parts.items()
        if spec is not None
    ]


def _quantizer(spec: QuantSpec, recipe: Recipe, layer: Layer) -> dict[str, Any]:
    if spec.format not in _BITS or not spec.symmetric or spec.granularity == "per-group":
        raise RecipeError(
            f"recipe {recipe.name!r} has {spec!r}, and {TOOL} is handed {', '.join(_BITS)}, symmetric, one scale a "
            "tensor or a channel. Nearest: sv.INT8, sv.FP8 or sv.INT4_WEIGHTS."
        )
    if spec is recipe.activations and spec.granularity != "per-tensor":
        raise RecipeError(
            f"recipe {recipe.name!r} has {spec!r} for activations, and {TOOL} is handed one scale a tensor there. "
            "Nearest: granularity='per-tensor'."
        )
    bits = _BITS[spec.format]
    channel_axis = spec.axis if spec.axis is not None else layer.output_axis
    axis = channel_axis if spec.granularity == "per-channel" else None
    return {"num_bits": list(bits) if isinstance(bits, tuple) else bits, "axis": axis}
