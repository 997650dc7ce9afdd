"""Deformable DETR of transformers is wrapped and swept; what pruning one layer does equals weights masked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.zoo import mpvit
from tests.tasks.connectors.test_family_names import NETWORKS

LEVEL = 0.5


def test_pruning_single_layers_of_deformable_detr_equals_weights_masked_by_hand() -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, example = NETWORKS["transformers-deformable_detr"]()
    wrapped = sv.wrap(model.eval(), example)

    def mean_box(network: nn.Module) -> float:
        with torch.no_grad():
            return float(network(**example).pred_boxes.double().mean())

    attention = "model.encoder.layers.0.self_attn"
    chosen = [f"{attention}.value_proj", f"{attention}.sampling_offsets", "model.input_proj.1.0"]
    names = [wrapped.layers[path].name for path in chosen]
    task = sv.callback_task(mean_box, metric="mean box")
    study = wrapped.analyze(task, sv.Prune(LEVEL), layers=names, progress=False)
    assert [row.status for row in study.measurements] == ["measured"] * len(chosen)
    scores = {row.layer: row.score for row in study.measurements}
    for path, name in zip(chosen, names, strict=True):
        weight = model.get_submodule(path).weight
        original = weight.detach().clone()
        smallest = original.abs().flatten().argsort(stable=True)[: int(LEVEL * original.numel())]
        with torch.no_grad():
            weight.view(-1)[smallest] = 0.0
            assert scores[name] == mean_box(model)
            weight.copy_(original)
    assert len(set(scores.values())) > 1


class LastMaps(nn.Module):
    """The three deepest maps of a backbone, as Deformable DETR takes them."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.backbone(pixels)
        return maps[1:]


def test_mpvit_under_deformable_detr_is_wrapped_with_all_of_its_layers_and_swept() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = mpvit.build("tiny", classes=None)
    example = {"pixel_values": torch.rand(1, 3, 128, 128), "pixel_mask": torch.ones(1, 128, 128, dtype=torch.int64)}
    with torch.no_grad():
        widths = [level.shape[1] for level in backbone(example["pixel_values"])]
    placeholder = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=widths,
        depths=[1] * 4,
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    small = {"d_model": 64, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 10, "num_feature_levels": 4}
    config = transformers.DeformableDetrConfig(
        backbone_config=placeholder,
        backbone=None,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        **small,
        **heads,
    )
    model = transformers.DeformableDetrForObjectDetection(config).eval()
    model.model.backbone.model = LastMaps(backbone)
    wrapped = sv.wrap(model, example)
    place = "model.backbone.model.backbone"
    inside = [layer for layer in wrapped.layers if layer.module.startswith(place)]
    assert len(inside) == 177 - 1  # all but the classifier
    assert {"model.input_proj.0.0", "class_embed.0"} <= {layer.module for layer in wrapped.layers}

    def mean_box(network: nn.Module) -> float:
        with torch.no_grad():
            return float(network(**example).pred_boxes.double().mean())

    layer = inside[-1]
    task = sv.callback_task(mean_box, metric="mean box")
    [row] = wrapped.analyze(task, sv.Prune(LEVEL), layers=[layer.name], progress=False).measurements
    weight = model.get_submodule(layer.module).weight
    smallest = weight.detach().abs().flatten().argsort(stable=True)[: int(LEVEL * weight.numel())]
    with torch.no_grad():
        weight.view(-1)[smallest] = 0.0
    assert row.drop != 0
    assert row.score == mean_box(model)
