from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sensitivity.cli.main import main
from tests.made_studies import make_study, with_second_recipe
from tests.report.page.made import TUNED, VERIFICATION
from tests.report.page.test_study_page import DIAGNOSIS
from tests.report.test_images import RECORD as CHANGED_IMAGES


@pytest.fixture
def study(tmp_path: Path) -> Path:
    made = make_study([0.0431, 0.0004, None, 0.12])
    made.save(tmp_path / "study.json")
    return tmp_path / "study.json"


def test_without_out_a_page_a_table_and_a_picture_lie_beside_the_study(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(study)]) == 0
    assert study.with_suffix(".html").read_text(encoding="utf-8").lstrip().startswith("<!")
    assert study.with_suffix(".md").read_text(encoding="utf-8").startswith("|")
    assert study.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert [f"wrote {study.with_suffix(ending)}" in out for ending in (".html", ".md", ".png")] == [True] * 3


def test_the_ending_says_what_is_written(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = study.parent / "new" / "folder"
    begins = {"a.tex": b"", "a.rst": b"..", "a.svg": b"<?xml", "a.pdf": b"%PDF"}
    words = [word for name in begins for word in ("--out", str(folder / name))]
    assert main(["report", str(study), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": [str(folder / name) for name in begins]}
    for name, beginning in begins.items():
        assert (folder / name).read_bytes().startswith(beginning)
    assert "longtable" in (folder / "a.tex").read_text(encoding="utf-8")
    assert not study.with_suffix(".html").exists()


def test_one_recipe_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = with_second_recipe(make_study([0.1, 0.2]))
    made.save(tmp_path / "two.json")
    first, second = made.recipes
    for name in (first, second):
        assert (
            main(["report", str(tmp_path / "two.json"), "--out", str(tmp_path / f"{name}.md"), "--recipe", name]) == 0
        )
    texts = [(tmp_path / f"{name}.md").read_text(encoding="utf-8") for name in (first, second)]
    assert texts[0] != texts[1]
    assert main(["report", str(tmp_path / "two.json"), "--recipe", "none"]) == 2
    assert "no recipe 'none' in this study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no study at"), ("{", "is not JSON"), ("{}", "not a study")],
)
def test_what_is_no_study_is_said(
    tmp_path: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert main(["report", str(path), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


@pytest.mark.parametrize("command", [["report"], ["protect", "--top", "1"]], ids=lambda words: words[0])
@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00\x01", b"PK\x03\x04\x80", b"5", b'{"schema": 1, "recipes": 5}', None]
)
def test_a_file_that_is_something_else_is_one_line(
    command: list[str], content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.json"
    path.mkdir() if content is None else path.write_bytes(content)
    assert main([command[0], str(path), *command[1:]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Give a file written by Study.save or sensitivity analyze" in captured.err


def test_the_current_folder_is_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "."]) == 2
    assert ". cannot be read as a study: Is a directory" in capsys.readouterr().err


def test_an_unknown_ending_is_refused_before_anything_is_written(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(study.parent / "a.md"), "--out", str(study.parent / "a.docx")]
    assert main(["report", str(study), *words]) == 2
    assert "a.docx has no ending that says what to write. Use one of .html" in capsys.readouterr().err
    assert not (study.parent / "a.md").exists()


def test_a_place_that_cannot_be_written_is_said(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(study), "--out", str(study / "inside" / "a.md")]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["report"], ["protect", "--top", "1", "--json"]], ids=lambda words: words[0])
def test_neither_report_nor_protect_needs_torch(study: Path, words: list[str]) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from sensitivity.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, words[0], str(study), *words[1:]]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr


def test_what_else_is_known_of_the_model_joins_the_page(study: Path) -> None:
    files = {
        "tuned": TUNED,
        "verification": VERIFICATION,
        "diagnosis": DIAGNOSIS,
        "changed-images": CHANGED_IMAGES,
        "other": make_study([0.1, 0.2, 0.0, 0.01]),
    }
    words = []
    for name, record in files.items():
        record.save(study.parent / f"{name}.json")
        words += [f"--{name}", str(study.parent / f"{name}.json")]
    page = study.parent / "page.html"
    assert main(["report", str(study), "--out", str(page), *words]) == 0
    text = page.read_text(encoding="utf-8")
    assert "The path of the search" in text
    assert "Simulated against deployed" in text
    assert "outliers (+9.0 dB)" in text
    assert text.count("<figure") == len(CHANGED_IMAGES)
    assert "Compared with INT8 in the other study" in text


def test_the_recipe_of_another_study_can_be_named(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, page = study.parent / "other.json", study.parent / "page.html"
    with_second_recipe(make_study([0.1, 0.2])).save(other)
    words = ["report", str(study), "--out", str(page), "--other", str(other)]
    assert main([*words, "--other-recipe", "INT4"]) == 0
    assert "Compared with INT4" in page.read_text(encoding="utf-8")
    assert main(words) == 2
    assert "the other study has these recipes; name one with --other-recipe NAME: " in capsys.readouterr().err


def test_a_file_of_another_kind_is_one_line(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(study), "--tuned", str(study)]) == 2
    assert "not a complete tuned model" in capsys.readouterr().err
