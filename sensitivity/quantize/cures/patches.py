"""The patches of an input that a layer multiplies its filters by: one for each position of its output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

_PLAIN_FORWARDS = {
    kind.forward
    for kind in (
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear),
    )
}


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a layer slides over its input.

    Attributes:
        groups: Groups of channels.
        kernel: Sides of the kernel; empty for a linear layer.
        stride: Steps between positions; of a transposed convolution, the spacing that the input is spread to.
        dilation: Steps between taps.
        padding: Elements added at both ends of each axis, before and behind.
        padding_mode: How they are filled, in the words of ``torch.nn.functional.pad``.
        transposed: Whether it is a transposed convolution.
    """

    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    padding_mode: str = "constant"
    transposed: bool = False


def geometry_of(module: nn.Module) -> Geometry | None:
    """How a module of torch slides over its input; None for a module that computes in a way of its own."""
    if type(module).forward not in _PLAIN_FORWARDS:
        return None
    if not isinstance(module, _ConvNd):
        return Geometry()
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return Geometry(
        module.groups,
        module.kernel_size,
        module.stride,
        module.dilation,
        tuple(_padding_of(module)),
        mode,
        isinstance(module, _ConvTransposeNd),
    )


def _padding_of(module: _ConvNd) -> Iterator[tuple[int, int]]:
    for axis, (side, step) in enumerate(zip(module.kernel_size, module.dilation, strict=True)):
        reach = step * (side - 1)
        if isinstance(module, _ConvTransposeNd):
            missing = reach - int(module.padding[axis])
            yield missing, missing + int(module.output_padding[axis])
        elif isinstance(module.padding, str):
            before = reach // 2 if module.padding == "same" else 0
            yield before, reach - before if module.padding == "same" else 0
        else:
            yield int(module.padding[axis]), int(module.padding[axis])


def single_images(x: Tensor, geometry: Geometry) -> Iterator[Tensor]:
    """The input of a layer image by image: (C, spatial) each, for a linear layer (C, positions)."""
    if not geometry.kernel:
        for image in x if x.dim() > 1 else x[None]:
            yield image.reshape(-1, x.shape[-1]).T
        return
    yield from x if x.dim() > len(geometry.kernel) + 1 else x[None]


class Patches:
    """The patches of one image.

    Args:
        image: (C, spatial) float, one of ``single_images``.
        geometry: How the layer slides.
    """

    def __init__(self, image: Tensor, geometry: Geometry) -> None:
        self._geometry = geometry
        self._spread = _padded(image, geometry) if geometry.kernel else image
        self._strides = (1,) * len(geometry.kernel) if geometry.transposed else geometry.stride
        spatial = self._spread.shape[1:]
        if geometry.kernel:
            reaches = [step * (side - 1) for step, side in zip(geometry.dilation, geometry.kernel, strict=True)]
            steps = zip(spatial, reaches, self._strides, strict=True)
            self.shape = tuple((size - reach - 1) // stride + 1 for size, reach, stride in steps)
        else:
            self.shape = tuple(spatial)

    @property
    def positions(self) -> int:
        """How many there are."""
        return prod(self.shape)

    def total(self) -> Tensor:
        """Their sum, float64 (G, K)."""
        axes = tuple(range(1, 1 + len(self.shape)))
        return self._by_group([tap.sum(axes, dtype=torch.float64)[:, None] for tap in self._taps(1, 0)])[..., 0]

    def sample(self, most: int, shift: int) -> Tensor:
        """About ``most`` of them, on a regular grid, (G, K, positions).

        Args:
            most: Roughly how many.
            shift: Moves the grid; any whole number.
        """
        step = self._step(most)
        return self._by_group([tap.flatten(1) for tap in self._taps(step, shift)])

    def _step(self, most: int) -> int:
        step = 1
        while prod(-(-size // step) for size in self.shape) > most:
            step += 1
        return step

    def _taps(self, step: int, shift: int) -> Iterator[Tensor]:
        """What each tap of the kernel reads at every ``step``-th position, (C, positions)."""
        geometry = self._geometry
        if not geometry.kernel:
            yield self._spread[:, shift % min(step, max(1, self.shape[0])) :: step]
            return
        for tap in product(*map(range, geometry.kernel)):
            slices: list[slice] = []
            for axis, place in enumerate(tap):
                side, stride = geometry.kernel[axis], self._strides[axis]
                first = geometry.dilation[axis] * (side - 1 - place if geometry.transposed else place)
                start = first + stride * (shift % min(step, self.shape[axis]))
                slices.append(slice(start, first + stride * (self.shape[axis] - 1) + 1, stride * step))
            yield self._spread[(slice(None), *slices)]

    def _by_group(self, taps: list[Tensor]) -> Tensor:
        """(C, P) for each tap as (G, C / G * taps, P), in the order of a filter's weights."""
        together = torch.stack(taps, 1)
        groups, positions = self._geometry.groups, together.shape[2]
        return together.reshape(groups, -1, positions)


def _padded(image: Tensor, geometry: Geometry) -> Tensor:
    if geometry.transposed:
        image = _spread(image, geometry.stride)
    amounts = [amount for pair in reversed(geometry.padding) for amount in pair]
    if not any(amounts):
        return image
    return F.pad(image[None], amounts, mode=geometry.padding_mode)[0]


def _spread(image: Tensor, spacing: tuple[int, ...]) -> Tensor:
    """The image with zeros between its elements."""
    sizes = [(size - 1) * step + 1 for size, step in zip(image.shape[1:], spacing, strict=True)]
    spread = image.new_zeros((image.shape[0], *sizes))
    spread[(slice(None), *(slice(None, None, step) for step in spacing))] = image
    return spread


def filters_of(weight: Tensor, geometry: Geometry) -> Tensor:
    """A weight with its filters in rows, (G, filters of a group, K)."""
    groups = geometry.groups
    if not geometry.transposed:
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    inputs, outputs = weight.shape[:2]
    return weight.reshape(groups, inputs // groups, outputs, -1).transpose(1, 2).reshape(groups, outputs, -1)


def weight_of(filters: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
    """The weight that ``filters_of`` was given, of this shape."""
    if not geometry.transposed:
        return filters.reshape(shape)
    inputs, outputs = shape[:2]
    return filters.reshape(geometry.groups, outputs, inputs // geometry.groups, -1).transpose(1, 2).reshape(shape)
