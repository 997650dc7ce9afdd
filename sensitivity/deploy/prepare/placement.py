"""What can be deployed: recipes that Q/DQ can say, and layers that an engine runs, and runs well, in int8."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sensitivity.contracts import EngineCapabilities
from sensitivity.errors import ExportError
from sensitivity.layers.table import LayerTable
from sensitivity.records import Layer, Recipe
from sensitivity.records.recipes.formats import NumberFormat, find_format, formats

ACTIVATION_BITS = 8
LEAST_CHANNELS = 16
"""TensorRT's int8 kernels read and write channels in groups: with fewer, int8 costs more than it gains."""

CHANNEL_MULTIPLE = 8
LEAST_GROUPED_SIDE = 3


@dataclass(frozen=True, slots=True)
class Target:
    """What a plan is made for.

    Attributes:
        name: Name of an engine, or ``any``.
        capabilities: What it can run.
        refuses_layer: Why the engine should not run a layer in int8, or None if it should; None asks nothing.
    """

    name: str = "any"
    capabilities: EngineCapabilities = field(default_factory=EngineCapabilities)
    refuses_layer: Callable[[Layer], str | None] | None = None


ANY_ENGINE = Target(capabilities=EngineCapabilities(depthwise_channel_activations=True))


def check_deployable(recipes: Mapping[str, Recipe], layers: LayerTable, target: Target = ANY_ENGINE) -> None:
    """Nothing, if Q/DQ can express the recipe of every layer for a target.

    Args:
        recipes: What each layer gets, by its name.
        layers: The layers.
        target: What it is for.

    Raises:
        ExportError: If one cannot be expressed.
    """
    for name, recipe in recipes.items():
        if reason := refusal(recipe, target) or refuses_channels(recipe, layers[name]):
            raise ExportError(f"recipe {recipe.name!r} of {name} cannot be deployed: {reason}")


def refusal(recipe: Recipe, target: Target = ANY_ENGINE) -> str | None:
    """Why a recipe cannot be expressed as Q/DQ for a target, and what to do instead; None if it can."""
    if recipe.placement != "deploy":
        return (
            f"placement {recipe.placement!r} puts quantizers where no engine has them. Use placement 'deploy': "
            "sv.INT8, or Recipe(..., placement='deploy')."
        )
    return _refuses_weights(recipe, target) or _refuses_activations(recipe, target)


def refuses_channels(recipe: Recipe, layer: Layer) -> str | None:
    """Why a layer's input cannot have a scale for each channel; None if it can, or has none."""
    if recipe.activations is None or recipe.activations.granularity == "per-tensor":
        return None
    reads_alone = layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels
    if reads_alone and layer.conv_type == "Conv2d" and layer.runs_in is None:
        return None
    return (
        "activations must be quantized per tensor where a layer sums over channels. Give a scale for each channel to "
        "depthwise convolutions only: scheme.quantize('@depthwise', recipe)."
    )


def _refuses_weights(recipe: Recipe, target: Target) -> str | None:
    weights, able = recipe.weights, target.capabilities
    if weights is None:
        return None
    runs = able.weight_formats
    if not _is_weight_format(find_format(weights.format)) or weights.format not in (runs or [weights.format]):
        return f"weights in {weights.format} are not supported. Choose one of {_names(_is_weight_format, runs)}."
    if not weights.symmetric or weights.granularity not in able.weight_granularities:
        return "weights must be symmetric, per channel or per tensor: engines have no other."
    if weights.axis is not None:
        return "weights must be scaled along their output channels (axis=None): engines have no other."
    return None


def _refuses_activations(recipe: Recipe, target: Target) -> str | None:
    activations, able = recipe.activations, target.capabilities
    if activations is None:
        return None
    runs, number_format = able.activation_formats, find_format(activations.format)
    if not _is_activation_format(number_format):
        return (
            f"activations in {activations.format} need a Clip between Q and DQ, which no engine fuses. "
            f"Choose one of {_names(_is_activation_format, runs)}."
        )
    if activations.granularity == "per-channel" and activations.axis in (None, 1):
        if not able.depthwise_channel_activations:
            return f"activations must be quantized per tensor: {target.name} has no other."
    elif activations.granularity != "per-tensor":
        return "activations must be quantized per tensor, or per channel in front of depthwise convolutions."
    is_affine = not (activations.symmetric and number_format.is_signed)
    if activations.format not in (runs or [activations.format]) or (is_affine and not able.affine_activations):
        symmetric, zero_point = ("", "") if able.affine_activations else ("symmetric ", " with zero point 0")
        names = _names(_is_activation_format, runs)
        return f"{target.name} knows {symmetric}{names}{zero_point} only for activations. Use sv.INT8."
    return None


def _is_weight_format(number_format: NumberFormat) -> bool:
    """Weights are written as int8 codes, which every signed integer format of up to 8 bits fits."""
    return number_format.kind == "integer" and number_format.is_signed and number_format.dtype == "int8"


def _is_activation_format(number_format: NumberFormat) -> bool:
    """QuantizeLinear saturates at the ends of int8 or uint8 and nowhere else."""
    return number_format.fills_its_type and number_format.bits == ACTIVATION_BITS


def _names(can_be_deployed: Callable[[NumberFormat], bool], runs: Sequence[str] | None) -> str:
    names = [number_format.name for number_format in formats() if can_be_deployed(number_format)]
    return ", ".join(name for name in names if runs is None or name in runs)


def openvino_refuses(layer: Layer) -> str | None:
    """Why OpenVINO does not run a layer in int8; None if it does: tried with 2026.4.1, with and without VNNI."""
    if layer.conv_type.startswith("ConvTranspose") and layer.groups > 1:
        return "OpenVINO runs grouped transposed convolutions in float, whatever the graph says"
    return None


def ort_int8_refuses(layer: Layer) -> str | None:
    """Why ONNX Runtime's integer operators cannot run a layer; None if they can."""
    if layer.conv_type.startswith("ConvTranspose"):
        return "ONNX has no operator for transposed convolutions of integers"
    return None


def tensorrt_refuses(layer: Layer) -> str | None:
    """Why TensorRT should not run a layer in int8; None if it should.

    A convolution with fewer than 16 channels on a side keeps int8 where it is dense with a kernel of equal sides, one
    of its channel counts is a multiple of 8, and it reads the image or has 16 channels on the other side; or where it
    is grouped, writes a multiple of 8 channels, and every side of its kernel is at least 3.

    Source: NVIDIA TensorRT Model Optimizer, the rule it excludes convolutions by when it inserts Q/DQ in int8.
    """
    if not layer.conv_type.startswith("Conv") or layer.conv_type.startswith("ConvTranspose"):
        return None
    written, read = layer.out_channels, layer.in_channels // layer.groups
    if min(written, read) >= LEAST_CHANNELS:
        return None
    if layer.groups > 1:
        return _refuses_grouped(layer)
    multiple = written % CHANNEL_MULTIPLE == 0 or read % CHANNEL_MULTIPLE == 0
    wide = layer.order == 0 or max(written, read) >= LEAST_CHANNELS
    if multiple and wide and len(set(layer.kernel_size)) == 1:
        return None
    return f"too few channels for int8 in TensorRT ({read} read, {written} written; {LEAST_CHANNELS} are needed)"


def _refuses_grouped(layer: Layer) -> str | None:
    if layer.out_channels % CHANNEL_MULTIPLE != 0:
        return f"grouped, and {layer.out_channels} output channels are no multiple of {CHANNEL_MULTIPLE}"
    if min(layer.kernel_size) < LEAST_GROUPED_SIDE:
        return f"grouped, with a kernel of side {min(layer.kernel_size)}: TensorRT needs {LEAST_GROUPED_SIDE} for int8"
    return None
