from __future__ import annotations

import json
from pathlib import Path

import pytest

from sensitivity.cli.arguments import size
from sensitivity.cli.main import main
from sensitivity.records import Scheme
from sensitivity.records.results.latency import Latency
from sensitivity.study import Study
from tests.made_studies import INT8, make_study

DROPS = [0.01, 0.05, 0.03, 0.0]
TIMES = {layer.name: (0.001, 0.003) for layer in make_study(DROPS).layers}


@pytest.fixture
def study() -> Study:
    return make_study(DROPS)


@pytest.fixture
def path(study: Study, tmp_path: Path) -> Path:
    study.save(tmp_path / "study.json")
    return tmp_path / "study.json"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--top", "2"], {"top": 2}),
        (["--max-drop", "1.5"], {"max_drop": 1.5}),
        (["--size", "1GiB"], {"size_bytes": 2**30}),
        (["--size-bytes", "1GiB"], {"size_bytes": 2**30}),
    ],
    ids=str,
)
def test_json_is_the_scheme_that_the_study_gives(
    study: Study, path: Path, words: list[str], expected: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["protect", str(path), *words, "--json"]) == 0
    assert Scheme.from_json(json.loads(capsys.readouterr().out)) == study.protect(**expected)  # type: ignore[arg-type]


def test_a_latency_budget_uses_the_times_in_the_study(
    study: Study, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timed = study.with_latency(Latency("TinyNet", INT8, "openvino", 0.010, 0.018, TIMES))
    timed.save(path)
    assert main(["protect", str(path), "--latency", "13.5", "--json"]) == 0
    scheme = Scheme.from_json(json.loads(capsys.readouterr().out))
    assert scheme == timed.protect(latency_s=0.0135)
    assert len(scheme.reasons) == 1  # the second would take 2 ms more
    assert main(["protect", str(path), "--latency-s", "0.0135", "--json"]) == 0
    assert Scheme.from_json(json.loads(capsys.readouterr().out)) == scheme
    assert main(["protect", str(path), "--latency", "13.5"]) == 0
    assert "expected 12 ms on openvino, of 10 ms with nothing protected" in capsys.readouterr().out


def test_a_latency_budget_needs_times(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["protect", str(path), "--latency", "13.5"]) == 2
    assert "sensitivity analyze --latency" in capsys.readouterr().err


def test_the_scheme_is_written_and_told(study: Study, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = path.parent / "new" / "scheme.json"
    assert main(["protect", str(path), "--top", "2", "--out", str(out)]) == 0
    assert Scheme.load(out) == study.protect(top=2)
    printed = capsys.readouterr().out
    assert "for all 4 layers but 2:" in printed
    for name, reason in study.protect(top=2).reasons.items():
        assert f"  {name}: {reason}" in printed
    assert "predicted drop 1 point, a sum of single drops" in printed  # 0.01 as a fraction is left
    assert f"wrote {out}" in printed


def test_a_unit_that_is_not_percent_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_study([2.0, 1.0])
    plain = made.to_json() | {"unit": "dB"}
    (tmp_path / "study.json").write_text(json.dumps(plain), encoding="utf-8")
    assert main(["protect", str(tmp_path / "study.json"), "--top", "1"]) == 0
    assert "predicted drop 1 dB, a sum" in capsys.readouterr().out


def test_what_cannot_be_met_is_exit_code_2(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["protect", str(path), "--size", "1", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sensitivity: --size-bytes 1 is too small: ")


def test_more_layers_than_there_are_are_refused_in_the_words_of_the_shell(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["protect", str(path), "--top", "5"]) == 2
    assert capsys.readouterr().err == "sensitivity: --top 5: give 0 to 4, the number of layers that have a drop.\n"


@pytest.mark.parametrize("words", [[], ["--top", "1", "--max-drop", "2"], ["--top", "many"]], ids=str)
def test_exactly_one_criterion_is_a_matter_of_usage(
    path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["protect", str(path), *words])
    assert "sensitivity protect --help shows what can be given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("300000", 300000), ("800KiB", 819200), ("1.5MiB", 1572864), ("2 GiB", 2**31), ("7B", 7)],
)
def test_a_size_is_a_number_with_a_unit(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "MiB", "3MB", "1..2", "-5"])
def test_another_size_is_refused(path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["protect", str(path), f"--size={text}"])
    assert "is no size like 300000, 800KiB or 20MiB" in capsys.readouterr().err
