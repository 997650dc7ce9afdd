"""A layer that no calibration image reaches has no range and says so; all others are calibrated, swept and deployed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import CalibrationError
from sensitivity.quantize.calibration import Point


class Detector(nn.Module):
    """A trunk and a head that sees the rows that were detected, which may be none."""

    def __init__(self, *, skips: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.head, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        self.skips, self.detects = skips, True

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x).relu()
        if self.detects:
            x = x + self.head(x)
        elif not self.skips:
            self.head(x[:0])
        return self.last(x)


def images() -> Tensor:
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[False, True], ids=["head sees no rows", "head is not called"])
def net(request: pytest.FixtureRequest) -> sv.Wrapped:
    model = Detector(skips=request.param).eval()
    wrapped = sv.wrap(model, images()[:1])
    model.detects = False
    return wrapped


REASON = "none of the 4 calibration images gave head:0:0 any values"


def test_the_others_are_calibrated(net: sv.Wrapped) -> None:
    calibration = net.calibrate(images(), sv.INT8)
    assert set(calibration.ranges) == {Point("trunk:0:0", "input", 0), Point("last:0:0", "input", 0)}
    with pytest.raises(CalibrationError, match=f"{REASON}.*protect"):
        calibration.range_of(Point("head:0:0", "input", 0))


def test_a_layer_that_is_reached_later_is_calibrated_with_its_true_size(net: sv.Wrapped) -> None:
    class Late(Detector):
        def forward(self, x: Tensor) -> Tensor:
            self.detects = bool(x.max() > 100)
            return super().forward(x)

    late = sv.wrap(Late(skips=False).eval(), images()[:1] + 200)
    ranges = late.calibrate([images(), images() + 200]).ranges
    assert ranges[Point("head:0:0", "input", 0)].elements == 4 * 5 * 5


def test_sweeping_it_gives_a_row_with_the_reason(net: sv.Wrapped) -> None:
    study = net.analyze(sv.FeatureFidelity(images()), sv.INT8, calibration=images(), progress=False)
    rows = {row.layer: row for row in study.measurements}
    assert {name: str(row.status) for name, row in rows.items()} == {
        "trunk:0:0": "measured",
        "head:0:0": "failed",
        "last:0:0": "measured",
    }
    assert REASON in rows["head:0:0"].reason


def test_deploying_leaves_it_in_float_with_the_reason(net: sv.Wrapped) -> None:
    pytest.importorskip("onnxruntime")
    net.calibrate(images(), sv.INT8)
    plan = net.plan(sv.Scheme.all(sv.INT8))
    assert {layer.name for layer in plan.quantized} == {"trunk:0:0", "last:0:0"}
    assert set(plan.left_out) == {"head:0:0"}
    assert REASON in plan.left_out["head:0:0"]
    deployed = net.deploy(sv.Scheme.all(sv.INT8), "onnxruntime")
    with plan.simulated() as simulated:
        expected = simulated(images())
    np.testing.assert_allclose(deployed(images()).numpy(), expected.numpy(), atol=1e-5)


def test_where_no_layer_is_reached_there_is_nothing_to_calibrate() -> None:
    net = sv.wrap(nn.Sequential(nn.Linear(3, 2)).eval(), torch.randn(1, 4, 3))
    with pytest.raises(CalibrationError, match="none of the model's layers"):
        net.calibrate([torch.empty(1, 0, 3)])
