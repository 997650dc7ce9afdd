"""The sweep as a whole: scores, failures, directions, several recipes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import LayerNotFoundError, RecipeError, TaskError
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.state.state import ModelState
from sensitivity.sweep.plan import plan_sweep
from sensitivity.sweep.replay.replayer import Replayer
from sensitivity.sweep.run import sweep
from sensitivity.sweep.storage.journal import MemoryStore
from tests.sweep.mean_task import Chain, MeanTask
from tests.sweep.recording_task import RecordingTask


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1)
        self.dead = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x).relu()).relu())


@pytest.fixture
def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 3, 8, 8, generator=generator) for _ in range(3)]


@pytest.fixture
def wrapped(images: list[Tensor]) -> sv.Wrapped:
    return sv.wrap(Net().eval(), images[0])


def test_each_layer_has_the_score_that_evaluating_it_alone_gives(wrapped: sv.Wrapped, images: list[Tensor]) -> None:
    task = RecordingTask(images)
    study = wrapped.analyze(task, sv.INT8, calibration=images, progress=False)
    assert study.baseline == wrapped.evaluate(task)
    for layer, measurement in zip(wrapped.layers, study.measurements, strict=True):
        alone = wrapped.evaluate(task, sv.Scheme.only(layer.name, sv.INT8))
        assert (measurement.layer, measurement.score) == (layer.name, alone.value)
        assert measurement.drop == study.baseline.value - alone.value
        assert measurement.images == 3


def test_a_lower_is_better_metric_drops_when_it_rises(wrapped: sv.Wrapped, images: list[Tensor]) -> None:
    task = RecordingTask(images)
    up = wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)
    task.higher_is_better = False
    down = wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)
    assert [m.drop for m in up.measurements] == [-m.drop for m in down.measurements]  # type: ignore[operator]


def test_all_but_one_perturbs_every_other_layer(wrapped: sv.Wrapped, images: list[Tensor]) -> None:
    task = RecordingTask(images)
    study = wrapped.analyze(task, sv.INT4_WEIGHTS, direction="all-but-one", progress=False)
    names = wrapped.layers.names
    for name, measurement in zip(names, study.measurements, strict=True):
        scheme = sv.Scheme.all(sv.INT4_WEIGHTS).protect(name)
        assert measurement.score == wrapped.evaluate(task, scheme).value


def test_all_but_one_of_some_layers_leaves_the_others_alone(wrapped: sv.Wrapped, images: list[Tensor]) -> None:
    task, some = RecordingTask(images), ["first:0:0", "third:0:0"]
    study = wrapped.analyze(task, sv.INT4_WEIGHTS, layers=some, direction="all-but-one", progress=False)
    alone = [wrapped.evaluate(task, sv.Scheme.only(name, sv.INT4_WEIGHTS)).value for name in reversed(some)]
    assert [m.score for m in study.measurements] == alone


def test_the_images_of_the_calibration_that_was_used_are_told(wrapped: sv.Wrapped, images: list[Tensor]) -> None:
    wrapped.calibrate(images, sv.INT8)
    wrapped.calibrate(images[:2], sv.THESIS)
    recipes = ([sv.INT8], [sv.INT4_WEIGHTS], [sv.INT8, sv.THESIS])
    task = RecordingTask(images)
    studies = [wrapped.analyze(task, some, layers="second", progress=False) for some in recipes]
    assert [study.info["calibration_images"] for study in studies] == [3, 0, {"int8": 3, "thesis": 2}]


def test_a_study_knows_its_weights_data_and_versions(wrapped: sv.Wrapped, images: list[Tensor]) -> None:
    task = RecordingTask(images)
    info = wrapped.analyze(task, sv.INT4_WEIGHTS, layers="second", progress=False).info
    assert (info.version, info.torch, info.data) == (sv.__version__, torch.__version__, task.digest())
    with torch.no_grad():
        next(wrapped.model.parameters()).add_(1.0)
    fidelity = sv.FeatureFidelity([image[0] for image in images])
    other = wrapped.analyze(fidelity, sv.INT4_WEIGHTS, layers="second", progress=False).info
    assert other.weights != info.weights
    assert other.data != info.data


def test_several_recipes_give_one_study(wrapped: sv.Wrapped, images: list[Tensor]) -> None:
    recipes = [sv.INT4_WEIGHTS, sv.Prune(0.5)]
    study = wrapped.analyze(RecordingTask(images), recipes, layers="second", progress=False)
    assert [(m.layer, m.recipe) for m in study.measurements] == [("second:0:0", r.name) for r in recipes]
    assert set(study.recipes) == {"int4-weights", "prune-0.5"}


def test_a_layer_that_fails_becomes_a_row_with_its_reason(wrapped: sv.Wrapped, images: list[Tensor]) -> None:
    task = RecordingTask(images)
    plain = task.predict(wrapped.model, next(task.batches()))[0]["outputs"][0]
    original = wrapped.model.third.weight
    task.fail_on = lambda outputs: wrapped.model.third.weight is not original
    study = wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)
    first, second, third = study.measurements
    assert plain.size
    assert (first.status, second.status) == ("measured", "measured")
    assert (third.status, third.score, third.drop) == ("failed", None, None)
    assert third.reason == "RuntimeError: out of luck"
    table = study.table().set_index("name")
    assert math.isnan(table.loc["third:0:0", "score"])
    assert table.loc["third:0:0", "reason"] == "RuntimeError: out of luck"


def test_a_layer_that_fails_stops_the_sweep_where_that_is_asked(wrapped: sv.Wrapped, images: list[Tensor]) -> None:
    task = RecordingTask(images)
    original = wrapped.model.first.weight
    task.fail_on = lambda outputs: wrapped.model.first.weight is not original
    with pytest.raises(RuntimeError, match="out of luck"):
        wrapped.analyze(task, sv.INT4_WEIGHTS, on_error="raise", progress=False)
    assert wrapped.model.first.weight is original


def test_a_score_that_is_not_a_number_is_a_failure(wrapped: sv.Wrapped, images: list[Tensor]) -> None:
    task = RecordingTask(images)
    scores: list[float] = []

    def score(predictions: Any) -> dict[str, float]:
        scores.append(0.0)
        return {"mean": 1.0 if len(scores) == 1 else float("nan")}

    task.score = score  # type: ignore[method-assign]
    study = wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)
    assert {(m.status, m.reason) for m in study.measurements} == {("failed", "mean is not a number")}


def test_a_perturbation_that_changes_nothing_is_not_scored_again(wrapped: sv.Wrapped, images: list[Tensor]) -> None:
    task = RecordingTask(images)
    scored = []
    original = task.score
    task.score = lambda predictions: scored.append(1) or original(predictions)  # type: ignore[method-assign,func-returns-value]
    study = wrapped.analyze(task, sv.Prune(0.0), progress=False)
    assert len(scored) == 1
    assert [m.drop for m in study.measurements] == [0.0, 0.0, 0.0]


def test_modules_that_never_run_are_in_the_study_with_the_reason(wrapped: sv.Wrapped, images: list[Tensor]) -> None:
    study = wrapped.analyze(RecordingTask(images), sv.INT4_WEIGHTS, progress=False)
    assert [(s.module, s.reason) for s in study.skipped] == [("dead", "never called with the example inputs")]


def test_a_study_survives_saving(wrapped: sv.Wrapped, images: list[Tensor], tmp_path: Any) -> None:
    study = wrapped.analyze(RecordingTask(images), sv.INT4_WEIGHTS, progress=False)
    study.save(tmp_path / "study.json")
    assert sv.Study.load(tmp_path / "study.json") == study


def test_a_task_without_images_is_refused(wrapped: sv.Wrapped) -> None:
    with pytest.raises(TaskError, match="outputs has no images"):
        wrapped.analyze(RecordingTask([]), sv.INT4_WEIGHTS, progress=False)


def test_an_unknown_layer_is_refused_before_anything_runs(wrapped: sv.Wrapped, images: list[Tensor]) -> None:
    with pytest.raises(LayerNotFoundError, match="'frist'"):
        wrapped.analyze(RecordingTask(images), sv.INT4_WEIGHTS, layers="frist", progress=False)


@pytest.mark.parametrize(
    ("recipes", "direction", "message"),
    [
        ([], "one-at-a-time", "one or more recipes"),
        ([sv.INT4_WEIGHTS, sv.INT4_WEIGHTS], "one-at-a-time", "different names"),
        ([sv.INT4_WEIGHTS], "sideways", "direction='sideways' is not known"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(
    wrapped: sv.Wrapped, images: list[Tensor], recipes: list[sv.Recipe], direction: Any, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        wrapped.analyze(RecordingTask(images), recipes, direction=direction, progress=False)


def test_the_progress_bar_names_layers_when_it_is_asked_for(
    wrapped: sv.Wrapped, images: list[Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped.analyze(RecordingTask(images), sv.INT4_WEIGHTS, progress=True)
    assert "third:0:0" in capsys.readouterr().err
    wrapped.analyze(RecordingTask(images), sv.INT4_WEIGHTS, progress=False)
    assert capsys.readouterr().err == ""


def test_a_task_that_compares_with_the_unperturbed_model_gets_its_reference(
    wrapped: sv.Wrapped, images: list[Tensor]
) -> None:
    task = sv.FeatureFidelity([image[0] for image in images])
    study = wrapped.analyze(task, [sv.INT8_WEIGHTS, sv.INT4_WEIGHTS], progress=False)
    fine, coarse = study.of_recipe("int8-weights"), study.of_recipe("int4-weights")
    assert all(f.score > c.score + 12 for f, c in zip(fine, coarse, strict=True))  # four bits are 24 dB
    assert study.baseline.value > fine[0].score


def test_a_watcher_is_told_the_layer_the_count_and_the_worst_layers_so_far() -> None:
    wrapped = sv.wrap(Chain().eval(), MeanTask(1).inputs)
    reports: list[tuple[int, int, str]] = []
    variants = plan_sweep(list(wrapped.layers), [sv.INT4_WEIGHTS], direction="one-at-a-time")
    task = MeanTask(16)
    sweep(wrapped.model, task, variants, Perturber(wrapped.model, []), watch=lambda *report: reports.append(report))
    assert [done for done, _, _ in reports] == list(range(4, 65, 4))
    assert {total for _, total, _ in reports} == {64}
    assert reports[0][2] == "stem:0:0"
    worst = max(wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False).measurements, key=lambda row: row.drop or 0)
    assert f"(worst: {worst.layer} {100 * (worst.drop or 0):.1g}" in reports[-1][2]
    assert reports[-1][2].endswith(" points)")


def test_a_sweep_of_few_passes_surveys_no_model_and_one_of_more_does(monkeypatch: pytest.MonkeyPatch) -> None:
    surveyed: list[int] = []
    record = Replayer.record

    def noted(replayer: Replayer, run: Any, variants: Sequence[Iterable[nn.Module]], **keywords: Any) -> Any:
        surveyed.append(len(variants))
        return record(replayer, run, variants, **keywords)

    monkeypatch.setattr(Replayer, "record", noted)
    wrapped = sv.wrap(Chain().eval(), MeanTask(1).inputs)
    for images, times in {16: 0, 20: 5}.items():  # four layers, four images a batch: 16 passes, and 20
        surveyed.clear()
        study = wrapped.analyze(MeanTask(images), sv.INT4_WEIGHTS, progress=False)
        assert len(surveyed) == times
        in_full = wrapped.analyze(MeanTask(images), sv.INT4_WEIGHTS, replay=False, progress=False)
        assert [row.drop for row in study.measurements] == [row.drop for row in in_full.measurements]
        assert not study.notes


def test_replay_that_saves_nothing_is_given_up_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last layer's time is all that there is, so that no pass is shorter than another."""

    class Late(MeanTask):
        def predict(self, model: Callable[..., Any], batch: Any) -> list[Any]:
            predictions = super().predict(model, batch)
            until = time.thread_time() + 0.01  # decoding, which every pass does
            while time.thread_time() < until:
                pass
            return predictions

    records: list[int] = []
    record = Replayer.record

    def noted(*arguments: Any, **keywords: Any) -> Any:
        records.append(1)
        return record(*arguments, **keywords)

    monkeypatch.setattr(Replayer, "record", noted)
    wrapped = sv.wrap(Chain().eval(), MeanTask(1).inputs)
    study = wrapped.analyze(Late(20), sv.INT4_WEIGHTS, progress=False)
    assert len(records) == 1, "only the first of five batches was recorded"
    expected = wrapped.analyze(MeanTask(20), sv.INT4_WEIGHTS, progress=False)
    assert len(records) == 1 + 5
    assert [row.drop for row in study.measurements] == [row.drop for row in expected.measurements]
    assert study.notes == ()


def test_what_a_check_of_replay_has_found_is_not_run_again() -> None:
    wrapped, task = sv.wrap(Chain().eval(), MeanTask(1).inputs), MeanTask(20)
    wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)
    first_batch = 2 + 2 * 4  # surveyed and recorded; then each layer in full and replayed, which is all of them
    assert task.passes == first_batch + 4 * (1 + 4)


def test_a_sweep_reads_what_the_model_holds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[nn.Module] = []
    read = ModelState.__init__
    monkeypatch.setattr(ModelState, "__init__", lambda state, model: (reads.append(model), read(state, model))[1])
    wrapped = sv.wrap(Chain().eval(), MeanTask(1).inputs)
    reads.clear()
    for images in (1, 20):
        wrapped.analyze(MeanTask(images), sv.INT4_WEIGHTS, progress=False)
    assert reads == [wrapped.model] * 2


class Condensing(MeanTask):
    """Notes the images whose predictions it was asked to condense."""

    def condensed(self, predictions: Mapping[int, Any]) -> dict[int, Any]:
        self.condensed_images = [*getattr(self, "condensed_images", []), *predictions]
        return dict(predictions)


def test_predictions_of_variants_are_condensed_where_a_store_keeps_them() -> None:
    wrapped, task, store = sv.wrap(Chain().eval(), MeanTask(1).inputs), Condensing(8), MemoryStore()
    without = wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)
    assert not hasattr(task, "condensed_images")
    study = wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False, store=store)
    assert sorted(task.condensed_images) == sorted(list(range(8)) * 4), "each image of each of the four layers"
    assert [row.drop for row in study.measurements] == [row.drop for row in without.measurements]
