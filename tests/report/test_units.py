"""Whatever a person reads of a metric in percent is in percent or in points, and says which.

The study is made so that its fractions and its points have no digits in common: a fraction that reaches a reader is
seen by its digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Text

import sensitivity as sv
from sensitivity.cli.main import main
from sensitivity.records.results.signals import DEPLOYED_DROP, DEPLOYED_SCORE
from sensitivity.records.units import after_drop, after_score, scale_of, unit_of_drops
from tests.made_studies import make_study, with_intervals
from tests.report.page.made import TUNED, VERIFICATION

BASELINE, WORST, SECOND = 0.7654321, 0.0567891, 0.0345678
FRACTIONS = re.compile(r"\b0?\.(7654|0567|0345|7086|7308|0213|09135)\d*")  # two scores and a sum of drops with them


@pytest.fixture(scope="module")
def study() -> sv.Study:
    return with_intervals(make_study([WORST, SECOND, 0.0, 0.0], baseline=BASELINE))


@pytest.fixture(scope="module")
def tuned() -> sv.Tuned:
    record = replace(
        TUNED,
        baseline=sv.Score(BASELINE, {}, "miou", "%", 50),
        score=sv.Score(BASELINE - WORST, {}, "miou", "%", 50),
        drop=WORST,
        drop_low=SECOND,
        steps=(*TUNED.steps[:-1], replace(TUNED.steps[-1], score=BASELINE - WORST, drop=WORST)),
    )
    return sv.Tuned(**{field.name: getattr(record, field.name) for field in fields(record)})


@pytest.fixture(scope="module")
def verification() -> sv.Verification:
    metric: dict[str, Any] = {"task": "scenes", "metric": "miou", "unit": "%", "images": 50}
    scores = {"metric_fp32": BASELINE, "metric_simulated": BASELINE - SECOND, "metric_deployed": BASELINE - WORST}
    record = replace(VERIFICATION, **metric, **scores, metric_variants={"another rounding": BASELINE - WORST})
    return sv.Verification(**{field.name: getattr(record, field.name) for field in fields(record)})


def words_of(figure: Any) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text))


def read_by_people(
    study: sv.Study, tuned: sv.Tuned, verification: sv.Verification, folder: Path
) -> Iterator[tuple[str, str]]:
    scheme = study.protect(max_drop=4.0)
    for held in (study, study.baseline, scheme, tuned, verification):
        yield f"repr of {type(held).__name__}", repr(held)
        yield f"view of {type(held).__name__}", held._repr_html_()
    yield "table", study.table().to_string()
    yield "comparison", study.compare(study).to_string()
    yield "table of a search", tuned.table().to_string()
    for write in (study.to_markdown, study.to_latex, study.to_rst):
        yield write.__name__, write(caption=True) + write(metrics=True)
    yield "Markdown of a verification", verification.to_markdown()
    front = sv.pareto(study, measured=[("measured", 20_000, study.baseline)], max_drop=0.5)
    yield "table of a front", front.table.to_string()  # type: ignore[attr-defined]
    figures = (study.plot(), study.plot_levels(), study.plot_comparison(study), tuned.plot(), front)
    yield "pictures", "\n".join(map(words_of, figures))
    study.to_html(folder / "page.html", tuned=tuned, verification=verification, other=study)
    page = (folder / "page.html").read_text(encoding="utf-8")
    yield "page", re.sub(r"<(script|style|svg)\b.*?</\1>", "", page, flags=re.DOTALL)


def commands(study: sv.Study, folder: Path) -> list[list[str]]:
    study.save(folder / "study.json")
    path = str(folder / "study.json")
    return [
        ["protect", path, "--max-drop", "4"],
        ["pareto", path, "--out", str(folder / "pareto.png")],
        ["compare", path, path],
        ["report", path],
    ]


def test_no_text_or_picture_shows_a_fraction_of_a_metric_in_percent(
    study: sv.Study, tuned: sv.Tuned, verification: sv.Verification, tmp_path: Path
) -> None:
    texts = dict(read_by_people(study, tuned, verification, tmp_path))
    assert {name: FRACTIONS.findall(text) for name, text in texts.items() if FRACTIONS.search(text)} == {}
    silent = {name for name, text in texts.items() if not re.search(r"5\.6[78]|70\.8[67]|76\.54|3\.4[56]", text)}
    assert silent == set()  # each of them did show a score or a drop


def test_no_command_tells_a_fraction_of_a_metric_in_percent(
    study: sv.Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in commands(study, tmp_path):
        assert main(words) == 0
        text = capsys.readouterr().out
        assert not FRACTIONS.search(text), words
        assert "points" in text, words


def test_what_an_engine_scored_stands_in_a_table_as_the_other_scores_do(study: sv.Study) -> None:
    first, *others = study.measurements
    repeated = replace(first, signals={DEPLOYED_SCORE: BASELINE - WORST, DEPLOYED_DROP: WORST, "output_sqnr_db": 30.0})
    row = replace(study, measurements=(repeated, *others)).table().iloc[0]
    assert row["deployed_score"] == pytest.approx(row["score"], abs=1e-9)
    assert row["deployed_drop"] == pytest.approx(row["drop"], abs=1e-9)
    assert row["output_sqnr_db"] == 30.0


def test_a_difference_of_scores_in_percent_is_told_in_points(verification: sv.Verification) -> None:
    text = repr(verification)
    assert "fp32 76.543, simulated 73.086, deployed 70.864 % on 50 images; 0.346 points may differ" in text
    assert "2.222 points between roundings of the same simulation" in text


def test_a_score_is_printed_in_the_unit_people_see() -> None:
    score = sv.Score(0.25, {"AP": 0.25, "AP50": 0.5}, "AP", "%", 1)
    assert repr(score) == "AP 25 % on 1 image\n  AP50 50"
    assert repr(sv.Score(31.5, {"sqnr": 31.5}, "sqnr", "dB", 8)) == "sqnr 31.5 dB on 8 images"


@pytest.mark.parametrize(
    ("unit", "scale", "of_drops", "score", "drop"),
    [("%", 100.0, "points", " %", " points"), ("dB", 1.0, "dB", " dB", " dB"), ("", 1.0, "", "", "")],
)
def test_a_unit_says_how_scores_and_drops_are_shown(
    unit: str, scale: float, of_drops: str, score: str, drop: str
) -> None:
    assert (scale_of(unit), unit_of_drops(unit)) == (scale, of_drops)
    assert (after_score(unit), after_drop(unit)) == (score, drop)
