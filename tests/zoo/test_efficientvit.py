"""The neck's upsampling; backbone and neck as a whole are tested in test_efficientvit_sam.py."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from sensitivity.zoo.efficientvit import UpSample


def test_upsampling_equals_opencvs_bicubic_resize():
    x = torch.randn(1, 1, 4, 8)
    expected = cv2.resize(x[0, 0].numpy(), (16, 16), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(UpSample(16)(x)[0, 0], expected, atol=1e-5)


def test_upsampling_to_the_same_size_is_what_bicubic_interpolation_would_give():
    x = torch.randn(1, 2, 16, 16)
    assert torch.equal(UpSample(16)(x), F.interpolate(x, (16, 16), mode="bicubic", align_corners=False))


def test_upsampling_keeps_half_precision():
    assert UpSample(16)(torch.randn(1, 2, 8, 8).half()).dtype == torch.float16
