"""CSV files of tables: what a spreadsheet would run is text, and every number is as it was."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pandas as pd

import sensitivity as sv
from sensitivity.cli.main import main
from sensitivity.report.tables.csv_file import write_csv
from tests.made_studies import make_study

FORMULA = '=HYPERLINK("https:a";"b"):0:0'


def hostile() -> sv.Study:
    """A study whose first layer has a formula for a name, and a layer that failed for a reason that is one."""
    study = make_study([-0.1, 0.2, None])
    layers = (replace(study.layers[0], name=FORMULA, module="@a"), *study.layers[1:])
    first, second, last = study.measurements
    rows = (
        replace(first, layer=FORMULA, metrics={**first.metrics, "+m": 0.5}),
        second,
        replace(last, reason="-2+3+cmd|' /C calc'!A0"),
    )
    return replace(study, layers=layers, measurements=rows)


def test_no_cell_is_a_formula_and_numbers_keep_their_sign(tmp_path: Path) -> None:
    table = hostile().table()
    before = table.copy()
    write_csv(table, tmp_path / "a.csv")
    pd.testing.assert_frame_equal(table, before)
    with (tmp_path / "a.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert rows[0][:2] == [f"'{FORMULA}", "'@a"]
    assert "'+m" in header
    assert rows[2][header.index("reason")].startswith("'-2+3")
    read = pd.read_csv(tmp_path / "a.csv")
    assert read["drop"].tolist()[:2] == table["drop"].tolist()[:2]
    assert read["drop"][0] < 0


def test_the_command_line_writes_no_formula(tmp_path: Path, monkeypatch) -> None:
    hostile().save(tmp_path / "a.json")
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "a.json", "a.json", "--table", "out.csv"]) == 0
    text = (tmp_path / "out.csv").read_text()
    assert "HYPERLINK" in text
    assert not [cell for row in csv.reader(text.splitlines()) for cell in row if cell[:1] in ("=", "@", "+")]
