from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from sensitivity.advise.protect import protect
from sensitivity.errors import StudyError
from sensitivity.records import Scheme, Score
from sensitivity.records.results.latency import Latency
from sensitivity.report.figures.pareto import MIB, ParetoPoint, front
from sensitivity.study import Study
from sensitivity.tradeoff import pareto
from tests.made_studies import make_study, random_study, with_second_recipe


def drawn(figure: Figure, gid: str) -> list[Any]:
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def with_groups(study: Study) -> Study:
    """Drops that would be somewhat different without each of 10 groups of images."""
    draw = np.random.default_rng(0)
    rows = [
        replace(row, drops_without=tuple((row.drop or 0.0) + 0.001 * draw.standard_normal(10)))
        for row in study.measurements
    ]
    return Study.of(replace(study, measurements=tuple(rows)))


def test_the_curve_is_the_best_scheme_at_each_size() -> None:
    study = random_study(20)
    (curve,) = drawn(pareto(study), "curve")
    sizes, scores = curve.get_data()
    helpful = sum((measurement.drop or 0.0) > 0.0 for measurement in study.measurements)
    assert len(sizes) == helpful + 1
    for count in (0, 3, helpful):
        scheme = protect(study, size_bytes=round(sizes[count] * MIB))
        assert scheme.size_bytes == round(sizes[count] * MIB)
        assert scores[count] == pytest.approx(100 * (study.baseline.value - scheme.predicted_drop))
    assert scores[-1] == pytest.approx(78.5)
    for count in range(1, helpful):
        worst_first = protect(study, top=count)
        best = max(score for size, score in zip(sizes, scores, strict=True) if size * MIB <= worst_first.size_bytes)
        assert best >= 100 * (study.baseline.value - worst_first.predicted_drop) - 2.0


def test_the_table_has_every_point_and_what_was_measured_of_it() -> None:
    study = random_study(20)
    schemes = []

    def measure(scheme: Scheme) -> Score:
        schemes.append(scheme)
        return Score(0.7 + 0.001 * len(scheme.reasons), {}, "miou", "%", 50)

    figure = pareto(study, measure=measure, schemes=4)
    table = figure.table
    measured = table.dropna(subset=["measured_score"])
    assert len(schemes) == len(measured) == 4
    assert list(measured["layers"]) == [", ".join(scheme.reasons) for scheme in schemes]
    assert list(measured["size_bytes"]) == [scheme.size_bytes for scheme in schemes]
    assert list(measured["measured_score"]) == pytest.approx([70 + 0.1 * len(scheme.reasons) for scheme in schemes])
    assert list(measured["measured_drop"]) == pytest.approx(list(78.5 - measured["measured_score"]))
    assert measured.iloc[0]["protected"] == 0
    assert measured.iloc[-1]["predicted_drop"] == pytest.approx(0.0)
    assert list(table["predicted_drop"]) == pytest.approx([100 * (0.785 - s / 100) for s in table["predicted_score"]])
    (points,) = drawn(figure, "measured")
    assert len(points.get_xdata()) == 4


def test_a_target_is_drawn_and_each_scheme_says_how_likely_it_misses_it() -> None:
    study = with_groups(make_study([0.03, 0.02, 0.001]))
    figure = pareto(study, max_drop=2.5)
    table = figure.table
    (target,) = drawn(figure, "target")
    assert target.get_ydata()[0] == pytest.approx(76.0)
    assert list(table["miss_probability"])[:-1] == sorted(table["miss_probability"][:-1], reverse=True)
    for row in table.itertuples():
        scheme = protect(study, max_drop=2.5)
        if row.protected == len(scheme.reasons) and row.layers == ", ".join(scheme.reasons):
            assert row.miss_probability == pytest.approx(scheme.miss_probability)
    assert drawn(figure, "band")
    assert (table["predicted_low"][:-1] < table["predicted_drop"][:-1]).all()
    assert not drawn(pareto(make_study([0.03, 0.02])), "band"), "nothing is known of other images"


def test_settings_that_cannot_be_are_refused() -> None:
    study = make_study([0.1])
    with pytest.raises(StudyError, match="schemes=0: measure 1 or more of each recipe"):
        pareto(study, schemes=0)
    with pytest.raises(StudyError, match="max_drop=-1: give a finite number"):
        pareto(study, max_drop=-1.0)


def test_lower_is_better_turns_the_curve_and_the_axis() -> None:
    figure = pareto(make_study([0.1, 0.2], higher_is_better=False, unit="", metric="loss"))
    (curve,) = drawn(figure, "curve")
    assert list(curve.get_data()[1]) == pytest.approx([1.085, 0.885, 0.785])
    assert figure.axes[0].yaxis_inverted()


def test_each_recipe_has_its_curve() -> None:
    figure = pareto(with_second_recipe(random_study(20)))
    words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(drawn(figure, "curve")) == 2
    assert words[0].startswith("INT8: best scheme at each cost (predicted)")
    assert words[1].startswith("INT4")


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_the_legend_names_only_what_is_drawn() -> None:
    study = make_study([0.03, 0.02])
    none, single, two = (
        legend_of(pareto(study, measured=[("a", 1000, 70.0), ("b", 2000, 71.0)][:count])) for count in (0, 1, 2)
    )
    assert [word in none for word in ("measured schemes", "front of the measured schemes")] == [False, False]
    assert [word in single for word in ("measured schemes", "front of the measured schemes")] == [True, False]
    assert [word in two for word in ("measured schemes", "front of the measured schemes")] == [True, True]


def test_a_band_is_in_the_legend_whichever_curve_has_it() -> None:
    study = with_second_recipe(with_groups(make_study([0.03, 0.02])))
    bare = tuple(replace(row, drops_without=()) if row.recipe == "INT8" else row for row in study.measurements)
    figure = pareto(Study.of(replace(study, measurements=bare)))
    assert len(drawn(figure, "band")) == 1
    assert legend_of(figure).count("95 % interval of it, for other images") == 1


def test_a_predicted_share_below_zero_is_out_of_the_picture() -> None:
    assert pareto(make_study([0.6, 0.7])).axes[0].get_ylim() == pytest.approx((0.0, 78.5 * 1.08))
    assert pareto(make_study([0.6, 0.7], unit="dB")).axes[0].get_ylim()[0] < 0.0


def test_measured_schemes_are_drawn_labelled_and_joined_by_their_front() -> None:
    study = random_study(20)
    size = protect(study, top=20).size_bytes
    mixed = Score(0.7, {}, "mIoU", "%", 5)
    measured = [("all", size / 4, 40.0), ("mixed", size / 2, mixed), ("bad", size / 1.9, 50.0), ("none", size, 78.5)]
    figure = pareto(study, measured=measured)
    figure.canvas.draw()
    (points,) = drawn(figure, "measured")
    assert list(points.get_ydata()) == pytest.approx([40.0, 70.0, 50.0, 78.5])
    (best,) = drawn(figure, "front")
    assert list(best.get_ydata()) == pytest.approx([40.0, 70.0, 78.5])
    labels = drawn(figure, "label")
    assert sorted(label.get_text() for label in labels) == ["all", "bad", "mixed", "none"]
    boxes = [label.get_window_extent() for label in labels]
    assert not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]


def test_the_front_keeps_what_nothing_beats() -> None:
    points = [
        ParetoPoint("a", 1.0, 40.0),
        ParetoPoint("b", 2.0, 40.0),
        ParetoPoint("c", 2.0, 50.0),
        ParetoPoint("d", 3.0, 45.0),
    ]
    assert [point.label for point in front(points, higher_is_better=True)] == ["a", "c"]
    assert [point.label for point in front(points[::-1], higher_is_better=True)] == ["a", "c"]
    assert [point.label for point in front(points, higher_is_better=False)] == ["a"]
    assert front([], higher_is_better=True) == []


def test_a_path_saves_the_figure(tmp_path: Path) -> None:
    pareto(random_study(10), path=tmp_path / "pareto.svg")
    assert (tmp_path / "pareto.svg").stat().st_size > 5000


def test_what_cannot_be_drawn_is_an_error() -> None:
    study = make_study([0.1])
    with pytest.raises(StudyError, match=r"measured holds \('broken', 100, nan\)"):
        pareto(study, measured=[("broken", 100, math.nan)])
    with pytest.raises(StudyError, match="'broken' costs 100 and scores inf: give finite numbers"):
        pareto(study, measured=[("broken", 100, math.inf)])
    with pytest.raises(StudyError, match="direction='one-at-a-time'"):
        pareto(replace(study, direction="all-but-one"))
    with pytest.raises(StudyError, match="metric must be finite"):
        pareto(replace(study, baseline=Score(math.inf, {}, "sqnr", "dB", 5)))


def test_latency_is_drawn_in_milliseconds_from_the_times_of_the_study() -> None:
    study = make_study([0.1, 0.2])
    times = {layer.name: (0.001, 0.003) for layer in study.layers}
    study = study.with_latency(Latency(study.model, study.recipes["INT8"], "openvino", 0.010, 0.020, times))
    figure = pareto(study, against="latency", measured=[("four ms saved", 0.016, 70.0)])
    assert list(drawn(figure, "curve")[0].get_data()[0]) == pytest.approx([10.0, 12.0, 14.0])
    assert list(drawn(figure, "measured")[0].get_data()[0]) == pytest.approx([16.0])
    assert figure.axes[0].get_xlabel() == "time of one run (ms)"
    with pytest.raises(StudyError, match="this study has no times"):
        pareto(make_study([0.1]), against="latency")


def test_a_score_that_was_meant_as_a_fraction_is_refused_with_the_percent() -> None:
    study = make_study([0.1, 0.2])
    assert study.baseline.value == 0.785
    with pytest.raises(StudyError, match=r"scores 0\.77, .* near the baseline of 78\.50 %\. Give 77, or what"):
        pareto(study, measured=[("mine", 1000.0, 0.77)])
    as_score = Score(0.77, {"mIoU": 0.77}, "mIoU", "%", 8)
    for score in (77.0, as_score, 0.1):  # a network can be broken down to a tenth of a percent
        (points,) = drawn(pareto(study, measured=[("mine", 1000.0, score)]), "measured")
        assert list(points.get_data()[1]) == [pytest.approx(score if isinstance(score, float) else 77.0)]
