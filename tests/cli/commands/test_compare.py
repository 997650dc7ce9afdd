"""``sensitivity compare``: drops written by hand, ranks and correlation computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from sensitivity.cli.main import main
from tests.made_studies import make_study


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    for name, drops in (("a.json", [0.01, 0.05, 0.03, 0.0]), ("b.json", [0.04, 0.05, None, 0.0])):
        make_study(drops).save(tmp_path / name)  # type: ignore[arg-type]
    return [str(tmp_path / "a.json"), str(tmp_path / "b.json")]


def test_json_holds_drops_and_ranks_of_both_and_null_where_a_layer_failed(
    paths: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *paths, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["layers_compared"], plain["rank_correlation"]) == (3, 1.0)
    assert [row["drop"] for row in plain["layers"]] == pytest.approx([1.0, 5.0, 3.0, 0.0])  # points
    assert (plain["drop_unit"], plain["drop_other_unit"]) == ("points", "points")
    assert [row["rank"] for row in plain["layers"]] == [3, 1, 2, 4]
    assert [row["rank_other"] for row in plain["layers"]] == [2, 1, None, 3]


def test_people_see_the_worst_layer_of_either_study_first(paths: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"drop: INT8 in {paths[0]}, ")
    assert lines[0].endswith(" in points")
    assert lines[1].startswith(f"drop_other: INT8 in {paths[1]}, ")
    assert lines[2] == "rank correlation (Spearman) 1.00 over 3 layers measured in both"
    cells = [line.split() for line in lines[3:]]
    assert cells[0] == ["name", "kind", "role", "drop", "drop_other", "rank", "rank_other"]
    assert [row[-4:] for row in cells[1:]] == [
        ["5", "5", "1", "1"],
        ["1", "4", "3", "2"],
        ["3", "–", "2", "–"],
        ["0", "0", "4", "3"],
    ]


def test_the_table_holds_the_layers_that_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "many.json"
    make_study([0.001 * number for number in range(30)]).save(study)
    assert main(["compare", str(study), str(study), "--table", str(tmp_path / "all.csv")]) == 0
    out = capsys.readouterr().out
    assert "10 more layers: --table FILE.csv writes all of them" in out
    assert len(pd.read_csv(tmp_path / "all.csv")) == 30


def test_an_unknown_recipe_is_told_in_the_words_of_the_command_line(
    paths: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for option, path in (("--recipe", paths[0]), ("--other-recipe", paths[1])):
        assert main(["compare", *paths, option, "fp9"]) == 2
        assert capsys.readouterr().err == f"sensitivity: {option} fp9: {path} has no such recipe. It has: INT8.\n"


def test_equal_drops_have_no_rank_correlation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study([0.01, 0.01]).save(tmp_path / "same.json")
    assert main(["compare", str(tmp_path / "same.json"), str(tmp_path / "same.json")]) == 0
    assert "undefined, as the drops do not differ, over 2 layers" in capsys.readouterr().out


def test_names_and_a_picture_are_written(paths: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, picture = tmp_path / "table.csv", tmp_path / "both.png"
    files = ["--table", str(table), "--picture", str(picture)]
    assert main(["compare", *paths, "--names", "float", "int8", *files]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert {"drop_float", "drop_int8", "rank_float", "rank_int8"} <= set(pd.read_csv(table).columns)


def test_numbers_in_a_table_have_no_digits_that_are_noise(tmp_path: Path) -> None:
    for name, drop in (("a.json", 1 / 3), ("b.json", 2 / 3)):
        make_study([drop]).save(tmp_path / name)
    table = tmp_path / "table.csv"
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--table", str(table)]) == 0
    assert ",33.333333," in table.read_text(encoding="utf-8")
