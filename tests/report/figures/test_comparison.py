"""The picture of two studies: every layer that both measured stands at its two drops."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sensitivity.errors import StudyError
from sensitivity.study import Study
from tests.made_studies import make_study, random_study, with_second_recipe

FIRST = Study.of(make_study([0.01, 0.05, None, 0.03]))
SECOND = Study.of(make_study([0.02, 0.04, 0.01, 0.0]))


def lines(figure: Figure, kind: str) -> list[Line2D]:
    return [line for line in figure.axes[0].get_lines() if line.get_gid() == kind]


def test_every_layer_of_both_is_a_point_at_its_two_drops() -> None:
    figure = FIRST.plot_comparison(SECOND)
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines(figure, "layer")]  # type: ignore[index]
    assert points == [pytest.approx(point) for point in ((1.0, 2.0), (5.0, 4.0), (3.0, 0.0))]
    assert len(lines(figure, "equal")) == 1


def test_names_stand_at_the_axes_and_the_worst_layers_are_labelled(tmp_path: Path) -> None:
    figure = FIRST.plot_comparison(SECOND, tmp_path / "both.svg", names=("min-max", "percentile"), label=1)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "drop, min-max (points)"
    assert axes.get_ylabel() == "drop, percentile (points)"
    labels = {text.get_text() for text in axes.texts}
    assert FIRST.layers[1].name in labels
    assert FIRST.layers[0].name not in labels
    assert (tmp_path / "both.svg").is_file()


@pytest.mark.parametrize("layers", [10, 84, 150])
def test_labels_stand_beside_the_marks_of_their_layers(layers: int) -> None:
    study = Study.of(with_second_recipe(random_study(layers)))
    figure = study.plot_comparison(study, recipe="INT8", other_recipe="INT4")
    figure.canvas.draw()  # what is not final before changes here
    axes = figure.axes[0]
    labels = [text.get_window_extent() for text in axes.texts if text.get_gid() == "label"]
    marks = [axes.transData.transform((line.get_xdata()[0], line.get_ydata()[0])) for line in lines(figure, "layer")]  # type: ignore[arg-type,index]
    assert len(labels) == 5
    assert not [label for label in labels for x, y in marks if label.contains(x, y)]


def test_recipes_are_chosen_by_name() -> None:
    several = Study.of(with_second_recipe(make_study([0.1, 0.2])))
    figure = several.plot_comparison(several, recipe="INT8", other_recipe="INT4")
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines(figure, "layer")]  # type: ignore[index]
    assert points == [pytest.approx(point) for point in ((10.0, 30.0), (20.0, 60.0))]
    with pytest.raises(StudyError, match="other_recipe: this study has 2 recipes"):
        several.plot_comparison(several, recipe="INT8")


def test_studies_without_a_common_layer_have_no_picture() -> None:
    with pytest.raises(StudyError, match="no layer was measured in both studies"):
        FIRST.plot_comparison(Study.of(make_study([None, None, 0.1])))


def test_columns_bear_the_names_that_were_given() -> None:
    frame = FIRST.compare(SECOND, names=("a", "b"))
    assert list(frame.columns) == ["name", "kind", "role", "drop_a", "drop_b", "rank_a", "rank_b"]
    assert frame.attrs == FIRST.compare(SECOND).attrs


@pytest.mark.parametrize("names", [("a", "a"), ("", "b")])
def test_names_that_cannot_tell_two_studies_apart_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(StudyError, match="give two different names"):
        FIRST.compare(SECOND, names=names)
