"""The picture of a study, read back from its artists: what is drawn, where, and that nothing overlaps or is cut off."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from sensitivity.errors import StudyError
from sensitivity.records import Score, Status
from sensitivity.report.figures import dips as room
from sensitivity.report.style import KIND_INKS
from sensitivity.study import Study, read
from tests.made_studies import make_study, random_study, with_intervals, with_second_recipe

SHAPES = {
    "ten": lambda: random_study(10),
    "forty": lambda: with_intervals(random_study(40, seed=1, failed=3)),
    "sixty-nine, huge dips": lambda: random_study(69, seed=2, worst=0.68),
    "a hundred and fifty": lambda: random_study(150, seed=3, worst=0.05, failed=2),
    "one": lambda: make_study([0.05]),
    "crowded": lambda: make_study([0.5, 0.51, 0.49, 0.5, 0.52, 0.5, 0.48] * 3),
    "two recipes": lambda: with_second_recipe(random_study(40, seed=4, worst=0.1)),
    "gains": lambda: make_study([-0.01, -0.02, 0.2, 0.15, 0.1] * 4),
}


def dips(study: Study, **options: Any) -> Figure:
    return room.dips(read(study), **options)


def drawn(figure: Figure, gid: str) -> list[Any]:
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def panels(figure: Figure) -> list[Any]:
    return list(figure.axes)


def marker_heights(axes: Any) -> list[float]:
    markers = sorted(drawn(axes, "marker"), key=lambda marker: marker.get_xdata()[0])
    return [float(marker.get_ydata()[0]) for marker in markers]


def texts(figure: Figure) -> list[Text]:
    """All texts that are drawn; matplotlib also keeps tick labels beyond an axis' limits, which are not."""
    hidden = set()
    for axes in figure.axes:
        low, high = sorted(axes.get_ylim())
        hidden |= {tick for tick in axes.get_yticklabels() if not low <= tick.get_position()[1] <= high}
    return [text for text in figure.findobj(Text) if text.get_text().strip() and text not in hidden]


@pytest.fixture(params=SHAPES, scope="module")
def study(request: pytest.FixtureRequest) -> Any:
    return SHAPES[request.param]()


@pytest.fixture(scope="module")
def figure(study: Any) -> Figure:
    drawn = dips(study)
    drawn.canvas.draw()
    return drawn


def test_every_layer_has_a_marker_at_its_score_or_a_cross(study: Any, figure: Figure) -> None:
    for axes, recipe in zip(panels(figure), study.recipes, strict=True):
        scores = [100 * m.score for m in study.of_recipe(recipe) if m.score is not None]
        assert marker_heights(axes) == pytest.approx(scores)
        assert len(drawn(axes, "stem")) == len(scores)
        assert len(drawn(axes, "no-result")) == len(study.layers) - len(scores)


def test_every_layer_is_named_below_the_last_panel(study: Any, figure: Figure) -> None:
    names = [label.get_text() for label in panels(figure)[-1].get_xticklabels()]
    assert names == [layer.name for layer in study.layers]


def test_everything_is_inside_the_axes_and_all_text_inside_the_figure(figure: Figure) -> None:
    for axes in panels(figure):
        low, high = sorted(axes.get_ylim())
        assert all(low < height < high for height in marker_heights(axes))
    page = figure.bbox
    for text in texts(figure):
        box = text.get_window_extent()
        assert page.contains(box.x0, box.y0), text.get_text()
        assert page.contains(box.x1, box.y1), text.get_text()


def test_no_label_overlaps_another_text_or_leaves_its_axes(figure: Figure) -> None:
    for axes in panels(figure):
        boxes = [label.get_window_extent() for label in drawn(axes, "label")]
        assert not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]
        assert all(axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1) for box in boxes)


def test_stage_names_and_tick_labels_do_not_overlap(figure: Figure) -> None:
    stages = [text.get_window_extent() for text in drawn(figure, "stage-name")]
    assert not [1 for a, b in combinations(stages, 2) if a.overlaps(b)]
    ticks = [label.get_window_extent() for label in panels(figure)[-1].get_xticklabels()]
    assert not [1 for a, b in pairwise(ticks) if a.overlaps(b)]


def test_the_legend_is_outside_the_data_and_clear_of_the_baselines_value(figure: Figure) -> None:
    legend = panels(figure)[0].get_legend().get_window_extent()
    assert legend.x0 > max(axes.bbox.x1 for axes in panels(figure))
    assert not [text for text in drawn(figure, "baseline-value") if text.get_window_extent().overlaps(legend)]


def test_tick_labels_stay_legible_with_a_hundred_and_fifty_layers() -> None:
    figure = dips(random_study(150))
    assert min(label.get_fontsize() for label in figure.axes[-1].get_xticklabels()) >= 6
    assert 20 < figure.get_size_inches()[0] < 28


def test_the_worst_layers_are_labelled_with_name_and_drop() -> None:
    study = make_study([0.0, 0.3, 0.0, 0.1, -0.2, 0.0002])
    labels = [label.get_text() for label in drawn(dips(study), "label")]
    assert labels == [
        f"{study.layers[1].name}\ndrop 30.00",
        f"{study.layers[3].name}\ndrop 10.00",
        f"{study.layers[5].name}\ndrop 0.02, harmless",
    ]
    assert [label.get_text() for label in drawn(dips(study, label=1), "label")] == labels[:1]
    assert drawn(dips(study, label=0), "label") == []


def test_the_worst_layers_are_labelled_whatever_their_verdict() -> None:
    study = make_study([0.1, 0.2])
    unsure = replace(study.measurements[1], drop_low=-0.1, drop_high=0.5)
    figure = dips(replace(study, measurements=(study.measurements[0], unsure)))
    first, second = (layer.name for layer in study.layers)
    labels = {label.get_text() for label in drawn(figure, "label")}
    assert labels == {f"{second}\ndrop 20.00, undecided", f"{first}\ndrop 10.00, undecided"}


def faces(figure: Figure) -> list[str]:
    markers = sorted(drawn(figure, "marker"), key=lambda marker: marker.get_xdata()[0])
    return [str(marker.get_markerfacecolor()) for marker in markers]


def test_a_dip_is_filled_a_harmless_layer_pale_and_an_undecided_one_hollow() -> None:
    study = make_study([0.1, 0.1, 0.1])
    bounds = ((0.05, 0.15), (-0.2, 0.0005), (-0.1, 0.3))
    measured = [
        replace(m, drop_low=low, drop_high=high) for m, (low, high) in zip(study.measurements, bounds, strict=True)
    ]
    study = replace(study, measurements=tuple(measured))
    colour = KIND_INKS["mb"].light
    dip, harmless, undecided = faces(dips(study))
    assert dip == colour
    assert undecided == "white"
    assert sum(to_rgb(colour)) < sum(to_rgb(harmless)) < 3.0
    legend = [text.get_text() for text in dips(study).axes[0].get_legend().get_texts()]
    assert "dip: loses more than 0.10 points" in legend
    assert "harmless: loses 0.10 points at most" in legend
    assert "undecided on so few images" in legend


def test_no_interval_is_cut_off_and_none_reaches_beyond_a_share() -> None:
    study = with_intervals(random_study(20, worst=0.05), half=0.6)
    figure = dips(study)
    low, high = figure.axes[0].get_ylim()
    ends = [end for line in drawn(figure, "interval") for end in line.get_segments()[0][:, 1]]
    assert len(ends) == 40
    assert low < min(ends) <= 20
    assert max(ends) == 100 < high


def test_intervals_lie_behind_stems_and_markers() -> None:
    figure = dips(with_intervals(random_study(8)))
    behind = max(line.get_zorder() for line in drawn(figure, "interval"))
    assert behind < min(artist.get_zorder() for artist in drawn(figure, "marker") + drawn(figure, "stem"))


def test_the_legend_says_in_english_what_the_intervals_hold() -> None:
    info = {"intervals": "x", "interval_level": 0.95, "interval_of": "other-images"}
    words = {}
    for about in ("other-images", "this-data-set"):
        study = replace(with_intervals(random_study(8)), info=info | {"interval_of": about})
        words[about] = [text.get_text() for text in dips(study).axes[0].get_legend().get_texts()]
    beginning = "95 % intervals, valid\nfor all layers at once,\nfor "
    assert beginning + "other images like these" in words["other-images"]
    assert beginning + "all images of the data set" in words["this-data-set"]


def test_intervals_span_what_was_computed_around_the_score() -> None:
    study = make_study([0.1, 0.2])
    sure = replace(study.measurements[0], drop_low=0.08, drop_high=0.13)
    figure = dips(replace(study, measurements=(sure, study.measurements[1])))
    (interval,) = drawn(figure, "interval")
    assert sorted(interval.get_segments()[0][:, 1]) == pytest.approx([65.5, 70.5])
    assert "interval of the score" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_a_layer_decided_on_few_images_is_drawn_by_its_paired_drop() -> None:
    study = make_study([0.1])
    decided = replace(study.measurements[0], status=Status.DECIDED, score=0.9, images=5)
    assert marker_heights(dips(replace(study, measurements=(decided,))).axes[0]) == pytest.approx([68.5])


def test_colour_tells_the_kind_and_shape_the_flag() -> None:
    study = make_study([0.1] * 7)
    figure = dips(study)
    markers = sorted(drawn(figure, "marker"), key=lambda marker: marker.get_xdata()[0])
    assert [marker.get_color() for marker in markers] == [KIND_INKS[layer.kind].light for layer in study.layers]
    assert [marker.get_marker() for marker in markers] == ["o", "s", "v", "o", "v", "D", "o"]
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == [
        "independent",
        "res",
        "fmb",
        "mb",
        "att",
        "attention-pointwise",
        "exit",
        "depthwise",
        "other layers",
        "dip: loses more than 0.10 points",
    ]


def test_the_legend_leaves_out_kinds_and_shapes_of_layers_without_a_score() -> None:
    legend = dips(make_study([*[0.1] * 5, None, 0.1])).axes[0].get_legend().get_texts()
    words = [text.get_text() for text in legend]
    assert "att" not in words
    assert "attention-pointwise" not in words
    assert "no result" in words


def test_a_kind_of_its_own_is_drawn_and_in_the_legend() -> None:
    study = make_study([0.1])
    study = replace(study, layers=(replace(study.layers[0], kind="mixer"),))
    assert "mixer" in [text.get_text() for text in dips(study).axes[0].get_legend().get_texts()]


def test_title_and_axis_say_what_is_drawn() -> None:
    words = [text.get_text() for text in texts(dips(make_study([0.1, 0.2])))]
    assert "TinyNet on generated scenes" in words
    assert "miou  ·  INT8  ·  one-at-a-time  ·  layers: 2  ·  images: 50" in words
    assert "miou (%) with one layer perturbed" in words
    assert "78.50" in words
    other = make_study([0.1], direction="all-but-one", unit="", metric="loss")
    assert "loss with all layers but one perturbed" in [text.get_text() for text in texts(dips(other))]


def test_better_is_up_also_where_lower_scores_are_better() -> None:
    study = make_study([0.1, -0.05], higher_is_better=False, unit="")
    axes = dips(study).axes[0]
    assert axes.yaxis_inverted()
    assert marker_heights(axes) == pytest.approx([0.885, 0.735])


def test_noise_is_not_blown_up_to_look_like_dips() -> None:
    low, high = dips(make_study([0.0, 0.00002, -0.00002])).axes[0].get_ylim()
    assert high - low > 0.3


def test_panels_share_the_layers_and_name_their_recipe() -> None:
    study = with_second_recipe(random_study(12))
    figure = dips(study)
    assert [axes.get_ylabel() for axes in figure.axes] == ["INT8\nmiou (%)", "INT4\nmiou (%)"]
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert len({(axes.get_position().x0, axes.get_position().x1) for axes in figure.axes}) == 1
    assert len(dips(study, recipe="INT4").axes) == 1


def test_only_analysed_layers_are_drawn_and_the_rest_counted() -> None:
    study = make_study([0.1] * 6)
    figure = dips(replace(study, measurements=study.measurements[2:4]))
    assert len(figure.axes[0].get_xticklabels()) == 2
    assert any("layers: 2 of 6" in text.get_text() for text in texts(figure))


def test_markup_and_long_text_are_drawn_as_they_are_and_cut_with_an_ellipsis() -> None:
    study = make_study([0.1] * 20, model="a_{b}$x^ " * 20)
    layers = tuple(replace(layer, name=f"net.$part_{i}.long_stage_name:0:0") for i, layer in enumerate(study.layers))
    measured = tuple(replace(m, layer=layer.name) for m, layer in zip(study.measurements, layers, strict=True))
    figure = dips(replace(study, layers=layers, measurements=measured))
    figure.canvas.draw()
    (title,) = [text for text in texts(figure) if text.get_text().startswith("a_{b}$x^ ")]
    assert title.get_text().endswith("…")
    assert title.get_window_extent().x1 <= figure.bbox.x1
    assert drawn(figure, "stage-name") == [], "names too many and too long for their bands are left to the ticks"
    assert len(drawn(figure, "stage")) == 10


@pytest.mark.parametrize("drop", [math.inf, math.nan, None])
def test_what_is_no_finite_number_is_a_cross(drop: float | None) -> None:
    study = make_study([0.1, 0.2])
    broken = replace(study.measurements[1], drop=drop, score=None)
    figure = dips(replace(study, measurements=(study.measurements[0], broken)))
    assert len(drawn(figure, "no-result")) == len(drawn(figure, "marker")) == 1


def test_scores_below_an_infinite_baseline_hang_from_the_best() -> None:
    study = make_study([0.1, 0.2], unit="dB", baseline=0.5)
    measured = tuple(replace(m, drop=math.inf, score=20.0 + i) for i, m in enumerate(study.measurements))
    study = replace(study, baseline=Score(math.inf, {}, "sqnr", "dB", 5), measurements=measured)
    figure = dips(study)
    assert marker_heights(figure.axes[0]) == [20.0, 21.0]
    assert drawn(figure, "baseline") == []


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(StudyError, match="has no measurements"):
        dips(make_study([]))
    with pytest.raises(StudyError, match="no recipe 'FP8'"):
        dips(make_study([0.1]), recipe="FP8")
