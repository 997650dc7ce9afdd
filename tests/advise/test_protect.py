from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sensitivity as sv
from sensitivity.advise.protect import protect, trade_offs
from sensitivity.errors import StudyError
from sensitivity.records import QuantSpec, Recipe, Scheme
from sensitivity.records.results.latency import Latency, latency_of
from sensitivity.records.results.times import Circumstances
from sensitivity.records.size import layer_bytes
from sensitivity.study import Study
from tests.deploy.nets import NETS, build, images
from tests.made_studies import INT4, INT8, make_study, random_study, with_second_recipe
from tests.sweep.mean_task import Chain, MeanTask


def protected(scheme: Scheme) -> list[str]:
    first, *rest = scheme.rules
    assert first.pattern == "*"
    assert first.recipe is not None
    assert all(rule.recipe is None for rule in rest)
    assert [rule.pattern for rule in rest] == list(scheme.reasons)
    return list(scheme.reasons)


def counted_bytes(study, scheme: Scheme) -> int:
    recipe = scheme.rules[0].recipe
    return sum(layer_bytes(layer, None if layer.name in scheme.reasons else recipe) for layer in study.layers)


def left_drop(study, scheme: Scheme) -> float:
    return sum(max(m.drop, 0.0) for m in study.measurements if m.drop is not None and m.layer not in scheme.reasons)


def test_top_protects_the_worst_and_says_why() -> None:
    study = make_study([0.01, 0.0431, 0.02, -0.3])
    scheme = protect(study, top=2)
    worst, second = study.layers[1], study.layers[2]
    assert protected(scheme) == [worst.name, second.name]
    assert scheme.reasons[worst.name] == "drop 4.31 points (rank 1 of 4), dip, depthwise"
    assert scheme.reasons[second.name] == "drop 2.00 points (rank 2 of 4), dip, exit, no-activation"
    assert scheme.predicted_drop == pytest.approx(0.01)
    assert scheme.size_bytes == counted_bytes(study, scheme)


def test_max_drop_is_in_points_and_protects_no_more_than_needed() -> None:
    study = make_study([0.01, 0.04, 0.02, -0.3])
    assert len(protected(protect(study, max_drop=7.01))) == 0
    assert len(protected(protect(study, max_drop=3.01))) == 1
    assert len(protected(protect(study, max_drop=1.01))) == 2
    assert len(protected(protect(study, max_drop=0.0))) == 3, "a gain need not be protected"


@given(st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=12), st.floats(0.0, 60.0))
def test_max_drop_holds_and_one_layer_fewer_would_break_it(drops: list[float], max_drop: float) -> None:
    study = make_study(list(drops))
    scheme = protect(study, max_drop=max_drop)
    names = protected(scheme)
    assert scheme.predicted_drop is not None
    assert scheme.predicted_drop <= max_drop / 100
    assert scheme.predicted_drop == pytest.approx(left_drop(study, scheme))
    if names:
        fewer = protect(study, top=len(names) - 1)
        assert fewer.predicted_drop is not None
        assert fewer.predicted_drop > max_drop / 100


def test_size_prefers_the_drop_avoided_for_each_byte() -> None:
    # a 3x3 depthwise layer has 144 weights, a 3x3 convolution 2304
    study = make_study([0.0, 0.02, 0.0, 0.03])
    depthwise, dense = study.layers[1], study.layers[3]
    least = protect(study, top=0).size_bytes
    assert least is not None
    assert protected(protect(study, size_bytes=least)) == []
    assert protected(protect(study, size_bytes=least + 3 * 144)) == [depthwise.name]
    assert protected(protect(study, size_bytes=least + 3 * 2304)) == [depthwise.name]
    assert protected(protect(study, size_bytes=least + 3 * 2448)) == [dense.name, depthwise.name]


@given(st.integers(0, 40_000), st.integers(0, 5))
def test_size_is_never_exceeded(extra: int, seed: int) -> None:
    study = random_study(20, seed=seed, failed=2)
    least = protect(study, top=0).size_bytes
    assert least is not None
    scheme = protect(study, size_bytes=least + extra)
    assert scheme.size_bytes is not None
    assert scheme.size_bytes == counted_bytes(study, scheme) <= least + extra


def test_a_recipe_that_saves_no_bytes_protects_every_drop_within_any_budget() -> None:
    activations = Recipe("INT8", activations=QuantSpec())
    study = make_study([0.1, -0.1, 0.2], recipes={"INT8": activations})
    size = protect(study, top=0).size_bytes
    scheme = protect(study, size_bytes=size)
    assert protected(scheme) == [study.layers[2].name, study.layers[0].name]
    assert scheme.size_bytes == size


def test_layers_nothing_is_known_of_are_protected_with_the_reason() -> None:
    study = make_study([0.1, None, 0.2, 0.3])
    study = replace(study, measurements=study.measurements[:3])
    scheme = protect(study, top=1)
    assert scheme.reasons == {
        study.layers[2].name: "drop 20.00 points (rank 1 of 2), dip, exit, no-activation",
        study.layers[1].name: "not measured: NaN in the output",
        study.layers[3].name: "not measured: not in the analysis",
    }
    assert scheme.predicted_drop == pytest.approx(0.1)
    assert scheme.size_bytes == counted_bytes(study, scheme)


def test_the_recipe_is_chosen_by_name() -> None:
    study = with_second_recipe(make_study([0.1, 0.2]))
    assert protect(study, top=0, recipe="INT4").recipes == (INT4,)
    assert protect(study, top=0, recipe="INT8").recipes == (INT8,)
    with pytest.raises(StudyError, match="2 recipes; name one"):
        protect(study, top=0)


@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ({}, "exactly one of top, max_drop, size_bytes, latency_s; given: none"),
        ({"top": 1, "max_drop": 0.5}, "given: top, max_drop"),
        ({"top": 4}, "give 0 to 3"),
        ({"top": -1}, "give 0 to 3"),
        ({"max_drop": -0.5}, "zero or more points"),
        ({"max_drop": math.nan}, "zero or more points"),
        ({"size_bytes": 10}, "size_bytes=10 is too small"),
        ({"latency_s": 1.0}, "no times of recipe 'INT8': a latency budget needs"),
    ],
)
def test_criteria_that_make_no_sense_are_refused(criteria: dict[str, float], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        protect(make_study([0.1, 0.2, 0.3]), **criteria)


def test_all_but_one_cannot_tell_what_to_protect() -> None:
    with pytest.raises(StudyError, match="direction='one-at-a-time'"):
        protect(make_study([0.1], direction="all-but-one"), top=1)


def test_an_infinite_drop_is_protected_first_and_leaves_a_finite_prediction() -> None:
    study = make_study([0.1, math.inf, 0.2])
    scheme = protect(study, max_drop=30.01)
    assert protected(scheme) == [study.layers[1].name]
    assert scheme.predicted_drop == pytest.approx(0.3)


def test_the_scheme_survives_json() -> None:
    scheme = protect(make_study([0.1, None, 0.3]), top=1)
    assert Scheme.from_json(scheme.to_json()) == scheme


def test_trade_offs_run_from_everything_quantized_to_nothing() -> None:
    study = random_study(30, failed=1)
    curve = trade_offs(study)
    assert [point.protected for point in curve] == list(range(30))
    assert curve[-1].predicted_drop == 0.0
    assert curve[-1].size_bytes == sum(layer_bytes(layer, None) for layer in study.layers)
    assert all(a.size_bytes < b.size_bytes for a, b in pairwise(curve))
    assert all(a.predicted_drop >= b.predicted_drop for a, b in pairwise(curve))
    for point in curve:
        scheme = protect(study, top=point.protected)
        assert (scheme.size_bytes, scheme.predicted_drop) == (point.size_bytes, point.predicted_drop)


def timed(drops: list[float | None], times: list[tuple[float, float]], whole: float = 1.0) -> Study:
    """A study with the seconds of each layer, quantized and in float."""
    study = make_study(drops)
    layers = {layer.name: pair for layer, pair in zip(study.layers, times, strict=True)}
    return study.with_latency(Latency(study.model, INT8, "openvino", whole, 9.0, layers))


def test_latency_prefers_the_drop_avoided_for_each_second() -> None:
    study = timed([0.02, 0.03, 0.0, 0.01], [(0.1, 0.3), (0.1, 1.1), (0.1, 0.2), (0.2, 0.1)])
    small, dear, _, free = (layer.name for layer in study.layers)
    assert protected(protect(study, latency_s=1.0)) == [free], "the engine is faster in float there"
    assert protected(protect(study, latency_s=1.1)) == [small, free]
    assert protected(protect(study, latency_s=2.0)) == [small, free], "0.1 of drop for a second before 0.03"
    assert protected(protect(study, latency_s=2.11)) == [dear, small, free]


def test_a_cost_that_is_lost_in_noise_makes_no_layer_free() -> None:
    study = timed([0.03, 0.02], [(0.1, 0.2), (0.1, 0.1)])
    told_apart, noisy = (layer.name for layer in study.layers)
    known = latency_of(study, "INT8")
    assert known is not None
    circumstances = Circumstances(
        rounds=5,
        runs=50,
        threads=1,
        cpus=(),
        spread_s=(0.0, 0.0),
        graph_changes=((0, 0.0), (0, 0.0)),
        protecting_s={told_apart: 0.1, noisy: -0.01},
        protecting_spread_s={told_apart: 0.01, noisy: 0.5},
    )
    measured = study.with_latency(replace(known, circumstances=circumstances))
    assert protected(protect(measured, latency_s=1.1)) == [told_apart], "the other may take half a second"
    assert protected(protect(measured, latency_s=1.6)) == [told_apart, noisy]


def test_a_latency_that_nothing_can_meet_is_refused() -> None:
    study = timed([0.02, None], [(0.1, 0.3), (0.1, 0.6)])
    assert len(protected(protect(study, latency_s=1.5))) == 1, "a layer that failed is protected and costs its time"
    with pytest.raises(StudyError, match=r"latency_s=1.2 is too short: .* openvino already takes 1.5 s"):
        protect(study, latency_s=1.2)


def test_times_survive_saving_and_belong_to_their_recipe(tmp_path: Path) -> None:
    study = timed([0.02, 0.03], [(0.1, 0.3), (0.1, 1.1)])
    study.save(tmp_path / "study.json")
    loaded = Study.load(tmp_path / "study.json")
    assert latency_of(loaded, "INT8") == latency_of(study, "INT8")
    assert [point.latency_s for point in trade_offs(loaded)] == pytest.approx([1.0, 2.0, 2.2])
    with pytest.raises(StudyError, match="does something else than this study's: INT8"):
        study.with_latency(replace(latency_of(study, "INT8"), recipe=INT4))
    with pytest.raises(StudyError, match="times of layers that this study does not have: nowhere"):
        study.with_latency(replace(latency_of(study, "INT8"), layers={"nowhere": (0.0, 0.0)}))


@pytest.mark.parametrize("name", NETS)
def test_what_is_predicted_in_decibels_is_what_is_measured(name: str) -> None:
    wrapped = sv.wrap(build(NETS[name]), images(1))
    wrapped.calibrate([images(8, seed=1)])
    task = sv.FeatureFidelity(list(images(8, seed=3)))
    study = wrapped.analyze(task, sv.INT8, progress=False)
    for count in (0, 3, 8):
        scheme = study.protect(top=count)
        assert scheme.predicted_drop is not None
        predicted = study.baseline.value - scheme.predicted_drop
        assert predicted == pytest.approx(wrapped.evaluate(task, scheme).value, abs=1.5)
    assert study.protect(top=len(study.layers)).predicted_drop == 0.0
    assert study.protect(max_drop=0.0).predicted_drop == 0.0


@pytest.mark.parametrize(
    "criterion",
    [{"top": 1.5}, {"top": True}, {"top": "2"}, {"max_drop": "0.5"}, {"size_bytes": "1 MB"}, {"latency_s": [1]}],
)
def test_a_criterion_that_is_no_number_is_refused_by_name(criterion: dict[str, object]) -> None:
    [(name, value)] = criterion.items()
    with pytest.raises(StudyError, match=re.escape(f"{name}={value!r}: give a ")):
        protect(make_study([0.1, 0.2]), **criterion)


def test_a_number_of_numpy_is_as_good_as_another() -> None:
    study = make_study([0.1, 0.2])
    assert protect(study, top=np.int64(1)) == protect(study, top=1)
    assert protect(study, max_drop=np.float32(0.5)) == protect(study, max_drop=0.5)


def with_losses(losses: np.ndarray) -> Study:
    """A study of layers whose drop is the mean of a loss of each image, with what it is without each of 20 groups."""
    study = make_study(losses.mean(axis=1).tolist())
    group = np.arange(losses.shape[1]) % 20
    without = [[row[group != number].mean() for number in range(20)] for row in losses]
    rows = [replace(m, drops_without=tuple(some)) for m, some in zip(study.measurements, without, strict=True)]
    return Study.of(replace(study, measurements=tuple(rows)))


def test_the_chance_to_miss_the_target_is_that_of_a_bootstrap_of_the_images() -> None:
    draw = np.random.default_rng(0)
    losses = draw.normal([[0.004], [0.002], [0.03], [-0.01]], 0.04, (4, 400))
    losses[1] += losses[0] - losses[0].mean()  # what hurts one layer hurts the other
    scheme = with_losses(losses).protect(max_drop=0.7)
    assert len(scheme.reasons) == 1
    left = losses[:2].sum(axis=0)
    resampled = left[draw.integers(0, 400, (4000, 400))].mean(axis=1)
    assert scheme.miss_probability == pytest.approx((resampled > 0.007).mean(), abs=0.08)
    alone = with_losses(np.stack([losses[0], draw.permutation(losses[1]), *losses[2:]])).protect(max_drop=0.9)
    together = with_losses(losses).protect(max_drop=0.9)
    assert together.miss_probability > alone.miss_probability, "layers that move together are less certain"


def test_the_chance_to_miss_is_said_kept_and_forgotten_with_the_prediction() -> None:
    losses = np.random.default_rng(0).normal([[0.004], [0.03]], 0.04, (2, 400))
    scheme = with_losses(losses).protect(max_drop=0.5)
    assert 0.1 < scheme.miss_probability < 0.5
    assert f"beyond the target with a chance of {100 * scheme.miss_probability:.0f} %" in repr(scheme)
    assert Scheme.from_json(scheme.to_json()) == scheme
    assert scheme.protect("@exit").miss_probability is None
    assert "under 1 %" in repr(replace(scheme, miss_probability=0.001))


def test_what_more_images_may_shift_adds_to_the_chance_to_miss_the_target() -> None:
    losses = np.random.default_rng(0).normal([[0.004], [0.002]], 0.04, (2, 400))
    study = with_losses(losses)

    def chance(*shifts: tuple[float, ...]) -> float:
        rows = [replace(m, drop_shifts=some) for m, some in zip(study.measurements, shifts, strict=True)]
        chance_to_miss = replace(study, measurements=tuple(rows)).protect(max_drop=1.5).miss_probability
        return -1.0 if chance_to_miss is None else chance_to_miss

    known = chance((), ())
    assert 0.0 < known < chance((0.01, -0.01), (0.01, -0.01)) < 0.5
    assert chance((0.01, -0.01), (-0.01, 0.01)) == pytest.approx(known), "shifts of layers that cancel out"
    assert chance((0.01,), (0.01, 0.01)) == -1.0, "of different halves"


def test_a_study_of_an_older_version_has_no_shifts_and_loads() -> None:
    plain = with_losses(np.ones((1, 40))).to_json()
    for row in plain["measurements"]:
        del row["drop_shifts"]
    assert Study.from_json(plain).measurements[0].drop_shifts == ()


def test_no_chance_is_named_where_nothing_is_known_of_it() -> None:
    losses = np.random.default_rng(0).normal([[0.004], [0.03]], 0.04, (2, 400))
    study = with_losses(losses)
    assert study.protect(top=1).miss_probability is None, "no target"
    first, second = study.measurements
    partly = replace(study, measurements=(replace(first, drops_without=()), second))
    assert partly.protect(max_drop=1e3).miss_probability is None, "one layer has no groups"
    assert make_study([0.01, 0.02]).protect(max_drop=1.0).miss_probability is None


def test_a_sweep_of_all_images_keeps_what_the_chance_comes_from() -> None:
    task, wrapped = MeanTask(40), sv.wrap(Chain().eval(), MeanTask(1).inputs)
    study = wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)
    assert Study.from_json(study.to_json()).measurements == study.measurements
    with torch.no_grad():
        before = wrapped.model(task.inputs).numpy().astype(float)
    for row in study.measurements:
        with wrapped.quantized(Scheme.only(row.layer, sv.INT4_WEIGHTS)) as model, torch.no_grad():
            lost = before - model(task.inputs).numpy().astype(float)
        without = [np.delete(lost, range(start, 40, 20)).mean() for start in range(20)]
        assert row.drops_without == pytest.approx(without, abs=1e-6)
    assert study.protect(max_drop=1e3).miss_probability == pytest.approx(0.0)
    assert wrapped.analyze(task, sv.INT4_WEIGHTS, intervals=False, progress=False).measurements[0].drops_without == ()
