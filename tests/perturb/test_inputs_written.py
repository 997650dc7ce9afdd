"""Models that write to their inputs are measured as those that do not, and leave what they are given as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SCHEME = sv.Scheme.all(sv.INT8)


class Net(nn.Module):
    """Normalizes its input, in place or not."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.in_place, self.first, self.last = in_place, nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.sub_(0.5).mul_(1.7) if self.in_place else (x - 0.5) * 1.7
        return self.last(self.first(x).relu()).mean((2, 3))


VERBS: dict[str, Callable[[sv.Wrapped, Any], Any]] = {
    "calibrate": lambda wrapped, images: wrapped.calibrate(images).ranges,
    "signals": lambda wrapped, images: dict(wrapped.signals(images)),
    "screen": lambda wrapped, images: dict(wrapped.screen(images)),
    "diagnose": lambda wrapped, images: str(wrapped.diagnose(images)),
    "equalized": lambda wrapped, _: wrapped.equalized().reasons,
    "deploy": lambda wrapped, images: wrapped.deploy(SCHEME, "torch")(images[0].clone()).tolist(),
    "verify": lambda wrapped, _: wrapped.verify(wrapped.deploy(SCHEME, "onnxruntime")).outputs,
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_model_that_writes_to_its_input_is_measured_as_one_that_does_not(verb: str) -> None:
    if verb == "verify":
        pytest.importorskip("onnxruntime")
    results = []
    for in_place in (False, True):
        example, images = IMAGES[:2].clone(), [IMAGES.clone()]
        wrapped = sv.wrap(Net(in_place=in_place).eval(), example)
        wrapped.calibrate([IMAGES.clone()])
        results.append(VERBS[verb](wrapped, images))
        assert torch.equal(example, IMAGES[:2])
        assert torch.equal(images[0], IMAGES)
    assert results[0] == results[1]


class Error:
    """Mean squared error, over batches as they are given."""

    higher_is_better = False

    def reset(self) -> None:
        self.values: list[float] = []

    def update(self, predictions: Any, targets: Any) -> None:
        self.values.append(float((predictions - targets).square().mean()))

    def compute(self) -> float:
        return sum(self.values) / len(self.values)


TASKS: dict[str, Callable[[], Any]] = {
    "tuples": lambda: sv.FeatureFidelity([(image[None].clone(),) for image in IMAGES]),
    "dicts": lambda: sv.FeatureFidelity([{"x": image[None].clone()} for image in IMAGES]),
    "loader": lambda: sv.LoaderTask([(IMAGES.clone(), torch.ones(4, 4))], metric=Error(), per_sample=False),
}


@pytest.mark.parametrize("kind", TASKS)
def test_so_is_one_that_a_task_runs(kind: str) -> None:
    results = []
    for in_place in (False, True):
        task = TASKS[kind]()
        wrapped = sv.wrap(Net(in_place=in_place).eval(), IMAGES[:1].clone())
        wrapped.calibrate(task)
        scores = wrapped.evaluate(task, SCHEME).value, wrapped.evaluate(task).value
        results.append((scores, dict(wrapped.signals(task)), dict(wrapped.screen(task))))
    assert results[0] == results[1]
