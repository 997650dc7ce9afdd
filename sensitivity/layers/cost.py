"""Parameters, multiply-adds, activation elements and bytes of a layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sensitivity.layers.find import Site


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
