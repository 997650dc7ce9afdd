"""Deformable DETR of transformers is wrapped and swept; what pruning one layer does equals weights masked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sensitivity as sv
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
        kept = weight.detach().clone()
        smallest = kept.abs().flatten().argsort(stable=True)[: int(LEVEL * kept.numel())]
        with torch.no_grad():
            weight.view(-1)[smallest] = 0.0
            assert scores[name] == mean_box(model)
            weight.copy_(kept)
    assert len(set(scores.values())) > 1
