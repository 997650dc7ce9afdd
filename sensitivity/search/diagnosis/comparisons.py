"""What one layer does to the model's outputs in other ways than a recipe on the model itself.

On the equalized copy, in half precision, and on an engine whose sums saturate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.layers.table import LayerTable
from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.perturb.half.half_precision import in_half_precision
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.records import Layer, Recipe, Scheme
from sensitivity.records.recipes.scheme import Rest
from sensitivity.search.noise import OutputNoise, Run
from sensitivity.sweep.signals.fidelity import Fidelity

HALF_RESTS: tuple[Rest, ...] = ("bf16", "fp16")
"""Tried in this order: bf16 has the range of float and overflows nowhere."""


@dataclass(frozen=True)
class EqualizedCopy:
    """The copy of a model whose channels are equalized, ready to be compared with itself in float.

    Attributes:
        model: The copy.
        layers: Its layers, named as the model's.
        perturber: Applies recipes to it, with ranges of its own.
        passes: Runs it on one batch each, and how many images that has.
        reasons: Layers of which some channels were left as they are, with the reason.
    """

    model: nn.Module
    layers: LayerTable
    perturber: Perturber
    passes: Sequence[tuple[Run, int]]
    reasons: Mapping[str, str]

    def of(self, layers: Sequence[Layer], recipe: Recipe) -> list[Fidelity | None]:
        """Signal and noise of the copy's outputs with each of these layers quantized alone; None where that fails.

        Args:
            layers: Layers of the model itself.
            recipe: What each gets.
        """
        noise = OutputNoise(self.model, self.perturber, self.passes)
        return noise.of([{self.layers[layer.name]: recipe} for layer in layers], replay=True)


@torch.no_grad()
def in_half(
    model: nn.Module, layers: LayerTable, passes: Sequence[tuple[Run, int]], layer: Layer, half: Rest
) -> Fidelity:
    """Signal and noise of the outputs with one layer, its norm and its activation in half precision.

    Args:
        model: The model; left as it was.
        layers: All of its layers.
        passes: Runs it on one batch each, and how many images that has.
        layer: The layer.
        half: ``bf16`` or ``fp16``.
    """
    inside = [path for path in (layer.module, layer.norm_module, layer.activation_module) if path is not None]
    fidelity = Fidelity()
    with untouched(model):
        for run, _ in passes:
            expected = [tensor.clone() for tensor in _floats(run())]
            with in_half_precision(model, layers, {}, half, within=inside):
                computed = _floats(run())
            for reference, output in zip(expected, computed, strict=True):
                fidelity.add(reference, output)
    return fidelity


@dataclass(frozen=True)
class OnEngine:
    """An engine of this machine, which computes otherwise than the simulation.

    Attributes:
        deploy: Runs a scheme on it.
        passes_of: Passes of a model over the images that are compared.
        model: The model in float.
    """

    deploy: Callable[[Scheme], Any]
    passes_of: Callable[[Any], Sequence[tuple[Run, int]]]
    model: nn.Module

    @torch.no_grad()
    def of(self, layer: Layer, recipe: Recipe) -> Fidelity:
        """Signal and noise of the engine's outputs with one layer quantized; the engine is built for it.

        Raises:
            ExportError: If that cannot be deployed.
            EngineError: If the engine cannot be built.
        """
        deployed = self.deploy(Scheme.only(layer.name, recipe))
        fidelity = Fidelity()
        with untouched(self.model):
            for (float_run, _), (run, _) in zip(self.passes_of(self.model), self.passes_of(deployed), strict=True):
                for reference, output in zip(_floats(float_run()), _floats(run()), strict=True):
                    fidelity.add(reference, output)
        return fidelity


def _floats(outputs: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_in(outputs) if tensor.is_floating_point()]
