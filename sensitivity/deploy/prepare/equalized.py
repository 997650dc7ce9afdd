"""A folded copy of a model whose channels are scaled alike: it computes the same, and is quantized with less error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sensitivity.deploy.prepare.basis import Basis, make_basis
from sensitivity.errors import ExportError
from sensitivity.layers.structure.channels import Channels, LayerChannels, find_channels
from sensitivity.layers.table import LayerTable
from sensitivity.layers.trace.inputs import copied, tensors_in
from sensitivity.layers.trace.tracing import trace
from sensitivity.perturb.cures import incurable
from sensitivity.perturb.restore import untouched
from sensitivity.quantize.cures.equalize import Sizes, equalizing_scales
from sensitivity.quantize.cures.patches import Geometry, filters_of, geometry_of, weight_of

LARGEST_ERROR = 1e-4
"""Largest error of an output, as a share of the largest value of that output, that rounding explains."""


@dataclass(frozen=True, eq=False)
class Equalized:
    """A copy of a model with its channels equalized.

    Attributes:
        model: The copy.
        layers: Its layers.
        reasons: Layers of which some channels that they read were left as they are, with the reason.
        scaled: How many channels have another scale than in the model.
    """

    model: nn.Module
    layers: LayerTable
    reasons: Mapping[str, str]
    scaled: int = 0


@torch.no_grad()
def equalized_copy(model: nn.Module, layers: LayerTable, example_inputs: Any) -> Equalized:
    """Fold the batch norms of a copy and equalize its channels.

    Args:
        model: Any module; not changed.
        layers: Its layers.
        example_inputs: What it accepts.

    Raises:
        ExportError: If the model cannot be copied, or the equalized copy computes something else.
        TracingError: If it fails with these inputs.
    """
    basis = make_basis(model, layers, example_inputs)
    tape = trace(basis.model, dict(basis.kwargs) or basis.args)
    channels = find_channels(tape, _scalable(basis))
    expected = _outputs(basis)
    scaled = _scale(basis.model, channels)
    _check_equal(basis, expected)
    return Equalized(basis.model, basis.layers, _reasons(basis.layers, channels), scaled)


def _scalable(basis: Basis) -> list[str]:
    """Paths of the modules whose weight and bias may be scaled."""
    norms = [
        path
        for path, module in basis.model.named_modules()
        if type(module) in {nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d}
    ]
    return [*norms, *(layer.module for layer in basis.layers if incurable(basis.model, layer) is None)]


def _outputs(basis: Basis) -> list[Tensor]:
    with untouched(basis.model):
        outputs = basis.model(*copied(basis.args), **copied(basis.kwargs))
        return [tensor.clone() for tensor in tensors_in(outputs)]


def _check_equal(basis: Basis, expected: list[Tensor]) -> None:
    for was, now in zip(expected, _outputs(basis), strict=True):
        if not was.is_floating_point() or not was.numel():
            continue
        error = float((was - now).abs().max() / was.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
        if not error <= LARGEST_ERROR:
            raise ExportError(
                f"the equalized copy of {type(basis.model).__name__} computes something else: an output is off by "
                f"{error:.1e} of its largest value. Use wrapped.folded(), which changes no channel."
            )


def _scale(model: nn.Module, channels: Channels) -> int:
    """Scale the channels, and tell how many."""
    known = [numbers for layer in channels.layers for numbers in (layer.written, layer.read) if numbers is not None]
    count = 1 + max((*channels.reasons, *(int(numbers.max()) for numbers in known)), default=0)
    fixed = torch.zeros(count, dtype=torch.bool)
    fixed[list(channels.reasons)] = True
    scales = equalizing_scales([_sizes(model, layer) for layer in channels.layers], fixed)
    for layer in channels.layers:
        _apply(model, layer, scales)
    return int((scales != 1.0).sum())


def _sizes(model: nn.Module, layer: LayerChannels) -> Sizes:
    module = model.get_submodule(layer.module)
    weight, written = _parameter(module, "weight").double().cpu(), torch.from_numpy(layer.written)
    if layer.read is None:
        return Sizes(weight.abs().reshape(-1, 1), written, None)
    geometry = _geometry(module)
    filters = filters_of(weight, geometry)  # (G, out / G, in / G * taps)
    taps = prod(geometry.kernel)
    blocks = filters.reshape(*filters.shape[:2], -1, taps).abs().amax(3)
    size: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return Sizes(size, written, torch.from_numpy(layer.read))


def _apply(model: nn.Module, layer: LayerChannels, scales: Tensor) -> None:
    module = model.get_submodule(layer.module)
    weight, written = _parameter(module, "weight"), scales[torch.from_numpy(layer.written)].to(_device(module))
    if layer.read is None:
        scaled = weight.double() / written.reshape(weight.shape)
    else:
        geometry, read = _geometry(module), scales[torch.from_numpy(layer.read)].to(weight.device)
        filters, groups = filters_of(weight.double(), geometry), geometry.groups
        columns = read.reshape(groups, 1, -1).repeat_interleave(prod(geometry.kernel), 2)
        scaled = weight_of(filters * columns / written.reshape(groups, -1, 1), weight.shape, geometry)
    module._parameters["weight"] = nn.Parameter(scaled.to(weight.dtype), requires_grad=False)
    bias = module._parameters.get("bias")
    if bias is not None:
        divided = (bias.double() / written.reshape(bias.shape)).to(bias.dtype)
        module._parameters["bias"] = nn.Parameter(divided, requires_grad=False)


def _geometry(module: nn.Module) -> Geometry:
    geometry = geometry_of(module)
    assert geometry is not None
    assert isinstance(module, (_ConvNd, nn.Linear))
    return geometry


def _parameter(module: nn.Module, name: str) -> Tensor:
    parameter = module._parameters[name]
    assert parameter is not None
    return parameter.detach()


def _device(module: nn.Module) -> torch.device:
    return _parameter(module, "weight").device


def _reasons(layers: LayerTable, channels: Channels) -> dict[str, str]:
    """Why channels that a layer reads were left as they are, by layer name."""
    by_module = {layer.module: layer for layer in channels.layers if layer.read is not None}
    reasons: dict[str, str] = {}
    for layer in layers:
        own = by_module.get(layer.module)
        if own is None or own.read is None:
            reasons[layer.name] = "its weight cannot be scaled"
            continue
        causes = list(
            dict.fromkeys(channels.reasons[channel] for channel in own.read.tolist() if channel in channels.reasons)
        )
        if causes:
            blocked = sum(channel in channels.reasons for channel in own.read.tolist())
            reasons[layer.name] = f"{blocked} of {len(own.read)} channels that it reads are left: {'; '.join(causes)}"
    return reasons
