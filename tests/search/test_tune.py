"""The closed loop: what it chooses, that it is never worse than what it measured, and that it goes on from a store."""

from __future__ import annotations

import json
import pickle
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.errors import (
    CalibrationError,
    EngineError,
    MissingPackageError,
    RecipeError,
    StudyError,
    TaskError,
)
from sensitivity.records.recipes.scheme import Rule
from sensitivity.records.results.latency import Latency
from sensitivity.records.results.tuned import StepKind
from sensitivity.records.results.verdict import Verdict
from tests.search.closeness import Closeness, Lopsided, Opposites, subject

SYMMETRIC = sv.Recipe(
    "symmetric", weights=sv.QuantSpec("int8", "per-channel"), activations=sv.QuantSpec("int8", observer="minmax")
)
AFFINE = sv.Recipe(
    "affine",
    weights=sv.QuantSpec("int8", "per-channel"),
    activations=sv.QuantSpec("uint8", symmetric=False, observer="percentile", percentile=99.9),
)
COARSE = sv.Recipe("coarse", weights=sv.QuantSpec("int3", "per-channel"), activations=sv.QuantSpec("int8"))


@pytest.fixture
def quiet(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"engine": None, "progress": False}


def score_of(wrapped: sv.Wrapped, task: Closeness, tuned: sv.Tuned) -> float:
    if tuned.equalized:
        wrapped = wrapped.equalized()
        if tuned.quantized:
            wrapped.calibrate(task.inputs, tuned.scheme)
    return wrapped.evaluate(task, tuned.scheme).value


def test_of_candidates_that_cost_the_same_the_best_is_chosen(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    tuned = wrapped.tune(task, max_drop=50.0, candidates=[SYMMETRIC, AFFINE], calibration=task.inputs, **quiet)
    alone = {recipe: wrapped.evaluate(task, sv.Scheme.all(recipe)).value for recipe in (SYMMETRIC, AFFINE)}
    best = max(alone, key=alone.__getitem__)
    assert tuned.met
    assert [rule.recipe for rule in tuned.scheme.rules] == [best]
    assert tuned.score.value == alone[best]
    assert [step.score for step in tuned.steps] == [alone[SYMMETRIC], alone[AFFINE]]
    assert tuned.drop == tuned.baseline.value - alone[best]


def test_the_cheapest_candidate_that_meets_the_target_is_chosen_over_a_better_one(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    options = {"candidates": [COARSE, SYMMETRIC], "calibration": task.inputs}
    loose = wrapped.tune(task, max_drop=60.0, **options, **quiet)
    assert [rule.recipe for rule in loose.scheme.rules] == [COARSE]
    coarse_drop = 100 * (loose.steps[0].drop or 0.0)
    tight = wrapped.tune(task, max_drop=coarse_drop / 2, **options, **quiet)
    assert tight.met
    assert tight.size_bytes > loose.size_bytes


CLIPPING = sv.Recipe(
    "clipping",
    weights=sv.QuantSpec("int8", "per-channel"),
    activations=sv.QuantSpec("int8", observer="percentile", percentile=99.0),
)


def test_a_layer_gets_another_recipe_where_that_is_enough_and_none_is_left_in_float(quiet: dict[str, Any]) -> None:
    wrapped, task = subject(net=Opposites)
    best = sv.Scheme((Rule("*", SYMMETRIC), Rule("clipped", CLIPPING)))
    ranges = wrapped.calibrate(task.inputs, [SYMMETRIC, CLIPPING])
    mixed = 100 * (1.0 - wrapped.evaluate(task, best).value)
    tuned = wrapped.tune(task, max_drop=1.1 * mixed, candidates=[SYMMETRIC, CLIPPING], calibration=ranges, **quiet)
    assert [step.kind for step in tuned.steps] == [StepKind.CANDIDATE, StepKind.CANDIDATE, StepKind.CURE]
    assert not any(step.meets for step in tuned.steps[:2])
    assert tuned.met
    assert tuned.in_float == ()
    assert tuned.score.value == wrapped.evaluate(task, best).value
    assert tuned.steps[2].bought == pytest.approx(tuned.steps[0].drop - tuned.drop)  # type: ignore[operator]


def test_layers_are_left_in_float_where_no_recipe_is_enough(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    candidates = [SYMMETRIC, AFFINE]
    loose = wrapped.tune(task, max_drop=99.0, candidates=candidates, calibration=task.inputs, **quiet)
    target = 50 * loose.drop
    tuned = wrapped.tune(task, max_drop=target, candidates=candidates, calibration=task.inputs, **quiet)
    assert tuned.met
    assert 100 * tuned.drop <= target
    assert tuned.in_float
    assert {step.kind for step in tuned.steps} >= {StepKind.CANDIDATE, StepKind.PROTECT}
    assert score_of(wrapped, task, tuned) == tuned.score.value


def test_the_fewest_layers_of_the_ladder_are_left_in_float(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    tuned = wrapped.tune(task, max_drop=0.05, candidates=[SYMMETRIC], calibration=task.inputs, **quiet)
    assert tuned.met
    protecting = [step for step in tuned.steps if step.kind is StepKind.PROTECT and step.meets]
    assert len(tuned.in_float) <= min(step.in_float for step in protecting)


def test_a_target_of_nothing_is_met_by_the_float_model(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    tuned = wrapped.tune(task, max_drop=0, candidates=[SYMMETRIC], calibration=task.inputs, **quiet)
    assert tuned.met
    assert tuned.drop <= 0.0


def lopsided() -> tuple[sv.Wrapped, Closeness, float]:
    """A net whose channels are of other sizes, and a target that it meets on the equalized copy alone."""
    wrapped, task = subject(net=Lopsided)
    copied = wrapped.equalized()
    drops = [
        100 * (1.0 - each.evaluate(task, sv.Scheme.all(SYMMETRIC), calibration=task.inputs).value)
        for each in (wrapped, copied)
    ]
    assert drops[1] < drops[0] / 4
    return wrapped, task, drops[0] / 2


def test_the_equalized_copy_is_tried_before_any_layer_is_left_in_float(tmp_path: Path, quiet: dict[str, Any]) -> None:
    wrapped, task, target = lopsided()
    options = {"max_drop": target, "candidates": [SYMMETRIC], "calibration": task.inputs, "store": tmp_path / "s"}
    tuned = wrapped.tune(task, **options, **quiet)
    assert tuned.met
    assert tuned.equalized
    assert tuned.in_float == ()
    assert [(step.kind, step.what, step.equalized) for step in tuned.steps] == [
        (StepKind.CANDIDATE, "symmetric for all layers", False),
        (StepKind.CANDIDATE, "symmetric for all layers, equalized", True),
    ]
    assert score_of(wrapped, task, tuned) == tuned.score.value
    assert tuned.baseline.value == wrapped.evaluate(task).value
    assert tuned.drop == pytest.approx(tuned.baseline.value - tuned.score.value, abs=1e-12)
    assert "on the equalized copy" in repr(tuned)
    tuned.save(tmp_path / "tuned.json")
    assert sv.Tuned.load(tmp_path / "tuned.json").equalized
    before = task.passes
    again = wrapped.tune(task, **options, **quiet)
    assert [step.score for step in again.steps] == [step.score for step in tuned.steps]
    assert task.passes - before < 2 * len(task) / task.batch_size  # all but a check of the first batch is in the store


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_drops_of_the_equalized_copy_are_from_the_score_of_the_model_itself(
    higher_is_better: bool, quiet: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped, task, target = lopsided()
    sign = 1.0 if higher_is_better else -1.0
    closeness = Closeness.score
    offsets = {id(wrapped.model): 0.0}

    def predict(self: Closeness, model: Any, batch: Any) -> list[Any]:
        off = offsets.setdefault(id(model), 0.01)  # the copy scores a point less, as rounding might make it
        return [prediction + off for prediction in real(self, model, batch)]

    real = Closeness.predict
    monkeypatch.setattr(Closeness, "higher_is_better", higher_is_better)
    monkeypatch.setattr(Closeness, "predict", predict)
    monkeypatch.setattr(
        Closeness, "score", lambda self, predictions: {"closeness": sign * closeness(self, predictions)["closeness"]}
    )
    tuned = wrapped.tune(task, max_drop=target, candidates=[SYMMETRIC], calibration=task.inputs, **quiet)
    assert tuned.equalized
    assert tuned.drop == pytest.approx(sign * (tuned.baseline.value - tuned.score.value), abs=1e-12)
    assert tuned.drop > 0.01
    assert tuned.drop_low is not None
    assert tuned.drop_high is not None
    assert tuned.drop_low <= tuned.drop <= tuned.drop_high


def test_what_is_deployed_is_the_equalized_copy_where_that_is_what_was_tuned(quiet: dict[str, Any]) -> None:
    wrapped, task, target = lopsided()
    options = {"max_drop": target, "candidates": [SYMMETRIC], "calibration": task.inputs, "progress": False}
    tuned = wrapped.tune(task, engine="onnxruntime", **options)  # type: ignore[arg-type]
    copied = wrapped.equalized()
    deployed = copied.deploy(tuned.scheme, "onnxruntime", calibration=task.inputs)
    image = task.inputs[:1]
    assert torch.equal(tuned.deploy()(image), deployed(image))
    assert tuned.engine is not None
    assert tuned.engine.score == pytest.approx(tuned.score.value, abs=1e-4)


def test_layers_are_cured_on_the_equalized_copy_where_that_is_nearer_to_the_target(quiet: dict[str, Any]) -> None:
    wrapped, task, _ = lopsided()
    copied = wrapped.equalized().evaluate(task, sv.Scheme.all(SYMMETRIC), calibration=task.inputs)
    options = {"candidates": [SYMMETRIC], "calibration": task.inputs}
    tuned = wrapped.tune(task, max_drop=75 * (1.0 - copied.value), **options, **quiet)  # type: ignore[arg-type]
    assert tuned.met
    assert tuned.equalized
    assert {step.kind for step in tuned.steps if step.equalized} >= {StepKind.CANDIDATE, StepKind.PROTECT}
    assert score_of(wrapped, task, tuned) == tuned.score.value


def test_ranges_of_the_model_itself_do_not_serve_the_equalized_copy_and_that_is_said(quiet: dict[str, Any]) -> None:
    wrapped, task, target = lopsided()
    ranges = wrapped.calibrate(task.inputs, SYMMETRIC)
    tuned = wrapped.tune(task, max_drop=target, candidates=[SYMMETRIC], calibration=ranges, **quiet)
    assert not tuned.equalized
    assert any("the equalized copy was not tried: the calibration for recipe" in note for note in tuned.notes)


@pytest.mark.parametrize("max_drop", [0.01, 0.1, 1.0, 10.0])
def test_the_result_is_never_worse_than_the_best_candidate_of_its_cost(max_drop: float, quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    tuned = wrapped.tune(task, max_drop=max_drop, candidates=[SYMMETRIC, AFFINE], calibration=task.inputs, **quiet)
    candidates = [step.drop for step in tuned.steps if step.kind is StepKind.CANDIDATE and step.drop is not None]
    assert tuned.drop <= min(candidates)


def test_a_size_budget_is_kept_and_its_prediction_is_shown_beside_the_measurement(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    recipes = [sv.INT4_WEIGHTS, sv.INT8_WEIGHTS]
    least, most = (wrapped.size_bytes(sv.Scheme.all(recipe)) for recipe in recipes)
    budget = (least + most) // 2
    tuned = wrapped.tune(task, size_bytes=budget, candidates=recipes, **quiet)
    assert tuned.met
    assert least < tuned.size_bytes <= budget
    assert wrapped.size_bytes(tuned.scheme) == tuned.size_bytes
    step = next(step for step in tuned.steps if step.kind is StepKind.BUDGET)
    assert step.chosen
    assert step.predicted_db == pytest.approx(step.output_db, abs=3.0)
    inside = [step.score for step in tuned.steps if step.size_bytes <= budget and step.score is not None]
    assert tuned.score.value == max(inside)


def test_a_size_that_no_recipe_reaches_is_said_with_what_is_nearest(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    tuned = wrapped.tune(task, size_bytes=10, candidates=[sv.INT4_WEIGHTS, sv.INT8_WEIGHTS], **quiet)
    assert not tuned.met
    assert [rule.recipe for rule in tuned.scheme.rules] == [sv.INT4_WEIGHTS]
    assert "the target of at most 10 bytes was not met; the nearest that was measured has a drop of" in tuned.notes[-1]


def test_a_run_goes_on_from_its_store_and_ends_the_same(tmp_path: Path, quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    options = {"max_drop": 0.2, "candidates": [SYMMETRIC, AFFINE], "calibration": task.inputs, **quiet}
    plain = wrapped.tune(task, **options)
    first = wrapped.tune(task, store=tmp_path / "tune.jsonl", **options)
    before = task.passes
    again = wrapped.tune(task, store=tmp_path / "tune.jsonl", **options)
    measured = len({step.kind for step in again.steps}) and task.passes - before
    without_times = [
        replace(tuned, seconds=0.0, steps=tuple(replace(step, seconds=0.0) for step in tuned.steps))
        for tuned in (plain, first, again)
    ]
    assert without_times[0] == without_times[1] == without_times[2]
    assert measured <= 2 * len(again.steps)  # the float model on the first batch alone, and its outputs


def test_a_stop_measures_hopeless_schemes_on_fewer_images_and_the_chosen_one_on_all(quiet: dict[str, Any]) -> None:
    wrapped, task = subject(images=96)
    options = {"candidates": [COARSE, SYMMETRIC], "calibration": task.inputs[:16], **quiet}
    every = wrapped.tune(task, max_drop=5.0, **options)
    stopped = wrapped.tune(task, max_drop=5.0, stop=sv.Confidence(tolerance=5.0, minimum_images=16), **options)
    assert stopped.scheme == every.scheme
    assert stopped.steps[0].images < 96
    assert stopped.score.images == 96
    assert stopped.score.value == every.score.value


def test_a_target_within_the_interval_is_told_to_be_undecided_and_one_beyond_it_is_not(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    options = {"candidates": [SYMMETRIC], "calibration": task.inputs, **quiet}
    wide = wrapped.tune(task, max_drop=99.0, **options)
    assert wide.drop_high is not None
    assert wide.verdict is Verdict.HARMLESS
    assert not any("do not decide" in note for note in wide.notes)
    between = 50 * (wide.drop + wide.drop_high)
    near = wrapped.tune(task, max_drop=between, **options)
    assert near.met
    assert near.scheme == wide.scheme
    assert near.verdict is Verdict.UNDECIDED
    (note,) = (note for note in near.notes if "do not decide" in note)
    assert int(note.partition("about ")[2].split()[0]) > len(task)


def test_an_engine_that_misses_a_target_which_the_simulation_meets_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped, task = subject()
    far_off = sv.Score(0.25, {"closeness": 0.25}, "closeness", "%", len(task))
    monkeypatch.setattr("sensitivity.search.tune.evaluate", lambda *_: far_off)
    tuned = wrapped.tune(task, max_drop=50.0, candidates=[AFFINE], calibration=task.inputs, progress=False)
    (note,) = (note for note in tuned.notes if "openvino does not" in note)
    assert f"its own drop is {100 * (tuned.baseline.value - 0.25):.2f} points" in note


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, StudyError, "tune needs a target: give max_drop="),
        ({"max_drop": -0.5}, StudyError, "max_drop=-0.5 asks for a better score than the model has in fp32"),
        ({"size_bytes": 0}, StudyError, "size_bytes=0: give 1 or more"),
        ({"latency_s": 0.0}, StudyError, "latency_s=0.0: give seconds above zero"),
        ({"latency_s": 1.0}, EngineError, "latency_s= needs an engine to measure on"),
        ({"latency_s": 1.0, "engine": "onnxruntime"}, EngineError, "needs an engine that tells the time of single"),
        ({"max_drop": 1.0, "engine": "abacus"}, EngineError, "no engine is called 'abacus'"),
        ({"max_drop": 1.0, "candidates": []}, RecipeError, r"candidates=\[\]: give one or more recipes"),
        ({"max_drop": 1.0, "candidates": "int8"}, RecipeError, "candidates='int8': give one or more recipes"),
        ({"max_drop": 1.0, "candidates": [3]}, RecipeError, "candidates holds 3, which is no recipe"),
        ({"max_drop": 1.0, "candidates": [sv.INT8, sv.INT8]}, RecipeError, "two candidates are called 'int8'"),
        (
            {"max_drop": 1.0, "candidates": [sv.THESIS], "engine": "openvino"},
            EngineError,
            "OpenVINO runs none of the candidates",
        ),
        ({"max_drop": 1.0, "calibration": []}, CalibrationError, "holds no image to calibrate with"),
        ({"max_drop": 1.0}, CalibrationError, "no ranges for them are at hand"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_task_runs(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    wrapped, task = subject()
    with pytest.raises(error, match=message):
        wrapped.tune(task, **{"engine": None, "progress": False, **options})
    assert task.passes == 0


def test_a_latency_is_refused_where_the_engine_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped, task = subject()
    missing = MissingPackageError("openvino is not installed")
    monkeypatch.setattr("sensitivity.deploy.engines.registry.need", lambda *_: (_ for _ in ()).throw(missing))
    with pytest.raises(MissingPackageError, match="openvino is not installed"):
        wrapped.tune(task, latency_s=1.0, calibration=task.inputs, progress=False)
    tuned = wrapped.tune(task, max_drop=50.0, candidates=[SYMMETRIC], calibration=task.inputs, progress=False)
    assert tuned.engine is None
    assert "OpenVINO does not run here: openvino is not installed" in tuned.notes


def test_a_task_without_images_is_refused(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    calibration = task.inputs
    task.inputs = task.inputs[:0]
    with pytest.raises(TaskError, match="closeness has no images"):
        wrapped.tune(task, max_drop=1.0, calibration=calibration, **quiet)


def test_ranges_at_hand_choose_among_the_usual_candidates(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    ranges = wrapped.calibrate(task.inputs, sv.INT8)
    tuned = wrapped.tune(task, max_drop=50.0, calibration=ranges, **quiet)
    assert [step.recipe for step in tuned.steps] == [sv.INT8.name]
    (note,) = (note for note in tuned.notes if "no ranges are at hand for" in note)
    assert sv.INT8_AFFINE.name in note


def test_the_engine_scores_the_chosen_scheme_and_is_timed_against_float() -> None:
    wrapped, task = subject()
    options = {"candidates": [AFFINE], "calibration": task.inputs, "progress": False}
    tuned = wrapped.tune(task, max_drop=50.0, latency_s=10.0, **options)
    assert tuned.met
    assert tuned.score.value == max(step.score for step in tuned.steps if step.score is not None)
    assert tuned.engine is not None
    assert (tuned.engine.engine, tuned.engine.quantized) == ("openvino", len(tuned.layers) - len(tuned.in_float))
    deployed = tuned.deploy()
    predictions: dict[int, Any] = {}
    for batch in task.batches():
        predictions |= zip(batch.images, task.predict(deployed, batch), strict=True)
    assert tuned.engine.score == pytest.approx(task.score(predictions)["closeness"], abs=1e-6)
    assert tuned.engine.speedup is not None
    assert tuned.engine.speedup > 0


def test_a_latency_that_cannot_be_met_is_said() -> None:
    wrapped, task = subject()
    tuned = wrapped.tune(task, latency_s=1e-9, candidates=[AFFINE], calibration=task.inputs, progress=False)
    assert not tuned.met
    assert "the target of at most 1e-06 ms a run was not met" in tuned.notes[-1]


def stated(wrapped: sv.Wrapped, dear: Collection[str]) -> Latency:
    """Times on no engine: protecting one of these takes a second more, any other a millisecond."""
    pairs = {name: (0.1, 0.1 + (1.0 if name in dear else 0.001)) for name in wrapped.layers.names}
    return Latency("net", SYMMETRIC, "made", 1.0, 2.0, pairs)


def test_layers_that_are_dear_to_protect_by_their_times_stay_quantized(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    options = {"candidates": [SYMMETRIC, AFFINE], "calibration": task.inputs, **quiet}
    loose = wrapped.tune(task, max_drop=99.0, **options)
    by_bytes = wrapped.tune(task, max_drop=50 * loose.drop, **options)
    assert by_bytes.in_float
    dear = stated(wrapped, by_bytes.in_float)
    by_time = wrapped.tune(task, max_drop=50 * loose.drop, latency=dear, **options)
    assert by_time.met
    assert not set(by_time.in_float) & set(by_bytes.in_float)


@pytest.mark.parametrize("dear", [slice(0, 2), slice(2, 4)])
def test_a_latency_is_spent_on_the_layers_that_cost_little_by_the_times_given(dear: slice) -> None:
    wrapped, task = subject()
    names = wrapped.layers.names
    latency = stated(wrapped, names[dear])
    options = {"candidates": [COARSE], "calibration": task.inputs, "progress": False}
    tuned = wrapped.tune(task, latency_s=1.1, latency=latency, **options)
    assert tuned.in_float == tuple(name for name in names if name not in names[dear])
    explained = wrapped.explain_tune(task, latency_s=1.1, latency=latency, candidates=[COARSE], calibration=task.inputs)
    assert explained.most_passes >= explained.least_passes > 0


def test_times_of_another_model_are_refused(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    latency = replace(stated(wrapped, ()), layers={"nowhere": (0.1, 0.2)})
    with pytest.raises(StudyError, match=r"times of layers that .* does not have: nowhere"):
        wrapped.tune(task, max_drop=1.0, latency=latency, calibration=task.inputs, candidates=[SYMMETRIC], **quiet)


def test_passes_run_elsewhere_where_an_executor_is_given(quiet: dict[str, Any]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    wrapped, task = subject()
    options = {"max_drop": 50.0, "candidates": [SYMMETRIC], "calibration": task.inputs, **quiet}
    local = wrapped.tune(task, **options)
    with ThreadPoolExecutor(1) as pool:
        remote = wrapped.tune(task, executor=pool, **options)
    assert remote.score == local.score


def test_a_tuned_model_survives_saving_and_pickling(tmp_path: Path, quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    tuned = wrapped.tune(task, max_drop=0.2, candidates=[SYMMETRIC, AFFINE], calibration=task.inputs, **quiet)
    tuned.save(tmp_path / "tuned.json")
    loaded = sv.Tuned.load(tmp_path / "tuned.json")
    assert loaded == tuned
    assert pickle.loads(pickle.dumps(tuned)) == tuned
    with pytest.raises(StudyError, match="a tuned model from a file has a scheme and no model"):
        loaded.deploy()
    plain = json.loads((tmp_path / "tuned.json").read_text())
    for wrong in ({**plain, "schema": 99}, {key: plain[key] for key in plain if key != "goal"}, {"schema": 1}):
        with pytest.raises(StudyError, match=r"not a complete tuned model|tuned model of schema 99"):
            sv.Tuned.from_json(wrong)


def test_table_text_page_and_picture_show_every_step(tmp_path: Path, quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    tuned = wrapped.tune(task, max_drop=0.2, candidates=[SYMMETRIC, AFFINE], calibration=task.inputs, **quiet)
    table = tuned.table()
    assert list(table["what"]) == [step.what for step in tuned.steps]
    assert list(table["drop"]) == pytest.approx([100 * step.drop for step in tuned.steps])  # type: ignore[operator]
    assert table["chosen"].sum() == 1
    text = repr(tuned)
    assert text.startswith("uneven meets a drop of at most 0.2 points on closeness")
    assert all(step.what in text for step in tuned.steps)
    tuned.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert all(step.what in page for step in tuned.steps)
    picture = tuned.plot(tmp_path / "path.png")
    points = [line for line in picture.axes[0].lines if line.get_gid() == "step"]
    assert [line.get_xdata()[0] for line in points] == pytest.approx([100 * step.score for step in tuned.steps])  # type: ignore[operator,index]
    ends = [end for line in picture.axes[0].lines if line.get_gid() == "interval" for end in line.get_xdata()]  # type: ignore[union-attr]
    low, high = picture.axes[0].get_xlim()
    assert ends
    assert low < min(ends)  # type: ignore[type-var,operator]
    assert max(ends) < high  # type: ignore[type-var,operator]
    with pytest.raises(StudyError, match=r"cannot save a figure as 'path\.txt'"):
        tuned.plot(tmp_path / "path.txt")


def test_the_model_is_left_as_it_was(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    before = {name: tensor.clone() for name, tensor in wrapped.model.state_dict().items()}
    wrapped.model.train()
    wrapped.tune(task, max_drop=0.2, candidates=[SYMMETRIC, AFFINE], calibration=task.inputs, **quiet)
    assert wrapped.model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in wrapped.model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in wrapped.model.state_dict().items())


def test_schemes_that_all_fail_end_the_search_with_their_reason(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    plain = task.score

    def score(predictions: dict[int, float]) -> dict[str, float]:
        return plain(predictions) if max(predictions.values()) == 0 else {"closeness": float("nan")}

    task.score = score  # type: ignore[method-assign,assignment]
    with pytest.raises(TaskError, match="none of the schemes could be measured: closeness is not a number"):
        wrapped.tune(task, size_bytes=10**9, candidates=[SYMMETRIC], calibration=task.inputs, **quiet)


def test_ctrl_c_ends_the_search_and_the_store_goes_on(tmp_path: Path, quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    options = {"max_drop": 50.0, "candidates": [SYMMETRIC, AFFINE], "calibration": task.inputs, **quiet}
    plain = task.predict

    def predict(model: Any, batch: Any) -> list[Any]:
        if task.passes == 4:
            raise KeyboardInterrupt
        return plain(model, batch)

    task.predict = predict  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        wrapped.tune(task, store=tmp_path / "tune.jsonl", **options)
    task.predict = plain  # type: ignore[method-assign]
    again = wrapped.tune(task, store=tmp_path / "tune.jsonl", **options)
    assert again.score == wrapped.tune(task, **options).score


def test_explain_tells_the_passes_of_a_search_that_one_candidate_ends(quiet: dict[str, Any]) -> None:
    wrapped, task = subject(images=16)
    options = {"max_drop": 50.0, "candidates": [SYMMETRIC, AFFINE], "calibration": task.inputs, "engine": None}
    cost = wrapped.explain_tune(task, **options)  # type: ignore[arg-type]
    tuned = wrapped.tune(task, progress=False, **options)  # type: ignore[arg-type]
    assert cost.least_passes == tuned.passes == 3.0
    assert (cost.candidates, cost.groups, cost.images) == (2, 4, 16)
    assert cost.most_passes > cost.least_passes
    assert cost.most_s > cost.least_s > 0.0
    assert cost.quantized_pass_s > cost.pass_s > 0.0
    assert str(cost).startswith("2 candidates on 16 images: about")
    assert not cost.at_most
    stopping = wrapped.explain_tune(task, stop=sv.Confidence(tolerance=1.0), **options)  # type: ignore[arg-type]
    assert stopping.at_most


@pytest.mark.parametrize("max_drop", [0.001, 0.05, 1.0])
def test_no_search_takes_more_passes_than_explain_told(max_drop: float, quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    options = {"max_drop": max_drop, "candidates": [SYMMETRIC, AFFINE], "calibration": task.inputs, "engine": None}
    cost = wrapped.explain_tune(task, **options)  # type: ignore[arg-type]
    assert wrapped.tune(task, progress=False, **options).passes <= cost.most_passes  # type: ignore[arg-type]


def test_explain_counts_the_choices_of_a_budget(quiet: dict[str, Any]) -> None:
    wrapped, task = subject()
    recipes = [sv.INT4_WEIGHTS, sv.INT8_WEIGHTS]
    budget = wrapped.size_bytes(sv.Scheme.all(sv.INT4_WEIGHTS)) + 100
    cost = wrapped.explain_tune(task, size_bytes=budget, candidates=recipes, engine=None)
    assert wrapped.tune(task, size_bytes=budget, candidates=recipes, **quiet).passes == cost.most_passes


@pytest.mark.parametrize("verb", ["tune", "explain_tune"])
def test_bad_inputs_are_told_before_anything_is_computed(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped, task = subject()
    call = getattr(wrapped, verb)
    computed = pytest.MonkeyPatch()
    with computed.context() as patch:
        patch.setattr(nn.Module, "__call__", lambda *_, **__: pytest.fail("the model was run"))
        with pytest.raises(StudyError, match="tune needs a target"):
            call(task, calibration=task.inputs)
        with pytest.raises(StudyError, match="asks for a better score than the model has in fp32"):
            call(task, max_drop=-0.5, calibration=task.inputs)
        with pytest.raises(EngineError, match="OpenVINO runs none of the candidates"):
            call(task, max_drop=1.0, candidates=[sv.THESIS], calibration=task.inputs)
        nothing: list[Any] = [[], iter([]), torch.zeros(0, 3, 8, 8)]
        for empty in nothing:
            with pytest.raises(CalibrationError, match=r"(no|0) (image|batch)"):
                call(task, max_drop=1.0, calibration=empty)
        with pytest.raises(CalibrationError, match="no ranges for them are at hand"):
            call(task, max_drop=1.0)
