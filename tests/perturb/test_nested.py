"""A model that is quantized already, by a block around this call: what measures it is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.errors import ModelInUseError
from sensitivity.wrapped import Wrapped
from tests.sweep.mean_task import MeanTask

IMAGES = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
SCHEME = sv.Scheme.all(sv.INT4_WEIGHTS)
FEATURES = sv.FeatureFidelity(IMAGES, batch_size=2)

REFUSED: dict[str, Callable[[sv.Wrapped, sv.Study, Any], Any]] = {
    "calibrate": lambda wrapped, _, __: wrapped.calibrate(IMAGES),
    "quantized": lambda wrapped, _, __: wrapped.quantized(SCHEME).__enter__(),
    "evaluate": lambda wrapped, _, __: wrapped.evaluate(FEATURES),
    "changed_images": lambda wrapped, _, __: wrapped.changed_images(FEATURES, SCHEME),
    "analyze": lambda wrapped, _, __: wrapped.analyze(FEATURES, sv.INT4_WEIGHTS),
    "explain": lambda wrapped, _, __: wrapped.explain(FEATURES, sv.INT4_WEIGHTS),
    "signals": lambda wrapped, _, __: wrapped.signals(IMAGES, sv.INT4_WEIGHTS),
    "screen": lambda wrapped, _, __: wrapped.screen(IMAGES, sv.INT4_WEIGHTS),
    "tune": lambda wrapped, _, __: wrapped.tune(FEATURES, max_drop=1.0, calibration=IMAGES, engine=None),
    "explain_tune": lambda wrapped, _, __: wrapped.explain_tune(FEATURES, max_drop=1.0, calibration=IMAGES),
    "diagnose": lambda wrapped, _, __: wrapped.diagnose(IMAGES, sv.INT4_WEIGHTS),
    "plan": lambda wrapped, _, __: wrapped.plan(SCHEME),
    "deploy": lambda wrapped, _, __: wrapped.deploy(SCHEME, "torch"),
    "verify": lambda wrapped, _, deployed: wrapped.verify(deployed),
    "latency": lambda wrapped, _, __: wrapped.latency(sv.INT8_WEIGHTS),
    "verify_study": lambda wrapped, study, _: wrapped.verify_study(study, MeanTask(4), engine="torch"),
    "folded": lambda wrapped, _, __: wrapped.folded(),
    "equalized": lambda wrapped, _, __: wrapped.equalized(),
}
"""Verbs that look at the model's numbers."""

ALLOWED = {"activations", "handover", "size_bytes"}
"""Those that look at the table of layers alone."""


class Net(nn.Sequential):
    def __init__(self) -> None:
        mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(0))
        super().__init__(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1), mean)


def made() -> tuple[sv.Wrapped, sv.Study, Any]:
    torch.manual_seed(0)
    wrapped = sv.wrap(Net().eval(), IMAGES[:1])
    study = wrapped.analyze(MeanTask(4), sv.INT4_WEIGHTS, progress=False)
    return wrapped, study, wrapped.deploy(SCHEME, "torch")


def refused(match: str = "perturbed now, by a `with wrapped.quantized") -> Any:
    return pytest.raises(ModelInUseError, match=match)


def test_every_verb_is_either_refused_inside_a_block_or_looks_at_the_table_alone() -> None:
    public = {name for name in vars(Wrapped) if not name.startswith("_") and callable(getattr(Wrapped, name))}
    assert public == REFUSED.keys() | ALLOWED


@pytest.mark.parametrize("recipe", [sv.INT4_WEIGHTS, sv.INT8_ACTIVATIONS], ids=lambda recipe: recipe.name)
def test_what_measures_the_model_is_refused_inside_a_block_with_what_to_do(recipe: sv.Recipe) -> None:
    wrapped, study, deployed = made()
    again = sv.wrap(wrapped.model, IMAGES[:1])
    scheme, before = sv.Scheme.all(recipe), len(wrapped.calibrations)
    with wrapped.quantized(scheme, calibration=IMAGES if recipe.needs_calibration else None):
        after = len(wrapped.calibrations)
        for name, verb in REFUSED.items():
            for either in (wrapped, again):
                with refused():
                    pytest.fail(f"{name} gave {verb(either, study, deployed)!r}")
        with refused():
            sv.wrap(wrapped.model, IMAGES[:1])
        with refused():
            sv.wrap(wrapped.model[0], IMAGES[:1])
    assert len(wrapped.calibrations) == after
    assert after - before == int(recipe.needs_calibration)
    assert not again.calibrations
    assert wrapped.evaluate(FEATURES).value == 150


def test_a_part_of_the_model_that_is_not_in_the_block_can_be_measured() -> None:
    wrapped, _, __ = made()
    first, last = sv.wrap(wrapped.model[0], IMAGES[:1]), sv.wrap(wrapped.model[3], torch.rand(1, 4, 4, 4))
    with first.quantized(SCHEME):
        last.calibrate(torch.rand(2, 4, 4, 4))
        with refused():
            wrapped.calibrate(IMAGES)


def test_what_measures_the_model_is_refused_in_other_threads_while_it_is_quantized() -> None:
    wrapped, study, deployed = made()
    errors: dict[str, Exception] = {}

    def run() -> None:
        for name, verb in REFUSED.items():
            try:
                verb(sv.Wrapped(wrapped.model, wrapped.layers, IMAGES[:1]), study, deployed)
            except ModelInUseError as error:
                errors[name] = error

    with wrapped.quantized(SCHEME):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert errors.keys() == REFUSED.keys()
    assert all("in another thread" in str(error) for error in errors.values())


def test_what_a_task_measures_while_a_sweep_has_the_model_perturbed_is_refused() -> None:
    wrapped, _, __ = made()
    errors: list[str] = []

    def metric(model: Any) -> float:
        try:
            wrapped.calibrate(IMAGES)
        except ModelInUseError as error:
            errors.append(str(error))
        return float(model(IMAGES).mean())

    wrapped.analyze(sv.callback_task(metric), sv.INT4_WEIGHTS, progress=False)
    assert len(errors) == len(wrapped.layers)
    assert "a sweep around this call" in errors[0]


def test_the_model_can_be_measured_again_after_an_error_inside_the_block() -> None:
    wrapped, _, __ = made()
    with pytest.raises(ZeroDivisionError), wrapped.quantized(SCHEME):
        raise ZeroDivisionError
    wrapped.calibrate(IMAGES)  # on the model's own weights, or they would not fit below
    with wrapped.quantized(sv.Scheme.all(sv.INT8)):
        pass
