"""A model that is still in training mode is measured as one in evaluation mode, in which it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import sensitivity as sv

IMAGES = torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(1))
PER_TENSOR = replace(sv.INT8.weights, granularity="per-tensor")
RECIPE = replace(sv.INT8, name="per-tensor", weights=PER_TENSOR)  # so that it matters what is folded into a weight


def net() -> nn.Sequential:
    torch.manual_seed(0)
    norm, end = nn.BatchNorm2d(8), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.uniform_(norm.running_var, 0.1, 4)
    norm.weight.data.copy_(torch.logspace(-2, 2, 8))
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 3), end)


def outputs(wrapped: sv.Wrapped) -> list[Any]:
    with wrapped.quantized(sv.Scheme.all(RECIPE)) as model, torch.no_grad():
        return model(IMAGES).tolist()


VERBS: dict[str, Callable[[sv.Wrapped], Any]] = {
    "quantized": outputs,
    "evaluate": lambda wrapped: wrapped.evaluate(sv.FeatureFidelity(IMAGES), sv.Scheme.all(RECIPE)).value,
    "analyze": lambda wrapped: [
        row.score for row in wrapped.analyze(sv.FeatureFidelity(IMAGES), RECIPE, progress=False).measurements
    ],
    "signals": lambda wrapped: dict(wrapped.signals([IMAGES], RECIPE)),
    "screen": lambda wrapped: dict(wrapped.screen([IMAGES], RECIPE)),
    "diagnose": lambda wrapped: str(wrapped.diagnose([IMAGES], RECIPE)),
    "deploy": lambda wrapped: wrapped.deploy(sv.Scheme.all(RECIPE), "torch")(IMAGES).tolist(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_model_in_training_mode_is_measured_as_in_evaluation_mode(verb: str) -> None:
    results = []
    for training in (False, True):
        wrapped = sv.wrap(net().train(training), IMAGES[:1])
        wrapped.calibrate(IMAGES, RECIPE)
        results.append(VERBS[verb](wrapped))
        assert {module.training for module in wrapped.model.modules()} == {training}
    assert results[0] == results[1]
