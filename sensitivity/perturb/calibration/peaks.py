"""The largest absolute values that layers read and write, whatever recipes quantize.

What a layer with a norm writes is looked at behind the norm: deployed, the two are one. An activation is not looked at,
since what reads it is. Each further tensor would cost a pass over it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.errors import RecipeError
from sensitivity.perturb.activations import Hooks, activation_hooks, observer
from sensitivity.quantize.calibration import Point
from sensitivity.records import Layer, QuantSpec, Recipe

_INPUTS = Recipe("inputs", activations=QuantSpec())


@dataclass
class PeakWatch:
    """Watches what layers read and write.

    Attributes:
        hooks: What is to be registered for the time of the passes.
    """

    hooks: Hooks = field(default_factory=Hooks)
    _peaks: dict[Point, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, layers: Sequence[Layer]) -> PeakWatch:
        """A watch of layers; of those that no hook can reach nothing is seen."""
        watch = cls()
        for layer in layers:
            watch._add(model, layer)
        return watch

    def _add(self, model: nn.Module, layer: Layer) -> None:
        def note(place: str, _: int, tensor: Tensor) -> None:
            if tensor.numel() and tensor.is_floating_point():
                low, high = torch.aminmax(tensor)
                peak, point = torch.maximum(-low, high), Point(layer.name, place, 0)
                self._peaks[point] = torch.maximum(self._peaks[point], peak) if point in self._peaks else peak

        look, norm = observer(note), layer.norm_module
        called_once = replace(layer, calls=1)  # the largest of all calls: they need not be counted
        try:
            own = activation_hooks(model, called_once, _INPUTS, look, outputs=norm is None)
        except RecipeError:
            return
        self.hooks.before += own.before
        self.hooks.after += own.after
        if norm is not None:
            self.hooks.after.append((model.get_submodule(norm), lambda _, __, output: _look_behind(look, output)))

    def peaks(self) -> dict[Point, float]:
        """The largest absolute values; points where the model itself makes infinities (masks) are absent."""
        values = {point: float(peak) for point, peak in self._peaks.items()}
        return {point: value for point, value in values.items() if math.isfinite(value)}


def _look_behind(look: Any, output: Any) -> None:
    if isinstance(output, Tensor):
        look("norm", 0, output)
