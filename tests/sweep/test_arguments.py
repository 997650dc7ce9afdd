"""Arguments of the wrong kind: one clear error each, before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.errors import (
    CalibrationError,
    ExecutorError,
    LayerNotFoundError,
    RecipeError,
    SensitivityError,
    StoreError,
    StudyError,
    TaskError,
)
from sensitivity.sweep.arguments import check_arguments, stored_stop
from sensitivity.sweep.record import remarks_on
from tests.sweep.mean_task import Chain, MeanTask


def images() -> torch.Tensor:
    return torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def wrapped() -> sv.Wrapped:
    torch.manual_seed(0)
    return sv.wrap(nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)).eval(), images()[:1])


WRONG: list[tuple[dict[str, Any], type[SensitivityError], str]] = [
    ({"layers": []}, LayerNotFoundError, r"no pattern was given.*'\*' selects all"),
    ({"stop": 0.95}, StudyError, r"stop=0\.95: give when to stop, such as sv\.Confidence"),
    ({"executor": 4}, ExecutorError, r"executor=4 cannot take work\. Give one of concurrent\.futures"),
    ({"executor": ThreadPoolExecutor}, ExecutorError, "cannot take work"),
    ({"recipe": "int8"}, RecipeError, r"recipe='int8': give a recipe such as sv\.INT8 or several in a list\."),
    ({"recipe": []}, RecipeError, "none was given"),
    ({"recipe": [sv.INT8_WEIGHTS, "int4"]}, RecipeError, "recipe holds 'int4': give a recipe"),
    ({"recipe": None}, RecipeError, "recipe=None: give a recipe"),
    (
        {"calibration": Path("ranges.safetensors")},
        CalibrationError,
        r"is a path\. Load ranges with sv\.Calibration\.load",
    ),
    ({"calibration": 8}, CalibrationError, "calibration=8: give a Calibration"),
    ({"calibration": [1, 2], "recipe": sv.INT8}, CalibrationError, "must be tensors as the model takes them"),
    ({"store": 3}, StoreError, "store=3: give a store, text, a path or None"),
    ({"on_error": "ignore"}, StudyError, r"on_error='ignore' is not known\. Choose one of: record, raise"),
    ({"memory_limit": -5}, StudyError, "memory_limit=-5: give bytes"),
    ({"memory_limit": True}, StudyError, "memory_limit=True: give bytes"),
    ({"workers": 0}, StudyError, "workers=0: give a whole number of processes from 1 on"),
    ({"workers": True}, StudyError, "workers=True: give a whole number"),
    ({"intervals": "no"}, StudyError, "intervals='no': give True or False"),
    ({"replay": None}, StudyError, "replay=None: give True or False"),
    ({"settings": {"replay": False}}, StudyError, r"settings=.*: give a sv\.Sweep or None"),
    ({"settings": sv.Sweep(), "replay": True}, StudyError, r"settings= and replay= both say how the sweep runs"),
    ({"direction": "both"}, RecipeError, "direction='both' is not known"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG, ids=[f"{case[0]}"[:40] for case in WRONG])
def test_an_argument_of_the_wrong_kind_is_one_clear_error(
    wrapped: sv.Wrapped, wrong: dict[str, Any], error: type[SensitivityError], message: str
) -> None:
    with pytest.raises(error, match=message):
        wrapped.analyze(sv.FeatureFidelity(images()), **{"recipe": sv.INT8_WEIGHTS, "progress": False} | wrong)


def test_a_task_that_is_none_is_refused(wrapped: sv.Wrapped) -> None:
    with pytest.raises(TaskError, match=r"task=.*: give a task: one of sv's, sv\.callback_task"):
        wrapped.analyze(lambda model: 1.0, sv.INT8_WEIGHTS)


def test_explain_signals_and_screens_refuse_the_same(wrapped: sv.Wrapped) -> None:
    task = sv.FeatureFidelity(images())
    with pytest.raises(LayerNotFoundError, match="no pattern was given"):
        wrapped.explain(task, sv.INT8_WEIGHTS, layers=[])
    with pytest.raises(CalibrationError, match="is a path"):
        wrapped.explain(task, sv.INT8, calibration="images/")
    for look in (wrapped.signals, wrapped.screen):
        with pytest.raises(LayerNotFoundError, match="no pattern was given"):
            look(images(), sv.INT8_WEIGHTS, layers=[])
        with pytest.raises(RecipeError, match="recipe='int8': give a recipe such as"):
            look(images(), "int8")
        with pytest.raises(CalibrationError, match="is a path"):
            look(images(), sv.INT8, calibration=Path("ranges.safetensors"))


def test_a_tolerance_that_no_one_would_allow_is_refused_where_the_metric_is_in_percent() -> None:
    task = MeanTask(8)
    assert task.unit == "%"
    with pytest.raises(StudyError, match=r"tolerance=50\) allows a drop of 50 points of .*0\.5 is half a point"):
        check_arguments(task, stop=sv.Confidence(tolerance=50))
    check_arguments(task, stop=sv.Confidence(tolerance=5))
    check_arguments(sv.FeatureFidelity(images()), stop=sv.Confidence(tolerance=30.0))  # of dB


@pytest.mark.parametrize(("fraction", "points"), [(0.001, "0.1"), (0.005, "0.5"), (0.02, "2")])
def test_a_tolerance_that_looks_like_a_fraction_is_noted_with_the_points(fraction: float, points: str) -> None:
    stop = sv.Confidence(tolerance=fraction)
    wrapped = sv.wrap(Chain().eval(), MeanTask(1).inputs)
    notes = wrapped.analyze(MeanTask(8), sv.INT8_WEIGHTS, stop=stop, progress=False).notes
    assert any(note.endswith(f"If you meant the fraction {fraction}, give tolerance={points}.") for note in notes)
    assert remarks_on(stop, sv.FeatureFidelity(images())) == ()  # of dB
    assert remarks_on(sv.Confidence(tolerance=0.05), MeanTask(8)) == ()


def test_a_tolerance_is_in_points_where_the_metric_is_in_percent_and_in_its_own_unit_elsewhere() -> None:
    stop = sv.Confidence(tolerance=0.5)
    assert stored_stop(stop, MeanTask(8)) == sv.Confidence(tolerance=0.005)
    assert stored_stop(stop, sv.FeatureFidelity(images())) == stop
    assert stored_stop(None, MeanTask(8)) is None


def test_what_makes_sense_is_let_through(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        check_arguments(
            sv.FeatureFidelity(images()),
            calibration=iter(images()),
            store=tmp_path / "store.jsonl",
            stop=sv.Confidence(tolerance=0.1),
        )
        sv.Sweep(executor=executor, memory_limit=0, on_error="raise")


def test_a_baseline_of_zero_is_noted_for_then_no_layer_can_lower_it() -> None:
    wrapped = sv.wrap(Chain().eval(), MeanTask(1).inputs)

    def scored(value: float) -> Callable[[Any], float]:
        def score(model: Any) -> float:
            model(MeanTask(1).inputs)
            return value

        return score

    nothing = sv.callback_task(scored(0.0), metric="AP", unit="%")
    (note,) = wrapped.analyze(nothing, sv.INT8_WEIGHTS, progress=False).notes
    assert note.startswith("AP of the unperturbed model is 0 on 1 images, so that no drop can be seen")
    something = sv.callback_task(scored(0.1), metric="AP", unit="%")
    loss = sv.callback_task(scored(0.0), metric="loss", higher_is_better=False)
    for task in (something, loss):
        assert wrapped.analyze(task, sv.INT8_WEIGHTS, progress=False).notes == ()
