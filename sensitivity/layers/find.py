"""From a model and example inputs to its layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sensitivity.errors import ModelError
from sensitivity.layers.cost import cost_of
from sensitivity.layers.dataflow.sites import Site, find_sites
from sensitivity.layers.names import NamingScheme, name_layers
from sensitivity.layers.structure.roles import Structure, structure_of
from sensitivity.layers.table import LayerTable
from sensitivity.layers.trace.tracing import trace
from sensitivity.records import Layer

ATTENTION_ROLES = frozenset({"qkv", "proj", "scale-depthwise", "scale-pointwise"})


def find_layers(
    model: nn.Module, example_inputs: Any, *, name: str | None = None, naming: NamingScheme | None = None
) -> LayerTable:
    """Every layer of a model, in execution order.

    Args:
        model: Any module; it is not run and not changed (a copy is).
        example_inputs: A tensor or tuple (positional arguments) or a dict (keyword arguments).
        name: Name of the model in tables and patterns; by default its ``name`` attribute or its class.
        naming: A naming scheme of the user's own.

    Returns:
        The layers, and the modules that are none with the reason.

    Raises:
        TracingError: If the model fails with these inputs.
        ModelError: If it has no convolution or linear layer at all.
    """
    _check_eager(model)
    tape = trace(model, example_inputs)
    sites, skipped, flow = find_sites(tape)
    if not sites:
        reasons = "; ".join(f"{module.module}: {module.reason}" for module in skipped[:3]) or "it has no such module"
        raise ModelError(f"no convolution or linear layer ran in {type(model).__name__}: {reasons}.")
    names = name_layers([site.module for site in sites], naming)
    structures = structure_of(tape, flow, sites)
    layers = [
        _layer(order, layer_name, site, structure, model)
        for order, (layer_name, site, structure) in enumerate(zip(names, sites, structures, strict=True))
    ]
    return LayerTable(_whole_blocks(layers), model=name or _model_name(model), skipped=skipped)


def _check_eager(model: nn.Module) -> None:
    """Nothing, if Python runs every module of the model.

    Raises:
        ModelError: If one is compiled: hooks on its layers would be skipped, or not be seen at all.
    """
    for path, module in model.named_modules():
        place = f"its module {path!r}" if path else "it"
        if hasattr(module, "_orig_mod") and type(module).__name__ == "OptimizedModule":
            advice = "Wrap the module that was given to torch.compile (the attribute _orig_mod of the result)"
        elif getattr(module, "_compiled_call_impl", None) is not None:
            advice = "Wrap it before calling its method compile(), or wrap a copy that is not compiled"
        elif hasattr(getattr(module, "forward", None), "_torchdynamo_orig_callable"):
            advice = "Leave torch.compile away from its forward, and compile the model behind the measurements"
        elif module is model and isinstance(module, torch.jit.ScriptModule):
            advice = "Wrap the module that was given to torch.jit, before it was scripted or traced"
        else:
            continue
        raise ModelError(
            f"{type(model).__name__} cannot be wrapped: {place} is compiled, and compiled code does not run the hooks "
            f"that quantize a layer. {advice}."
        )


def _model_name(model: nn.Module) -> str:
    own = getattr(model, "name", None)
    return own if isinstance(own, str) and own else type(model).__name__


def _layer(order: int, name: str, site: Site, structure: Structure, model: nn.Module) -> Layer:
    cost = cost_of(site, model.get_submodule(site.module))
    return Layer(
        name=name,
        module=site.module,
        kind=structure.kind,
        role=structure.role,
        flags=structure.flags,
        norm=site.norm,
        activation=site.activation,
        calls=len(site.calls),
        order=order,
        conv_type=site.conv_type,
        kernel_size=site.kernel_size,
        stride=site.stride,
        groups=site.groups,
        in_channels=site.in_channels,
        out_channels=site.out_channels,
        parameters=cost.parameters,
        weight_bytes=cost.weight_bytes,
        macs=cost.macs,
        activation_elements=cost.activation_elements,
        weight=site.weight,
        norm_module=site.norm_module,
        activation_module=site.activation_module,
        parameter=site.parameter,
        output_axis=site.output_axis,
        runs_in=site.runs_in,
        norm_folds=site.folds,
    )


def _whole_blocks(layers: list[Layer]) -> list[Layer]:
    """A named block that holds attention is an attention block as a whole; plain layers of a neck play its role."""
    attending = {(layer.stage, layer.block) for layer in layers if layer.role in ATTENTION_ROLES}
    whole = []
    for layer in layers:
        if (layer.stage, layer.block) in attending:
            layer = replace(layer, kind="att")
        elif layer.kind == "independent" and {"neck", "fpn"} & set(layer.module.lower().split(".")):
            layer = replace(layer, role="neck")
        whole.append(layer)
    return whole
