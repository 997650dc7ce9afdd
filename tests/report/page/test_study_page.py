"""The page of a study as text: what stands in it, what is escaped, how large it is; and what its script draws."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sensitivity.errors import MissingPackageError, StudyError
from sensitivity.records import QuantSpec, Recipe
from sensitivity.records.results.diagnosis import DamageCause, DiagnosisRecord, Finding
from sensitivity.report.page import document
from sensitivity.report.page.sections.finding import study_finding
from sensitivity.report.page.sections.study_data import study_data
from sensitivity.report.page.study_page import Beside, study_page
from sensitivity.study import read
from tests.made_studies import make_study, random_study, with_intervals, with_second_recipe
from tests.report.page.reader import Reader, without_library

EVIL = "<script>alert('x')</script>&\""
CURE = Recipe("int8-affine", weights=QuantSpec(), activations=QuantSpec(format="uint8", symmetric=False))
DIAGNOSIS = DiagnosisRecord(
    "TinyNet",
    Recipe("INT8", weights=QuantSpec(granularity="per-channel"), activations=QuantSpec()),
    (
        Finding("stage0:0:0", 12.0, True, {DamageCause.OUTLIERS: 9.0}, CURE, 31.5),
        Finding("stage1:0:0", 40.0),
    ),
    enough_db=30.0,
    images=8,
)


def test_what_the_script_draws_is_as_it_was(golden: Callable[[str, str], None]) -> None:
    study = with_intervals(make_study([0.0431, 0.0004, None, -0.002, 0.12]))
    data = study_data(read(study), ("INT8",), DIAGNOSIS)
    golden("study_page.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def test_drawn_scores_are_the_baseline_less_the_drop_and_intervals_are_around_them() -> None:
    study = with_intervals(random_study(12))
    dips = study_data(read(study), ("INT8",))["recipes"][0]["dips"]
    for measurement, dip in zip(study.measurements, dips, strict=True):
        assert dip["score"] == pytest.approx(78.5 - 100 * measurement.drop, abs=1e-3)
        assert min(dip["ends"]) < dip["score"] < max(dip["ends"])


def test_the_worst_layers_are_those_that_hurt_most_whichever_layers_are_perturbed() -> None:
    study = make_study([0.01, None, 0.2, 0.05])
    assert study_data(read(study), ("INT8",))["recipes"][0]["worst"] == [2, 3, 0]
    others = study_data(read(replace(study, direction="all-but-one")), ("INT8",))
    assert others["recipes"][0]["worst"] == [0, 3, 2]  # without it, the others lose least
    assert others["tolerance"] is None


def test_what_json_has_no_number_for_is_absent() -> None:
    study = make_study([0.1, float("inf"), float("nan")], baseline=float("inf"), unit="dB")
    data = study_data(read(study), ("INT8",))
    assert data["baseline"] is None
    json.dumps(data, allow_nan=False)


def test_every_layer_is_in_the_table_with_its_module_cause_and_cure() -> None:
    study = with_intervals(random_study(9, failed=1))
    _, table = Reader(without_library(study_page(read(study), beside=Beside(DIAGNOSIS)))).tables
    assert [row[0] for row in table[1:]] == [*(layer.name for layer in study.layers), "head.unused"]
    assert [row[-2] for row in table[1:-1]] == [layer.module for layer in study.layers]
    assert table[0][-2:] == ["module", "cause and cure"]
    assert "outliers (+9.0 dB); int8-affine: 31.5 dB" in table[1][-1]
    assert table[2][-1] == "–"


def test_the_stages_add_up_to_the_network() -> None:
    study = with_intervals(random_study(40, failed=3))
    stages, _ = Reader(without_library(study_page(read(study)))).tables
    numbers = [[0 if cell == "–" else int(cell.replace(",", "")) for cell in row[1:6]] for row in stages[1:]]
    verdicts = list(study.verdicts().values())
    sums = [sum(column) for column in zip(*numbers, strict=True)]
    assert sums[:2] == [len(study.layers), sum(layer.parameters for layer in study.layers)]
    assert sums[2:] == [verdicts.count(verdict) for verdict in ("dip", "harmless", "undecided")]
    assert "30.00 points" in [row[6] for row in stages[1:]]


def test_a_stage_of_all_but_one_shows_the_layer_to_protect_first() -> None:
    study = make_study([0.3, 0.1, 0.2, None, 0.05], direction="all-but-one")
    stages, _ = Reader(without_library(study_page(read(study)))).tables
    assert stages[0][6] == "smallest drop"
    assert [row[6] for row in stages[1:]] == ["30.00 points", "10.00 points", "20.00 points", "–", "5.00 points"]
    assert "with all layers but one perturbed" in study_page(read(study))


def test_the_page_needs_nothing_from_elsewhere_and_may_ask_for_nothing() -> None:
    text = without_library(study_page(read(random_study(12))))
    reader = Reader(text)
    assert all(link.startswith("#") for link in reader.links)
    assert not {"link", "img", "iframe", "object", "embed"} & set(reader.tags)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?://", text)
    assert 'http-equiv="Content-Security-Policy" content="default-src &#x27;none&#x27;;' in text


def test_a_page_needs_no_package_but_the_one_that_is_embedded(tmp_path: Path) -> None:
    make_study([0.1, 0.0]).save(tmp_path / "study.json")
    code = f"""
import sys
sys.modules |= dict.fromkeys(["torch", "pandas", "matplotlib", "numpy", "scipy"])  # any import of them now fails
from sensitivity.study import Study
Study.load({str(tmp_path / "study.json")!r}).to_html({str(tmp_path / "page.html")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_without_the_plotting_library_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingPackageError, match="which the package plotly brings: pip install plotly"):
        document.plotting_library.__wrapped__()


def test_the_page_is_the_same_every_time() -> None:
    assert study_page(read(random_study(12))) == study_page(read(random_study(12)))


def test_text_is_escaped_everywhere() -> None:
    study = make_study([0.1, None], model=EVIL, task=EVIL, notes=(EVIL,), metric=EVIL)
    failed = replace(study.measurements[1], reason=EVIL)
    layer = replace(study.layers[0], kind=EVIL, role=EVIL, module=EVIL, name=f"{EVIL}:0:0")
    first = replace(study.measurements[0], layer=layer.name)
    study = replace(study, measurements=(first, failed), layers=(layer, study.layers[1]))
    text = without_library(study_page(read(study)))
    assert text.count("<script") == 3
    assert "<script>alert" not in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert json.loads(data.group(1))["study"]["layers"][0]["kind"] == EVIL


def test_how_the_study_was_made_is_on_the_page() -> None:
    info = {"weights": "w123", "data": "d456", "version": "0.1.0", "torch": "2.13", "seconds": 61.5}
    text = study_page(read(make_study([0.1], info=info)))
    for name, value in {
        "weights (digest)": "w123",
        "data (digest)": "d456",
        "versions": "sensitivity 0.1.0, torch 2.13",
        "time": "61.5 s",
    }.items():
        assert f"<dt>{name}</dt><dd>{value}</dd>" in text


def test_notes_skipped_modules_and_the_recipe_are_on_the_page() -> None:
    text = study_page(read(make_study([0.1], notes=("eight rows were left out",))))
    assert "<li>eight rows were left out</li>" in text
    assert "skipped: never called with the example inputs" in text
    assert "&quot;granularity&quot;: &quot;per-channel&quot;" in text


def test_each_recipe_is_on_the_page_and_one_can_be_chosen() -> None:
    study = with_second_recipe(make_study([0.1, 0.2]))
    both, single = without_library(study_page(read(study))), without_library(study_page(read(study), "INT4"))
    assert len(Reader(both).tables[-1]) == 1 + 4 + 1
    assert len(Reader(single).tables[-1]) == 1 + 2 + 1
    assert '<option value="1">INT4</option>' in both
    assert "<select" not in single


def test_a_page_of_nothing_is_an_error() -> None:
    with pytest.raises(StudyError, match="has no measurements"):
        study_page(read(make_study([], skipped=())))


@pytest.mark.parametrize(("layers", "most"), [(150, 1_000_000), (1000, 2_000_000)])
def test_the_page_without_the_library_stays_small(layers: int, most: int) -> None:
    study = with_second_recipe(with_intervals(random_study(layers, failed=3)))
    assert len(without_library(study_page(read(study))).encode()) < most


def test_the_finding_counts_and_names_the_worst_layers() -> None:
    study = with_intervals(make_study([0.0431, 0.0004, None, -0.02, 0.12]), half=0.0003)
    text = study_finding(read(study), "INT8")
    assert text.startswith(
        "2 of 4 layers are known to lose more than 0.10 points of miou when INT8 perturbs one alone; 2 are "
        "harmless (on 50 images). 1 layer has no result. The largest drop is that of stage4:0:0: 12.00 points "
        "[10.47, 13.53], before stage0:0:0"
    )


def test_the_finding_says_where_dips_gather_only_where_others_do_not() -> None:
    gathered = make_study([0.1, 0.1, 0.1, *[0.0] * 22])
    assert "3 of the 3 dips are in the stage stage0." in study_finding(read(gathered), "INT8")
    spread = make_study([0.1] * 25)
    assert "dips are" not in study_finding(read(spread), "INT8")


def test_the_finding_of_a_harmless_network_says_so() -> None:
    text = study_finding(read(make_study([0.0, -0.001])), "INT8")
    assert text == (
        "None of 2 layers is known to lose more than 0.10 points of miou when INT8 perturbs one alone; "
        "2 are harmless (on 50 images)."
    )


def test_the_finding_tells_undecided_layers_and_studies_of_all_but_one_apart() -> None:
    study = with_intervals(make_study([0.001, 0.0]), half=0.004)
    assert "0 are harmless and 2 are undecided on 50 images." in study_finding(read(study), "INT8")
    assert "With all layers but one perturbed by INT8" in study_finding(
        read(replace(study, direction="all-but-one")), "INT8"
    )


def test_the_finding_holds_the_diagnosis_of_the_same_recipe_only() -> None:
    reading = read(with_second_recipe(make_study([0.1, 0.0])))
    assert "finds 1 layer hurt, 1 of them mostly by outliers; 1 can be cured" in study_finding(
        reading, "INT8", DIAGNOSIS
    )
    assert "diagnosis" not in study_finding(reading, "INT4", DIAGNOSIS)
