"""What the activations of a layer look like: dead channels, clipped values, channels far larger than the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sensitivity.perturb.activations import Hooks, activation_hooks, observer
from sensitivity.quantize.calibration import Calibration, Point
from sensitivity.quantize.fake import fake_quantize
from sensitivity.quantize.scales import QuantParams, params_from_range
from sensitivity.records import Layer, QuantSpec, Recipe
from sensitivity.records.results.signals import CHANNEL_RATIO, CLIPPED_SHARE, DEAD_SHARE

LEAST_VALUES = 8
"""Values that a channel must have had before it can be called dead: a single one never varies."""

_ALL_PLACES = Recipe("all places", activations=QuantSpec(), placement="conv-norm-act")
_BEHIND = ("activation", "norm", "output")  # the last of a layer's tensors that can be seen


@dataclass
class _Extremes:
    """Smallest and largest value of each channel."""

    low: Tensor | None = None
    high: Tensor | None = None
    values: int = 0  # of each channel

    def take(self, x: Tensor, axis: int) -> None:
        """Look at a tensor whose channels lie along an axis."""
        other_axes = [other_axis for other_axis in range(x.dim()) if other_axis != axis % x.dim()]
        low, high = (x.amin(other_axes), x.amax(other_axes)) if other_axes else (x, x)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        self.values += x.numel() // max(1, x.shape[axis])

    @property
    def constant(self) -> Tensor:
        """Which channels have had one value alone."""
        assert self.low is not None
        assert self.high is not None
        return self.low == self.high

    @property
    def magnitudes(self) -> Tensor:
        """The largest magnitude of each channel."""
        assert self.low is not None
        assert self.high is not None
        return torch.maximum(-self.low, self.high)


@dataclass
class ChannelSignals:
    """Watches one layer.

    Args:
        layer: The layer.
        recipe: Whose quantizers' clipping is counted.
        calibration: Their ranges; None where the recipe quantizes no activations.
    """

    layer: Layer
    recipe: Recipe
    calibration: Calibration | None
    clipped: int = 0
    compared: int = 0
    _seen: dict[str, dict[int, _Extremes]] = field(default_factory=dict)

    def hooks(self, model: nn.Module) -> Hooks:
        """What to register: the layer's input, its output, and what is behind its norm and activation."""
        norm = self.layer.norm if self.layer.norm_module else None
        activation = self.layer.activation if self.layer.activation_module else None
        visible = replace(self.layer, norm=norm, activation=activation)
        return activation_hooks(model, visible, _ALL_PLACES, observer(self._take))

    def signals(self) -> Mapping[str, float]:
        """``dead_share``, ``clipped_share`` and ``channel_ratio``, as far as they are defined."""
        signals: dict[str, float] = {}
        behind: Iterable[_Extremes] = next((self._seen[place].values() for place in _BEHIND if place in self._seen), ())
        dead = [each.constant for each in behind if each.values >= LEAST_VALUES]
        if dead:
            signals[DEAD_SHARE] = float(torch.cat(dead).double().mean())
        if self.compared:
            signals[CLIPPED_SHARE] = self.clipped / self.compared
        ratio = self._ratio()
        return signals if ratio is None else signals | {CHANNEL_RATIO: ratio}

    def _take(self, place: str, call: int, x: Tensor) -> None:
        if not x.numel() or not x.dim():
            return
        axis = -1 if self.layer.conv_type == "Linear" or x.dim() == 1 else 1
        # calls of a joint projection may write different parts of it: those of one width are the same channels
        self._seen.setdefault(place, {}).setdefault(x.shape[axis], _Extremes()).take(x, axis)
        spec = self.recipe.activations
        limits = None if self.calibration is None else self.calibration.ranges.get(Point(self.layer.name, place, call))
        if spec is not None and limits is not None:
            shape = (-1,) if spec.granularity == "per-channel" else ()
            low, high = (torch.tensor(end, dtype=torch.float64).reshape(shape) for end in (limits.low, limits.high))
            self.clipped += _clipped(x, params_from_range(low, high, spec).to(x.device))
            self.compared += x.numel()

    def _ratio(self) -> float | None:
        """The largest magnitude of any input channel over the median channel's; channels of zeros do not count."""
        extremes = list(self._seen.get("input", {}).values())
        if not extremes:
            return None
        magnitudes = torch.cat([each.magnitudes for each in extremes]).double()
        magnitudes = magnitudes[magnitudes > 0]
        return float(magnitudes.max() / magnitudes.median()) if len(magnitudes) > 1 else None


def _clipped(x: Tensor, params: QuantParams) -> int:
    """How many values lie beyond the outermost values of the format, by more than half a step of an integer one."""
    slack = params.spread(params.scale, x.shape) * (0.5 if params.format.kind == "integer" else 1e-6)
    shape = list(x.shape) if params.axis is not None else [1] * x.dim()
    low, high = (fake_quantize(x.new_full(shape, end), params) for end in (-torch.inf, torch.inf))
    return int(((x > high + slack) | (x < low - slack)).sum())
