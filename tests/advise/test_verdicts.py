from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensitivity.advise.verdicts import images_to_decide, stored_tolerance, verdict_of
from sensitivity.errors import RecipeError, StudyError
from sensitivity.records import Measurement, Score, StudyInfo
from sensitivity.records.results.info import IntervalOf
from sensitivity.records.results.verdict import Verdict
from sensitivity.study import Study
from sensitivity.sweep.stopping.jackknife import deal, half_width
from tests.made_studies import INT4, INT8, make_study, random_study, with_intervals, with_second_recipe


def measured(drop: float, low: float | None = None, high: float | None = None, images: int = 100) -> Measurement:
    return Measurement("a:0:0", "INT8", 0.5, drop, drop_low=low, drop_high=high, images=images)


@pytest.mark.parametrize(
    ("drop", "low", "high", "expected"),
    [
        (0.05, 0.04, 0.06, "dip"),
        (0.05, -0.01, 0.11, "undecided"),
        (0.0005, 0.0004, 0.0006, "harmless"),
        (0.05, 0.001, 0.1, "undecided"),
        (0.0005, -0.5, 0.001, "harmless"),
        (-0.05, -0.06, -0.04, "harmless"),
        (-0.05, -0.16, 0.06, "undecided"),
        (0.05, None, None, "undecided"),
    ],
)
def test_an_interval_above_the_tolerance_dips_and_one_within_it_is_harmless(
    drop: float, low: float | None, high: float | None, expected: str
) -> None:
    assert verdict_of(measured(drop, low, high), 0.001, intervals=True) == expected


@pytest.mark.parametrize(
    ("drop", "expected"),
    [(0.05, "dip"), (0.001, "harmless"), (-0.05, "harmless"), (math.inf, "dip")],
)
def test_a_study_without_any_intervals_judges_the_drops_themselves(drop: float, expected: str) -> None:
    assert verdict_of(measured(drop), 0.001, intervals=False) == expected
    assert list(make_study([drop]).verdicts().values()) == [expected]


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.1))
def test_a_verdict_is_what_every_drop_in_the_interval_would_get(drop: float, half: float, limit: float) -> None:
    verdict = verdict_of(measured(drop, drop - half, drop + half), limit, intervals=True)
    ends = {verdict_of(measured(end), limit, intervals=False) for end in (drop - half, drop + half)}
    assert verdict == (ends.pop() if len(ends) == 1 else "undecided")


def test_layers_without_a_drop_have_no_verdict() -> None:
    study = make_study([0.0, 0.05, None, math.nan])
    assert study.verdicts() == {study.layers[0].name: "harmless", study.layers[1].name: "dip"}
    assert replace(study, direction="all-but-one").verdicts() == {}


def test_a_layer_without_an_interval_is_undecided_where_the_others_have_one() -> None:
    study = with_intervals(make_study([0.05, 0.05]))
    bare = replace(study.measurements[1], drop_low=None, drop_high=None)
    study = replace(study, measurements=(study.measurements[0], bare))
    assert list(study.verdicts().values()) == ["dip", "undecided"]
    assert study.images_needed() == {study.layers[1].name: None}


def test_a_study_whose_intervals_could_not_be_computed_is_undecided() -> None:
    study = make_study([0.05], info=StudyInfo(intervals="95%, all layers at once, other images of this kind"))
    assert list(study.verdicts().values()) == ["undecided"]


def test_verdicts_are_plain_text_to_whoever_prints_or_saves_them() -> None:
    verdict = next(iter(make_study([0.05]).verdicts().values()))
    assert isinstance(verdict, str)
    assert repr({"layer": verdict}) == "{'layer': 'dip'}"


def test_verdicts_are_of_one_recipe_by_name_or_by_value() -> None:
    study = with_second_recipe(make_study([0.0005]))
    assert list(study.verdicts("INT8").values()) == list(study.verdicts(INT8).values()) == ["harmless"]
    assert list(study.verdicts("INT4").values()) == list(study.verdicts(INT4.renamed("mine")).values()) == ["dip"]
    with pytest.raises(StudyError, match="2 recipes; name one"):
        study.verdicts()
    with pytest.raises(StudyError, match="recipe='INT4' does something else than the recipes of this study: INT8"):
        make_study([0.1]).verdicts(INT4)
    with pytest.raises(RecipeError, match=r"recipe=4: give text, a recipe such as sv\.INT8 or None"):
        study.verdicts(4)  # type: ignore[arg-type]


def test_the_tolerance_is_in_points_and_decides() -> None:
    study = make_study([0.05])
    assert list(study.verdicts(tolerance=4.9).values()) == ["dip"]
    assert list(study.verdicts(tolerance=5.1).values()) == ["harmless"]


def test_the_default_tolerance_is_a_tenth_of_a_point_or_a_thousandth_of_the_baseline() -> None:
    study = make_study([0.05])
    assert stored_tolerance(study, None) == pytest.approx(0.001)
    loss = replace(study, unit="", baseline=Score(-20.0, {}, "loss", "", 10))
    assert stored_tolerance(loss, None) == pytest.approx(0.02)
    assert stored_tolerance(loss, 0.3) == 0.3
    assert stored_tolerance(replace(loss, baseline=Score(math.inf, {}, "sqnr", "dB", 10)), None) == 0.0


@pytest.mark.parametrize("tolerance", [-0.1, math.inf])
def test_a_tolerance_that_is_no_size_is_refused(tolerance: float) -> None:
    for call in (make_study([0.1]).verdicts, make_study([0.1]).images_needed, make_study([0.1]).flags):
        with pytest.raises(StudyError, match="give a drop that does not matter"):
            call(tolerance=tolerance)
    with pytest.raises(StudyError, match="give a drop that does not matter"):
        make_study([0.1]).with_tolerance(tolerance)


def test_a_study_keeps_the_tolerance_that_it_was_given() -> None:
    study = make_study([0.05]).with_tolerance(5.1)
    assert type(study) is Study
    loaded = Study.from_json(study.to_json())
    assert list(loaded.verdicts().values()) == ["harmless"]
    assert list(loaded.verdicts(tolerance=4.9).values()) == ["dip"]
    assert "at a tolerance of 5.10 points" in repr(loaded)
    assert "dip" not in loaded.flags()[loaded.layers[0].name]


def test_a_tolerance_of_a_file_that_is_no_number_is_refused() -> None:
    plain = make_study([0.05]).to_json()
    plain["info"] = {"tolerance": "much"}
    with pytest.raises(StudyError, match="tolerance='much': give a number"):
        Study.from_json(plain)
    plain["info"] = {"interval_of": "the moon"}
    with pytest.raises(StudyError, match="interval_of='the moon' is none of other-images, this-data-set"):
        Study.from_json(plain)


def test_the_images_needed_grow_with_the_square_of_the_interval_over_the_distance_to_the_tolerance() -> None:
    assert images_to_decide(measured(0.05, -0.05, 0.15), 0.001) == pytest.approx(100 * (0.1 / 0.049) ** 2, rel=0.05)
    assert images_to_decide(measured(-0.01, -0.06, 0.04), 0.001) == pytest.approx(100 * (0.05 / 0.011) ** 2, rel=0.05)
    assert images_to_decide(measured(0.00101, -0.05, 0.05), 0.001) is None, "too near to the tolerance"
    assert images_to_decide(measured(0.05), 0.001) is None


def test_so_many_images_as_are_said_to_be_needed_do_decide() -> None:
    def interval(images: int) -> Measurement:
        half = 3 * 0.2 / math.sqrt(images)  # of a mean of images with a standard deviation of 0.2
        return measured(0.03, 0.03 - half, 0.03 + half, images)

    few = interval(200)
    assert verdict_of(few, 0.001, intervals=True) is Verdict.UNDECIDED
    needed = images_to_decide(few, 0.001)
    assert needed is not None
    assert verdict_of(interval(needed), 0.001, intervals=True) is Verdict.DIP
    assert verdict_of(interval(int(0.9 * needed)), 0.001, intervals=True) is Verdict.UNDECIDED


def test_no_more_images_are_needed_than_the_data_set_has_where_the_intervals_are_about_it() -> None:
    near = measured(0.00101, -0.05, 0.05)
    assert images_to_decide(near, 0.001, whole=5000) == 5000
    assert images_to_decide(measured(0.05, -0.05, 0.15), 0.001, whole=150) == pytest.approx(137, abs=3)
    info = StudyInfo(intervals="yes", interval_of=IntervalOf.THIS_DATA_SET, images=60)
    study = with_intervals(make_study([0.001001], info=info), half=0.01)
    assert list(study.images_needed().values()) == [60]


def test_the_images_needed_stand_in_every_table_and_text() -> None:
    study = with_intervals(make_study([0.006, 0.2]), half=0.02)
    needed = study.images_needed()
    assert list(needed) == [study.layers[0].name]
    images = needed[study.layers[0].name]
    assert study.table()["images_needed"][0] == images
    assert f"undecided (about {images:,} images would decide)" in study.to_markdown()
    assert f"undecided (about {images:,} images would decide)" in repr(study)
    assert list(study.table()["verdict"][:2]) == ["undecided", "dip"]


def test_the_summary_counts_the_verdicts() -> None:
    study = with_intervals(random_study(20, failed=1))
    counted = list(study.verdicts().values())
    words = ", ".join(f"{counted.count(verdict)} {verdict}" for verdict in Verdict if verdict in counted)
    assert f"INT8: 19 measured, 1 failed; {words} at a tolerance of 0.10 points" in repr(study)


def test_what_the_intervals_mean_is_one_sentence() -> None:
    info = {"interval_level": 0.95, "intervals": "x"}
    other = make_study([0.1], info=info | {"interval_of": "other-images"})
    about = "of the drops on other images of the same kind; 50 images were scored."
    assert f"These are simultaneous 95 % intervals over all layers, {about}" in repr(other)
    study = make_study([0.1], info=info | {"interval_of": "this-data-set"})
    assert "of the drops on all images of this data set." in repr(study)
    assert "Intervals: x." in repr(make_study([0.1], info={"intervals": "x"}))


def measured_on(losses: NDArray[np.float64], *, around: float | None = None) -> Measurement:
    """The mean of some losses as a drop, with its interval of 95 %; moved to lie around a drop that is known."""
    groups, total, images = deal(range(len(losses))), losses.sum(), len(losses)
    half = half_width([(total - losses[group].sum()) / (images - len(group)) for group in groups], 0.95)
    assert half is not None
    drop = float(losses.mean()) if around is None else around
    measurement = make_study([drop]).measurements[0]
    return replace(measurement, drop_low=drop - half, drop_high=drop + half, images=images)


@pytest.mark.parametrize("drop", [0.0, 0.03], ids=["harmless", "dip"])
def test_with_the_images_needed_half_of_the_layers_are_decided_and_with_twice_as_many_most(drop: float) -> None:
    tolerance, draw = 0.01, np.random.default_rng(0)
    decided: dict[float, list[bool]] = {0.25: [], 1.0: [], 2.0: []}
    wrong = 0
    for _ in range(300):
        first = measured_on(draw.normal(drop, 0.15, 80), around=drop)
        needed = images_to_decide(first, tolerance)
        if needed is None or verdict_of(first, tolerance, intervals=True) is not Verdict.UNDECIDED:
            continue
        for times, answers in decided.items():
            verdict = verdict_of(measured_on(draw.normal(drop, 0.15, int(needed * times))), tolerance, intervals=True)
            answers.append(verdict is not Verdict.UNDECIDED)
            wrong += verdict is (Verdict.DIP if drop < tolerance else Verdict.HARMLESS)
    shares = {times: sum(answers) / len(answers) for times, answers in decided.items()}
    assert len(decided[1.0]) > 200
    assert shares[0.25] < 0.25
    assert 0.4 < shares[1.0] < 0.6
    assert shares[2.0] > 0.75
    assert wrong <= 5, "of some 800 verdicts, each from an interval of 95 % that errs to either side"
