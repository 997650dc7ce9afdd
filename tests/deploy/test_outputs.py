"""Every output tensor is judged by itself: a right one does not hide a dead one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine
from sensitivity.errors import DisagreementWarning
from tests.deploy.nets import SAFE, SAFE_INT8

INT8 = SAFE
X = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(0))


def ready(make: Any, x: Tensor = X) -> sv.Wrapped:
    torch.manual_seed(0)
    wrapped = sv.wrap(make().eval(), x)
    wrapped.calibrate([x])
    return wrapped


class Detector(nn.Module):
    """Boxes with large numbers, scores with small ones."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(16, 16, 3, padding=1)
        self.box, self.score = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = F.relu(self.trunk(x))
        return {"boxes": self.box(z) * 500, "scores": torch.sigmoid(self.score(z))}


class DeadScores(OpenVinoEngine):
    """Right boxes, and a score of one half for everything."""

    name = "dead-scores"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        outputs = super().run(*inputs)
        several = len(outputs) > 1 and outputs[1].dtype == np.float32
        return (outputs[0], outputs[1] * 0 + 0.5, *outputs[2:]) if several else outputs


@dataclass
class Found:
    boxes: Tensor
    scores: Tensor


class InADataclass(Detector):
    def forward(self, x: Tensor) -> Any:
        return Found(**super().forward(x))


@pytest.mark.parametrize(
    ("model", "boxes", "scores"), [(Detector, "['boxes']", "['scores']"), (InADataclass, ".boxes", ".scores")]
)
def test_dead_scores_are_found_beside_right_boxes(model: type[Detector], boxes: str, scores: str) -> None:
    wrapped = ready(model)
    with pytest.warns(DisagreementWarning, match=re.escape(f"output {scores} agrees with the simulation")):
        deployed = wrapped.deploy(INT8, DeadScores)
    verification = wrapped.verify(deployed)
    passes = {output.name: output.passes(verification.gates) for output in verification.outputs}
    assert passes == {boxes: True, scores: False}
    assert verification.layers_pass
    assert verification.outputs_pass is False
    assert not verification.passed
    assert verification.output_sqnr_db == min(output.sqnr_db or 0.0 for output in verification.outputs)
    assert scores in repr(verification)


def test_right_outputs_pass_one_by_one() -> None:
    wrapped = ready(Detector)
    verification = wrapped.verify(wrapped.deploy(INT8))
    assert [output.passes(verification.gates) for output in verification.outputs] == [True, True]
    assert [output.elements for output in verification.outputs] == [4 * 256, 4 * 256]
    assert verification.passed


class Classes(nn.Module):
    """A class for each pixel: integers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).argmax(1)


class Zeros(OpenVinoEngine):
    name = "zeros"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        return tuple(out * 0 if out.dtype == np.int64 else out for out in super().run(*inputs))


def test_integer_outputs_are_judged_by_the_share_that_differs() -> None:
    wrapped = ready(Classes)
    right, wrong = (wrapped.verify(wrapped.deploy(INT8, engine)) for engine in ("openvino", Zeros))
    assert right.passed
    assert right.output_sqnr_db is None
    assert right.outputs[0].share is not None
    assert right.outputs[0].share <= (right.outputs[0].simulation_share or 0.0) / 2
    assert wrong.outputs[0].share == pytest.approx(15 / 16, abs=0.1)
    assert wrong.outputs_pass is False
    assert not wrong.passed
    assert "of 256 elements differ, simulation and fp32 in" in repr(wrong)


class Nothing(Classes):
    """Finds nothing on these inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[self.conv(x) > 1e6]


def test_where_no_output_was_compared_nothing_has_passed() -> None:
    wrapped = ready(Nothing)
    verification = wrapped.verify(wrapped.deploy(sv.Scheme()))
    assert verification.outputs_pass is None
    assert not verification.passed
    assert "outputs: not compared" in repr(verification)


class Kept(nn.Module):
    """As many rows as the data has, picked in a loop that only a tracer exports."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        rows = self.conv(x).flatten(2).transpose(1, 2)
        return [row[row[:, 0] > 0.2] for row in rows]


class OneLess(OpenVinoEngine):
    """Keeps one row less."""

    name = "one-less"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        return tuple(out[:-1] if out.ndim == 2 and out.dtype == np.float32 else out for out in super().run(*inputs))


def test_outputs_of_unlike_shapes_are_told_apart_without_a_crash() -> None:
    wrapped = ready(Kept, X[:1])
    verification = wrapped.verify(wrapped.deploy(INT8, OneLess))
    assert verification.outputs_pass is False
    assert verification.outputs[0].sqnr_db == float("-inf")
    assert "shapes differ" in verification.outputs[0].reason


def test_a_model_that_keeps_other_rows_when_quantized_is_no_crash() -> None:
    class Steep(Kept):
        def forward(self, x: Tensor) -> list[Tensor]:
            rows = self.conv(x).flatten(2).transpose(1, 2)
            return [row[(row[:, 0] * 1e4).sin() > 0] for row in rows]

    wrapped = ready(Steep, X[:1])
    verification = wrapped.verify(wrapped.deploy(INT8))
    assert verification.outputs[0].simulation_sqnr_db is None
    assert "shapes differ" in verification.outputs[0].reason


def test_an_output_that_nothing_quantized_reaches_may_differ_by_float_rounding() -> None:
    """The simulation equals fp32 there to the last bit, which no engine is asked to be nearer to."""
    wrapped = ready(Detector)
    verification = wrapped.verify(wrapped.deploy(sv.Scheme.only("score", SAFE_INT8)))
    boxes = verification.outputs[0]
    assert boxes.simulation_sqnr_db == float("inf")
    assert (boxes.sqnr_db or 0.0) > 100.0
    assert verification.passed
