"""The study that a user holds: a thin door to the rooms, and cheap to open."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sensitivity.errors import StudyError
from sensitivity.records import StudyRecord
from sensitivity.report.tables.text import summary
from sensitivity.study import Study, read
from tests.made_studies import make_study, random_study, with_intervals, with_second_recipe


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_record_becomes_a_study_with_the_same_facts() -> None:
    study = random_study(5)
    record = StudyRecord(**{field.name: getattr(study, field.name) for field in fields(StudyRecord)})
    assert Study.of(record) == study
    assert type(Study.of(record)) is Study


def test_a_study_survives_saving_as_a_study(tmp_path: Path) -> None:
    study = with_intervals(with_second_recipe(random_study(8, failed=1)))
    study.save(tmp_path / "study.json")
    loaded = Study.load(tmp_path / "study.json")
    assert type(loaded) is Study
    assert loaded == study
    assert loaded.table().equals(study.table())


def test_importing_the_door_loads_no_heavy_package() -> None:
    heavy = ["torch", "torchvision", "numpy", "pandas", "matplotlib"]
    assert run(f"import sys, sensitivity.study; print([n for n in {heavy} if n in sys.modules])") == "[]"


def test_everything_a_study_does_works_without_torch(tmp_path: Path) -> None:
    random_study(8).save(tmp_path / "study.json")
    code = f"""
import sys
sys.modules["torch"] = None  # any import of it now fails
from sensitivity.study import Study
from sensitivity.tradeoff import pareto
folder = {str(tmp_path)!r}
study = Study.load(folder + "/study.json")
study.table(); study.flags(); study.verdicts(); study.images_needed()
study.protect(top=2); study.compare(study); repr(study); study._repr_html_()
study.plot(folder + "/dips.png"); study.to_html(folder + "/page.html"); pareto(study, path=folder + "/pareto.png")
study.to_markdown(); study.to_latex(); study.to_rst()
print(len(study.layers))
"""
    assert run(code) == "8"
    assert {path.name for path in tmp_path.iterdir()} == {"study.json", "dips.png", "page.html", "pareto.png"}


def test_plot_returns_a_figure_and_saves_it_where_asked(tmp_path: Path) -> None:
    study = with_second_recipe(random_study(8))
    assert isinstance(study.plot(), Figure)
    assert list(tmp_path.iterdir()) == []
    figure = study.plot(tmp_path / "dips.svg", recipe="INT4", label=1)
    assert (tmp_path / "dips.svg").stat().st_size > 5000
    assert len(figure.axes) == 1
    assert len(figure.findobj(lambda artist: artist.get_gid() == "label")) == 1
    with pytest.raises(StudyError, match=r"cannot save a figure as 'dips\.gif'"):
        study.plot(tmp_path / "dips.gif")


def test_flags_take_a_tolerance_in_points_and_a_recipe() -> None:
    study = with_second_recipe(make_study([0.01]))
    (name,) = study.flags(recipe="INT8")
    assert "dip" in study.flags(0.9, recipe="INT8")[name]
    assert "dip" not in study.flags(1.1, recipe="INT8")[name]
    assert "dip" in study.flags(tolerance=1.1, recipe="INT4")[name]


def test_protect_passes_every_criterion_on() -> None:
    study = with_second_recipe(make_study([0.1, 0.2, 0.3]))
    everything = study.protect(top=3, recipe="INT8").size_bytes
    assert len(study.protect(top=1, recipe="INT8").reasons) == 1
    assert len(study.protect(max_drop=30.1, recipe="INT8").reasons) == 1
    assert len(study.protect(max_drop=30.1, recipe="INT4").reasons) == 2
    assert len(study.protect(size_bytes=everything, recipe="INT8").reasons) == 3


def test_texts_and_the_page_take_a_recipe(tmp_path: Path) -> None:
    study = with_second_recipe(make_study([0.1]))
    for write in (study.to_markdown, study.to_latex, study.to_rst):
        assert "INT8" in write()
        assert "30.00" in write(recipe="INT4")
        assert "INT8" not in write(recipe="INT4")
    study.to_html(tmp_path / "page.html", recipe="INT4")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "INT8" not in page


def test_compare_and_table_are_those_of_the_report_room() -> None:
    study = with_second_recipe(random_study(8))
    assert list(study.table("INT4")["drop"][:3]) == pytest.approx([300 * m.drop for m in study.of_recipe("INT8")[:3]])
    both = study.compare(study, recipe="INT8", other_recipe="INT4")
    assert both.attrs["rank_correlation"] == pytest.approx(1.0)


def test_a_study_prints_a_summary() -> None:
    study = random_study(8)
    assert repr(study) == summary(read(study))
    assert "<table>" in study._repr_html_()
