"""The map of layers against levels: what is drawn where, and that nothing is cut off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sensitivity.errors import StudyError
from sensitivity.quantize.recipes import INT8, Prune
from sensitivity.records import Recipe, Status
from sensitivity.report.figures.picture import Picture
from sensitivity.study import Study
from tests.made_studies import make_study

LEVELS = (0.3, 0.5, 0.9)


def sparsity_study(layers: int = 12, *, failed: tuple[int, int] | None = None, **changes: object) -> Study:
    """Three levels; layer i drops by i + 1 points times the level, every fourth gains; one cell may have failed."""
    base = make_study([0.01 * (i + 1) * (-1 if i % 4 == 3 else 1) for i in range(layers)])
    measurements = []
    for row, level in enumerate(LEVELS):
        for column, m in enumerate(base.measurements):
            measurement = replace(m, recipe=Prune(level).name, drop=m.drop * level)
            if failed == (row, column):
                measurement = replace(measurement, drop=None, score=None, status=Status.FAILED, reason="NaN")
            measurements.append(measurement)
    recipes = {Prune(level).name: Prune(level) for level in LEVELS}
    return replace(base, recipes=recipes, measurements=tuple(measurements), **changes)


def drawn(picture: Picture, gid: str) -> list[object]:
    return [artist for axes in picture.axes for artist in axes.get_children() if artist.get_gid() == gid]


def test_every_cell_holds_the_drop_of_its_layer_and_level() -> None:
    picture = sparsity_study().plot_levels()
    [mesh] = drawn(picture, "drops")
    drops = np.array([[level * 0.01 * (i + 1) * (-1 if i % 4 == 3 else 1) for i in range(12)] for level in LEVELS])
    np.testing.assert_allclose(mesh.get_array().reshape(3, 12), drops)
    assert [label.get_text() for label in picture.axes[0].get_yticklabels()] == [
        "30 % pruned",
        "50 % pruned",
        "90 % pruned",
    ]
    assert len(picture.axes[0].get_xticklabels()) == 12


def test_drops_below_the_tolerance_have_the_colour_of_zero() -> None:
    [mesh] = drawn(make_study([0.0004, 0.05]).plot_levels(), "drops")
    assert mesh.get_array().ravel().tolist() == [0.0, 0.05]


def test_the_worst_layer_of_each_row_has_a_dot_and_a_row_without_drops_has_none() -> None:
    dots = drawn(sparsity_study().plot_levels(), "worst")
    assert [(dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots] == [(10, 0), (10, 1), (10, 2)]
    gains = make_study([-0.01, 0.0]).plot_levels()
    assert drawn(gains, "worst") == []
    assert gains.texts[2].get_text() == "blue: a gain"


def test_a_failed_cell_is_hatched_and_said_and_one_not_analysed_is_empty() -> None:
    study = sparsity_study(failed=(1, 4))
    picture = study.plot_levels()
    [patch] = drawn(picture, "failed")
    assert patch.get_xy() == (3.5, 0.5)
    assert "hatched: no result" in picture.texts[2].get_text()
    fewer = replace(study, measurements=tuple(m for m in study.measurements if m.status == "measured"))
    assert drawn(fewer.plot_levels(), "failed") == []
    assert "hatched" not in fewer.plot_levels().texts[2].get_text()


def test_rows_are_the_recipes_asked_for_in_their_order() -> None:
    study = sparsity_study()
    picture = study.plot_levels(recipes=["prune-0.9", study.recipes["prune-0.3"].renamed("of another name")])
    assert [label.get_text() for label in picture.axes[0].get_yticklabels()] == ["90 % pruned", "30 % pruned"]
    with pytest.raises(StudyError, match=r"no recipe 'prune-0\.4' in this study"):
        sparsity_study().plot_levels(recipes=["prune-0.4"])


def test_a_row_is_named_by_its_level_its_pattern_or_its_recipe() -> None:
    both = replace(Prune(0.5), weights=INT8.weights, name="pruned-and-quantized")
    recipes: list[Recipe] = [Prune("2:4"), Prune(0.125), INT8, both]
    study = make_study([0.1])
    [m] = study.measurements
    study = replace(
        study,
        recipes={r.name: r for r in recipes},
        measurements=tuple(replace(m, recipe=r.name) for r in recipes),
    )
    labels = [label.get_text() for label in study.plot_levels().axes[0].get_yticklabels()]
    assert labels == ["2:4 kept", "12.5 % pruned", "int8", "pruned-and-quan…"]


@pytest.mark.parametrize("layers", [1, 12, 69, 140])
def test_nothing_is_cut_off(layers: int, tmp_path: Path) -> None:
    picture = sparsity_study(layers).plot_levels(tmp_path / "levels.png")
    picture.draw_without_rendering()
    width, height = picture.bbox.width, picture.bbox.height
    axes, bar = picture.axes
    texts = [*picture.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), *bar.get_yticklabels(), *axes.texts]
    for text in [*texts, bar.yaxis.label]:
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
    assert (tmp_path / "levels.png").stat().st_size > 1000


def test_a_study_without_drops_and_a_file_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no layer of TinyNet has a drop under INT8"):
        make_study([None]).plot_levels()
    with pytest.raises(StudyError, match=r"cannot save a figure as 'levels\.txt'"):
        sparsity_study().plot_levels(tmp_path / "levels.txt")
