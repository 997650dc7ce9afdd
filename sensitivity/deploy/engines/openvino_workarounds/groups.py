"""What OpenVINO computes wrongly on CPUs with AMX, written so that it computes it right: groups of few channels.

Codes whose zero point is not 0 need a correction for what a convolution pads. With AMX, oneDNN of OpenVINO 2026.4.1
takes that of other channels where a convolution has groups that read fewer than 32 channels and write more than 16, at
some sizes of the image (Visformer's 3x3 behind GELU); ``benchmarks/openvino_convolutions.py`` tries many. Without
padding, without groups and with the zero point 0 (behind ReLU) it is right. Two groups, or as many as it takes to read
32 channels, are therefore written as one, with zeros where one does not read what the other does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sensitivity.deploy.engines.openvino_workarounds.weights import (
    ConvolutionWeight,
    attribute_of,
    convolution_weights,
    forget_shape,
    group_count,
)

_ENOUGH_CHANNELS = 32
"""That a group reads; with so many all sizes that were tried are right."""
_MOST_WRITTEN = 16
"""Channels that a group writes and that are one block: with no more all that were tried are right."""
_MOST_OF_A_ROW = 48
"""Columns times channels: with no more all that were tried are right."""


def with_wide_groups(model: Any) -> int:
    """Write groups of few channels of quantized convolutions as fewer and larger ones, in place.

    Args:
        model: ``onnx.ModelProto``.

    Returns:
        How many weights were changed.
    """
    wrong = [weight for weight in convolution_weights(model.graph) if _is_corrected_wrongly(weight)]
    for weight in wrong:
        group = group_count(weight.convolutions[0])
        merged = _groups_in_one(group, weight.tensor.dims[1])
        weight.replace(_merged(weight, group, merged))
        for convolution in weight.convolutions:
            attribute_of(convolution, "group").i = group // merged
        forget_shape(model.graph, weight)
    return len(wrong)


def _is_corrected_wrongly(weight: ConvolutionWeight) -> bool:
    if not weight.in_int8 or not any(weight.input_zeros):
        return False
    groups = {group_count(convolution) for convolution in weight.convolutions}
    if len(groups) > 1 or not any(map(_pads, weight.convolutions)):
        return False
    group: int = groups.pop()
    reads: int = weight.tensor.dims[1]
    writes, width = weight.tensor.dims[0] // group, weight.tensor.dims[-1]
    return group > 1 and reads < _ENOUGH_CHANNELS and writes > _MOST_WRITTEN and reads * width > _MOST_OF_A_ROW


def _pads(convolution: Any) -> bool:
    pads, by_itself = attribute_of(convolution, "pads"), attribute_of(convolution, "auto_pad")
    return (pads is not None and any(pads.ints)) or (by_itself is not None and by_itself.s not in (b"NOTSET", b"VALID"))


def _groups_in_one(group: int, channels: int) -> int:
    """How many groups make one that reads enough channels, or all of them."""
    return next(
        count
        for count in range(1, group + 1)
        if group % count == 0 and (count * channels >= _ENOUGH_CHANNELS or count == group)
    )


def _merged(weight: ConvolutionWeight, group: int, merged: int) -> npt.NDArray[Any]:
    numbers = weight.numbers()
    channels, *kernel = numbers.shape[1:]
    wide = np.broadcast_to(weight.zero, (len(numbers), merged * channels, *kernel)).astype(numbers.dtype)
    written = len(numbers) // group
    for output in range(len(numbers)):
        place = output // written % merged
        wide[output, place * channels : (place + 1) * channels] = numbers[output]
    return wide
