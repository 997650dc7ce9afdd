"""Parameters, multiply-adds, activation elements and bytes of a layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from sensitivity.layers.dataflow.sites import Site
from sensitivity.records import Layer, Recipe
from sensitivity.records.size import layer_bytes


@dataclass(frozen=True, slots=True)
class Cost:
    """What one layer costs in one forward pass of the example inputs.

    Attributes:
        parameters: Elements of weight and bias.
        weight_bytes: Bytes of the weight as stored.
        macs: Multiply-adds over all calls; half of what ``torch.utils.flop_counter`` calls flops.
        activation_elements: Elements written over all calls.
    """

    parameters: int
    weight_bytes: int
    macs: int
    activation_elements: int


def cost_of(site: Site, module: nn.Module) -> Cost:
    """The cost of a layer.

    Args:
        site: The layer as found.
        module: Its module in the caller's model.
    """
    weight = getattr(module, site.weight)
    bias = getattr(module, site.weight.replace("weight", "bias"), None) if "weight" in site.weight else None
    return Cost(
        parameters=weight.numel() + (bias.numel() if bias is not None else 0),
        weight_bytes=weight.numel() * weight.element_size(),
        macs=sum(call.macs for call in site.calls),
        activation_elements=sum(call.elements for call in site.calls),
    )


def scheme_bytes(
    layers: Iterable[Layer],
    recipes: Mapping[str, Recipe],
    *,
    element_bytes: int | None = None,
    biases_too: bool = False,
) -> int:
    """Bytes of all weights and biases when some layers are quantized; see ``records.size.layer_bytes``.

    Args:
        layers: All layers of the model.
        recipes: What each quantized layer gets, by name.
        element_bytes: Bytes of an element that is not quantized; None takes those of each weight as stored.
        biases_too: Count the biases of quantized layers in the recipe's bits as well.
    """
    return sum(
        layer_bytes(layer, recipes.get(layer.name), element_bytes=element_bytes, biases_too=biases_too)
        for layer in layers
    )
