"""Wherever a method takes a calibration, images do as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.errors import CalibrationError

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TASK = sv.FeatureFidelity(IMAGES)
SCHEME = sv.Scheme.all(sv.INT8)


def wrapped() -> sv.Wrapped:
    torch.manual_seed(0)
    return sv.wrap(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(), IMAGES[:1])


def simulate(model: sv.Wrapped, calibration: Any) -> Any:
    with model.quantized(SCHEME, calibration=calibration) as quantized, torch.no_grad():
        return quantized(IMAGES).tolist()


CALLS: dict[str, Callable[[sv.Wrapped, Any], Any]] = {
    "quantized": simulate,
    "evaluate": lambda model, calibration: model.evaluate(TASK, SCHEME, calibration=calibration).value,
    "analyze": lambda model, calibration: (
        model.analyze(TASK, calibration=calibration, progress=False).measurements[0].drop
    ),
    "explain": lambda model, calibration: model.explain(TASK, calibration=calibration).variants,
    "signals": lambda model, calibration: dict(model.signals(IMAGES, calibration=calibration)["layers:0:0"]),
    "screen": lambda model, calibration: dict(model.screen(IMAGES, calibration=calibration)["layers:0:0"]),
    "plan": lambda model, calibration: [c.ranges for c in model.plan(SCHEME, calibration=calibration).ranges.values()],
    "deploy": lambda model, calibration: model.deploy(SCHEME, "torch", calibration=calibration)(IMAGES).tolist(),
}


@pytest.mark.parametrize("name", CALLS)
def test_images_in_the_place_of_ranges_are_measured_first(name: str) -> None:
    call, expected = CALLS[name], wrapped().calibrate(IMAGES)
    assert call(wrapped(), [IMAGES]) == call(wrapped(), expected) == call(wrapped(), [expected])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("calibration", "message"), [(5, "calibration=5"), ("images/", "calibration='images/' is a path")]
)
def test_what_is_neither_ranges_nor_images_is_refused_in_words(name: str, calibration: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        CALLS[name](wrapped(), calibration)


@pytest.mark.parametrize("name", CALLS)
def test_an_empty_calibration_is_refused_before_anything_is_computed(name: str) -> None:
    model = wrapped()
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    with model.model.register_forward_hook(count), pytest.raises(CalibrationError, match="no image to calibrate with"):
        CALLS[name](model, [])
    assert passes == 0


def test_verify_study_measures_images_once_for_all_rows() -> None:
    model = wrapped()
    study = model.analyze(TASK, calibration=[IMAGES], progress=False)
    again = wrapped()
    verified = again.verify_study(study, TASK, engine="torch", calibration=[IMAGES])
    assert all("deployed_drop" in row.signals for row in verified.measurements)
    assert len(again.calibrations) == 1
