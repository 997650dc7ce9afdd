"""Where the parameter is that the weight of a layer is made of."""

from __future__ import annotations

from torch import nn

from sensitivity.records import Layer


def parameter_place(model: nn.Module, layer: Layer) -> tuple[nn.Module, str]:
    """The module that owns the parameter that a layer's weight is made of, and the parameter's name there."""
    owner, _, name = (layer.parameter or f"{layer.module}.{layer.weight}").rpartition(".")
    return model.get_submodule(owner), name


def parameter_of(model: nn.Module, layer: Layer) -> nn.Parameter:
    """The parameter that a layer's weight is made of."""
    owner, name = parameter_place(model, layer)
    parameter = owner._parameters[name]
    assert parameter is not None
    return parameter
