"""The picture of a diagnosis: labels stay off the squares of layers that only float saves."""

from __future__ import annotations

import pytest

from sensitivity.records.results.diagnosis import DamageCause, DiagnosisRecord, Finding
from sensitivity.report.damage import title
from sensitivity.report.figures.cures import cures
from tests.made_studies import INT8


@pytest.mark.parametrize("layers", [10, 84, 150])
def test_labels_cover_no_mark_of_a_layer_that_only_float_saves(layers: int) -> None:
    findings = tuple(
        Finding(
            f"stage0:{place}:0", 15.0 + place % 7 if place % 9 == 0 else 45.0, place % 9 == 0,
            {DamageCause.OUTLIERS: 9.0}, INT8 if place % 9 == 0 else None, 35.0 if place % 9 == 0 else None,
            place % 9 == 0,
        )
        for place in range(layers)
    )  # fmt: skip
    picture = cures(DiagnosisRecord("Net", INT8, findings, 30.0, 8), label=6)
    picture.canvas.draw()  # the white boxes of labels get their places here
    axes = picture.axes[0]
    squares = [line.get_window_extent() for line in axes.lines if line.get_gid() == "float"]
    labels = [text.get_bbox_patch().get_window_extent() for text in axes.texts if text.get_gid() == "label"]  # type: ignore[union-attr]
    assert len(labels) == min(6, len(squares))
    assert not [label for label in labels for square in squares if label.overlaps(square)]


@pytest.mark.parametrize("hurt", [0, 1, 2])
def test_the_legend_names_only_what_is_drawn(hurt: int) -> None:
    findings = tuple(
        Finding(f"stage0:{place}:0", 15.0, True, {DamageCause.OUTLIERS: 9.0})
        if place < hurt
        else Finding(f"stage0:{place}:0", 45.0)
        for place in range(2)
    )
    [axes] = cures(DiagnosisRecord("Net", INT8, findings, 30.0, 8), label=6).axes
    legend = axes.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    causes = [f"main cause: {DamageCause.OUTLIERS}"] * (hurt > 0)
    assert words == [*causes, *["not hurt"] * (hurt < 2), "hurt below 30.0 dB"]


@pytest.mark.parametrize(("hurt", "words"), [(1, "1 of 2 layers is hurt"), (2, "2 of 2 layers are hurt")])
def test_one_hurt_layer_is_told_in_the_singular(hurt: int, words: str) -> None:
    record = DiagnosisRecord("Net", INT8, tuple(Finding(f"a:{n}", 15.0, n < hurt) for n in range(2)), 30.0, 8)
    assert words in cures(record, label=0).axes[0].get_title(loc="left")
    assert f"{words}: quantized alone {'it leaves' if hurt == 1 else 'they leave'} the outputs" in title(record)
