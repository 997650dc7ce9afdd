"""``sensitivity evaluate`` scores what ``wrapped.evaluate`` scores; the interval of a mean is that of Student."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import sensitivity as sv
from sensitivity.cli.main import main
from sensitivity.sweep.stopping.paired import drop_interval
from tests.cli import named_models

HERE = "tests.cli.named_models"
MODEL, TASK, IMAGES = f"{HERE}:model", f"{HERE}:task", f"{HERE}:images"
T_975_OF_9 = 2.262157  # Student's t, from a printed table


@pytest.fixture
def scheme(tmp_path: Path) -> str:
    sv.Scheme.all(sv.INT8).protect("@output").save(tmp_path / "scheme.json")
    return str(tmp_path / "scheme.json")


def test_it_scores_what_wrapped_evaluate_scores(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", MODEL, scheme, TASK, "--calibration", IMAGES, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    net, example = named_models.model()
    wrapped = sv.wrap(net.eval(), example)
    wrapped.calibrate(named_models.images(), sv.INT8)
    expected = wrapped.evaluate(named_models.task(), sv.Scheme.load(scheme))
    assert plain["score"] == expected.value
    assert plain["metrics"] == expected.metrics
    assert plain["baseline"] == wrapped.evaluate(named_models.task()).value
    assert plain["drop"] == plain["baseline"] - plain["score"]
    assert (plain["drop_low"], plain["level"]) == (None, None)  # of four images


def test_people_read_score_drop_and_interval(
    scheme: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", MODEL, scheme, TASK, "--calibration", IMAGES]
    assert main(words) == 0
    assert "without an interval: that needs 8 images or more" in capsys.readouterr().out
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(named_models, "task", lambda: sv.FeatureFidelity(images))
    assert main(words) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert " dB on 12 images, " in first
    assert ", 95% interval " in second
    assert second.endswith(" for other images of this kind")


def test_activations_need_images_which_is_said_before_the_model_is_made(
    scheme: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named_models, "model", lambda: pytest.fail("the model is made"))
    assert main(["evaluate", MODEL, scheme, TASK]) == 2
    assert "quantizes activations and needs images" in capsys.readouterr().err


def test_the_interval_of_a_mean_is_students() -> None:
    def score(predictions: Mapping[int, float]) -> dict[str, float]:
        return {"mean": statistics.fmean(predictions.values())}

    task: Any = SimpleNamespace(metric="mean", score=score)
    before = {image: 1.0 + 0.1 * image for image in range(10)}
    after = {image: value - 0.01 * image**2 for image, value in before.items()}
    lost = [before[image] - after[image] for image in before]
    drop = statistics.fmean(lost)
    half = T_975_OF_9 * statistics.stdev(lost) / 10**0.5
    assert drop_interval(task, before, after, drop=drop) == pytest.approx((drop - half, drop + half), rel=1e-3)
    few = {image: before[image] for image in range(7)}
    assert drop_interval(task, few, few, drop=0.0) is None
    assert drop_interval(task, before, before, drop=0.0) is None
