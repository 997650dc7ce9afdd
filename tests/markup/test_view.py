"""What notebooks show of the values that people hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.layers.table import LayerTable
from sensitivity.records import SkippedModule
from tests.made_studies import make_layer, make_study
from tests.report.page.browser import run_in_page
from tests.report.page.made import TUNED, VERIFICATION
from tests.report.page.reader import Reader
from tests.report.page.test_study_page import DIAGNOSIS

EVIL = "<script>alert('x')</script>"


def body(value: Any) -> str:
    """What a notebook shows, without the style sheet."""
    return re.sub(r"<style>.*?</style>", "", value._repr_html_(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def wrapped() -> sv.Wrapped:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    return sv.wrap(model, torch.rand(1, 3, 12, 12))


def test_layers_are_shown_by_stage_and_large_models_start_shut() -> None:
    few, many = (LayerTable([make_layer(n, layers=count) for n in range(count)], model="Net") for count in (10, 60))
    stages = re.findall(r"<details( open)?><summary>(.*?)</summary>", body(few))
    parameters = [few[2 * stage].parameters + few[2 * stage + 1].parameters for stage in range(5)]
    assert stages == [(" open", f"stage{stage}: 2 layers, {parameters[stage]:,} parameters") for stage in range(5)]
    assert body(many).count("<details>") == 5
    names = [row[0] for table in Reader(body(many)).tables for row in table[1:]]
    assert names == many.names


def test_modules_that_are_no_layer_are_shown_and_text_is_escaped() -> None:
    table = LayerTable([make_layer(0)], model=EVIL, skipped=[SkippedModule(EVIL, "never called")])
    assert "<script" not in body(table)
    assert "never called" in body(table)


def test_a_recipe_says_in_words_what_it_does() -> None:
    text = body(sv.INT8.cured(bias_correction=True))
    assert "<dt>weights</dt><dd>int8 per-channel, symmetric, range by minmax</dd>" in text
    assert "<dd>int8 per-tensor, symmetric, range by 99.99 % of the values, every 8th value observed</dd>" in text
    assert "<dt>bias correction</dt><dd>yes</dd>" in text
    assert "<dt>activations</dt><dd>in float</dd>" in body(sv.INT4_WEIGHTS)
    assert "level=0.5" in body(sv.Prune(0.5))
    grouped = sv.Recipe("g", weights=sv.QuantSpec("int4", "per-group", group_size=16, symmetric=False, axis=0))
    assert "int4 per-group, affine, range by minmax, groups of 16, axis 0" in body(grouped)


def test_a_scheme_lists_its_rules_with_their_reasons() -> None:
    scheme = make_study([0.1, 0.0, 0.02]).protect(top=1)
    rows = Reader(body(scheme)).tables[0]
    assert rows[0] == ["layers", "recipe", "reason"]
    protected = [row for row in rows if row[1] == "protected"]
    assert [row[0] for row in protected] == ["stage0:0:0"]
    assert protected[0][2] == scheme.reasons["stage0:0:0"]
    assert repr(scheme).splitlines()[0] in body(scheme)


def test_a_score_shows_its_metrics_in_the_unit_people_see() -> None:
    text = body(make_study([0.1]).baseline)
    assert "miou 78.5 % on 50 images" in text
    assert Reader(text).tables == [[["metric", "value (%)"], ["miou", "78.5"], ["miou_small", "73.5"]]]
    assert "5 dB" in body(sv.Score(5.0, {"sqnr_db": 5.0}, "sqnr_db", "dB", 1))


def test_a_calibration_is_shown_in_short(wrapped: sv.Wrapped) -> None:
    calibration = wrapped.calibrate(torch.rand(4, 3, 12, 12), sv.INT8)
    text = body(calibration)
    assert "Calibration of 2 layers on 4 images" in text
    assert "int8 per-tensor percentile at placement deploy" in text
    assert len(text) < 600


def test_what_a_sweep_will_cost_is_shown_as_it_is_printed(wrapped: sv.Wrapped) -> None:
    explanation = wrapped.explain(sv.FeatureFidelity(torch.rand(4, 3, 12, 12)), recipe=sv.INT4_WEIGHTS)
    title, *facts = str(explanation).split("\n")
    assert f"<strong>{title}</strong>" in body(explanation)
    assert body(explanation).count("<li>") == len(facts)


@pytest.mark.parametrize(
    "value",
    [sv.Tuned.of(TUNED), sv.Verification.of(VERIFICATION), sv.Diagnosis.of(DIAGNOSIS), make_study([0.1])],
    ids=lambda value: type(value).__name__,
)
def test_every_result_is_a_view_in_the_same_style(value: Any) -> None:
    html = value._repr_html_()
    assert html.startswith("<style>.sensitivity { color-scheme: light dark;")
    assert '<div class="sensitivity view">' in html
    assert len(Reader(html).tables) == 1
    assert "<script" not in html


def test_a_search_and_a_verification_mark_what_matters() -> None:
    assert body(sv.Tuned.of(TUNED)).count('<tr class="chosen">') == 2
    assert body(sv.Verification.of(VERIFICATION)).count('class="fails"') == 1
    assert "outliers (+9.0 dB); int8-affine: 31.5 dB" in body(sv.Diagnosis.of(DIAGNOSIS))


JUPYTERLAB = """
:not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon td,
:not(.jp-RenderedMarkdown).jp-RenderedHTMLCommon th { text-align: right; }
.jp-RenderedHTMLCommon dt { width: 20%; font-weight: bold; }
"""
"""What JupyterLab says of tables and lists."""


def test_jupyterlab_does_not_set_words_flush_right(tmp_path: Path) -> None:
    shown = "".join(value._repr_html_() for value in (sv.Tuned.from_json(TUNED.to_json()), sv.INT8))
    page = f'<style>{JUPYTERLAB}</style><div class="jp-RenderedHTMLCommon">{shown}</div></body></html>'
    steps = """
    const align = (cell) => getComputedStyle(cell).textAlign;
    kept.words = [...new Set([...document.querySelectorAll(':is(td, th):not(.number)')].map(align))];
    kept.numbers = [...new Set([...document.querySelectorAll('.number')].map(align))];
    kept.weights = [...new Set([...document.querySelectorAll('dt')].map((term) => getComputedStyle(term).fontWeight))];
    """
    seen = run_in_page(f"<!doctype html><html><head></head><body data-charts='none'>{page}", steps, tmp_path)
    assert seen["errors"] == []
    assert seen["words"] == ["left"]
    assert seen["numbers"] == ["right"]
    assert seen["weights"] == ["400"]
