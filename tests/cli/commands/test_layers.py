from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sensitivity.cli.main import main

HERE = "tests.cli.named_models"
NAMES = ["layers:0:0", "layers:0:1", "layers:0:2"]


def test_layers_are_listed_in_execution_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", f"{HERE}:model"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 layers of Sequential"
    assert [line.split()[0] for line in lines[1:]] == NAMES


def test_json_holds_every_attribute_and_nothing_else_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", f"{HERE}:model", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [layer["name"] for layer in printed["layers"]] == NAMES
    assert printed["layers"][0]["norm"] == "BatchNorm2d"
    assert printed["skipped"] == []


def test_what_the_users_code_prints_is_not_in_the_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", f"{HERE}:noisy_model", "--json"]) == 0
    captured = capfd.readouterr()
    assert len(json.loads(captured.out)["layers"]) == 3
    for line in ("loading weights ...", "loading from a program", "loading from C"):
        assert line in captured.err
    assert main(["layers", f"{HERE}:noisy_model"]) == 0  # a person sees it where it was printed
    assert "loading weights ..." in capfd.readouterr().out


def test_json_of_a_process_is_json_alone() -> None:
    command = [sys.executable, "-m", "sensitivity.cli.main", "layers", f"{HERE}:noisy_model", "--json"]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert len(json.loads(completed.stdout)["layers"]) == 3
    assert "loading from C" in completed.stderr


def test_a_pattern_selects(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", f"{HERE}:model", "--json", "--select", "@stem", "--select", "@output"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [layer["name"] for layer in printed["layers"]] == [NAMES[0], NAMES[2]]


def test_a_pattern_without_a_match_fails_with_the_nearest_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", f"{HERE}:model", "--json", "--select", "layers:0:9"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Nearest: 'layers:0:" in captured.err
    assert captured.err.endswith(" sensitivity layers MODEL lists all 3.\n")


def test_the_input_is_a_shape_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", f"{HERE}:net", "--input", "1x3x8x8", "--json"]) == 0
    small = json.loads(capsys.readouterr().out)["layers"][0]
    assert main(["layers", f"{HERE}:net", "--input", "1x3x16x16", "--json"]) == 0
    large = json.loads(capsys.readouterr().out)["layers"][0]
    assert large["macs"] == 4 * small["macs"]


def test_the_shape_on_the_command_line_goes_before_the_models_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", f"{HERE}:model", "--input", "1x3x32x32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["macs"] == 3 * 8 * 9 * 32 * 32


def test_a_shape_may_have_commas(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", f"{HERE}:net", "--input", "1,3,16,16", "--json"]) == 0
    with_commas = capsys.readouterr().out
    assert main(["layers", f"{HERE}:net", "--input", "1x3x16x16", "--json"]) == 0
    assert with_commas == capsys.readouterr().out


def test_several_inputs_are_several_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", f"{HERE}:two_inputs", "--input", "1x3x8x8", "--input", "1x5", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 2


def test_a_wrapped_model_keeps_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", f"{HERE}:wrapped"]) == 0
    assert capsys.readouterr().out.startswith("3 layers of wrapped by hand")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"{HERE}:net"], "without example inputs. Return (module, example inputs), or give their shape"),
        ([f"{HERE}:number"], "returned int. Return a torch module"),
        (["nothing"], "not of the form package.module:callable"),
        ([f"{HERE}:net", "--input", "1x7x8x8"], "7"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["layers", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("text", ["1x3x", "1x0x4", "1,3,,4", "axb", ""])
def test_a_wrong_shape_is_a_wrong_command_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["layers", f"{HERE}:net", "--input", text])
    assert "is no shape like 1x3x224x224" in capsys.readouterr().err
