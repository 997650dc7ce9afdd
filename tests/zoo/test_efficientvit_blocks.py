"""The blocks against numpy and torch's own operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sensitivity.zoo.efficientvit_blocks import LayerNorm2d, LiteMLA


def test_linear_attention_equals_its_definition_in_numpy():
    torch.manual_seed(1)
    attention = LiteMLA(16, head_channels=4, kernel_size=5)
    qkv = torch.randn(2, 6 * 4 * 3, 3, 5)
    out = attention.attend_linearly(qkv).numpy()
    for image in range(2):
        for head in range(6):
            query, key, value = qkv[image].numpy()[12 * head : 12 * head + 12].reshape(3, 4, 15).astype(np.float64)
            similarity = np.maximum(query, 0).T @ np.maximum(key, 0)
            expected = (similarity @ value.T) / (similarity.sum(axis=1, keepdims=True) + 1e-15)
            np.testing.assert_allclose(
                out[image, 4 * head : 4 * head + 4].reshape(4, 15), expected.T, rtol=2e-5, atol=1e-6
            )


def test_the_linear_and_the_quadratic_branch_agree():
    torch.manual_seed(2)
    attention = LiteMLA(16, head_channels=4, kernel_size=3).eval()
    qkv = torch.randn(2, 96, 2, 6)
    torch.testing.assert_close(
        attention.attend_linearly(qkv), attention.attend_quadratically(qkv), atol=1e-6, rtol=1e-4
    )


@pytest.mark.parametrize(("side", "branch"), [(2, "attend_quadratically"), (3, "attend_linearly")])
def test_attention_is_quadratic_only_up_to_as_many_pixels_as_head_channels(side, branch, monkeypatch):
    attention = LiteMLA(8, head_channels=4, kernel_size=3).eval()
    taken: list[str] = []
    for name in ("attend_linearly", "attend_quadratically"):
        original = getattr(attention, name)
        monkeypatch.setattr(attention, name, lambda qkv, n=name, f=original: (taken.append(n), f(qkv))[1])
    attention(torch.randn(1, 8, side, side))
    assert taken == [branch]


def test_attention_sums_in_float32_when_the_model_is_half_precision():
    torch.manual_seed(3)
    attention = LiteMLA(32, head_channels=32, kernel_size=3).eval()
    image = torch.randn(1, 32, 32, 32) * 60
    expected = attention(image)
    out = attention.half()(image.half())
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.3)


def test_autocast_does_not_reach_the_attention_sums():
    torch.manual_seed(4)
    attention = LiteMLA(32, head_channels=32, kernel_size=3).eval()
    seen: list[torch.dtype] = []
    attention.kernel_func.register_forward_hook(lambda module, inputs, output: seen.append((output @ output.mT).dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention(torch.randn(1, 32, 8, 8))
    assert seen == [torch.float32, torch.float32]


def test_layer_norm_2d_equals_torchs_layer_norm_over_channels():
    torch.manual_seed(6)
    norm = LayerNorm2d(5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 3, 4)
    expected = F.layer_norm(x.permute(0, 2, 3, 1), (5,), norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)
    torch.testing.assert_close(norm(x), expected)
