"""A model that is quantized already, by a block around this one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.errors import CalibrationError


def test_ranges_of_the_models_own_weights_are_refused_inside_another_block_with_what_to_do() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 4, 4)
    wrapped = sv.wrap(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval(), images[:1])
    wrapped.calibrate(images)
    first, second = (sv.Scheme.only(layer.name, sv.INT8) for layer in wrapped.layers)
    refused = pytest.raises(CalibrationError, match=r"quantized already.* Leave that block first, or put both into one")
    with wrapped.quantized(first), refused, wrapped.quantized(second):
        pass
    with wrapped.quantized(second):
        pass
    wrapped.model[0].weight.data += 1
    with pytest.raises(CalibrationError, match="was made on other weights or buffers"), wrapped.quantized(second):
        pass
