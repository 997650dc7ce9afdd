"""A whole DETR of transformers in int8 computes what its own layers, rounded by torch's functions, compute.

Its batch norms are frozen ones, which the copy has folded by hand, and its first decoder layer reads constants.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from tests.perturb.test_attention_forms import calls_in_int8

transformers = pytest.importorskip("transformers")


class Outputs(nn.Module):
    """A detector that is called with images and a mask of its own, and returns two tensors."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector
        mask = torch.ones(1, 64, 64, dtype=torch.long)
        mask[:, :, 48:] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.detector(pixel_values=x, pixel_mask=self.mask.expand(len(x), -1, -1))
        return outputs.logits, outputs.pred_boxes


def detr() -> nn.Module:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 24], "depths": [1, 1], "layer_type": "basic"}
    widths = {f"{part}_ffn_dim": 48 for part in ("encoder", "decoder")}
    heads = {f"{part}_attention_heads": 4 for part in ("encoder", "decoder")}
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(**sizes, out_features=["stage2"]),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        num_queries=5,
        num_labels=4,
        **widths,
        **heads,
    )
    model: nn.Module = transformers.DetrForObjectDetection(config).eval()
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_var.copy_(torch.rand(module.running_var.shape) + 0.5)
            module.running_mean.copy_(torch.randn(module.running_mean.shape) * 0.2)
    return model


def folded_by_hand(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    for module in list(twin.modules()):
        conv, norm = getattr(module, "convolution", None), getattr(module, "normalization", None)
        if isinstance(conv, nn.Conv2d) and norm is not None:
            factor = (norm.weight / (norm.running_var + 1e-5).sqrt()).detach()
            conv.weight.data = conv.weight.data * factor[:, None, None, None]
            conv.bias = nn.Parameter((norm.bias - norm.running_mean * factor).detach())
            module.normalization = nn.Identity()
    return twin


def test_a_detr_with_frozen_batch_norms_in_int8_is_that_of_its_own_layers() -> None:
    model, images = detr(), torch.randn(2, 3, 64, 64)
    network = Outputs(model).eval()
    wrapped = sv.wrap(network, images[:1])
    assert wrapped.layers.skipped == ()
    wrapped.calibrate(images, sv.INT8_MINMAX)
    with torch.no_grad():
        in_float = network(images)
        expected = calls_in_int8(Outputs(folded_by_hand(model)).eval(), images)
        with wrapped.quantized(sv.Scheme.all(sv.INT8_MINMAX)) as quantized:
            outputs = quantized(images)
    for output, by_hand, unperturbed in zip(outputs, expected, in_float, strict=True):
        error = float((output - by_hand).abs().max())
        assert float((by_hand - unperturbed).abs().max()) > 30 * error
