"""``deploy`` and ``verify``: thin, so that what they say is compared with what the library gives."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from sensitivity.cli.main import main
from sensitivity.verification import Verification
from tests.deploy.nets import SAFE

pytestmark = pytest.mark.slow

HERE = "tests.cli.named_models"
MODEL, TASK, IMAGES = f"{HERE}:model", f"{HERE}:task", f"{HERE}:images"


@pytest.fixture
def scheme(tmp_path: Path) -> str:
    SAFE.protect("@output").save(tmp_path / "scheme.json")
    return str(tmp_path / "scheme.json")


def test_deploy_says_what_each_layer_executes_and_writes_the_graph(
    scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "model.onnx"
    words = ["deploy", MODEL, scheme, "--calibration", IMAGES, "--out", str(out)]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "  layers:0:0: int8\n  layers:0:1: int8\n  layers:0:2: fp32\n" in text
    assert f"wrote {out}" in text
    onnx.checker.check_model(str(out))
    operators = [node.op_type for node in onnx.load(out).graph.node]
    assert operators.count("QuantizeLinear") == 2
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["executed"] == {"layers:0:0": ["int8"], "layers:0:1": ["int8"], "layers:0:2": ["fp32"]}
    assert printed["written"] == [str(out)]


def test_the_engine_is_chosen(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", MODEL, scheme, "--calibration", IMAGES, "--engine", "onnxruntime", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["engine"] == "onnxruntime"
    assert printed["executed"]["layers:0:0"] == ["fp32"]  # the float Q/DQ reference


@pytest.mark.parametrize("command", ["deploy", "verify"])
def test_an_engine_that_nobody_knows_is_told_in_the_command_lines_words(
    command: str, scheme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, MODEL, scheme, "--engine", "nine"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sensitivity: no engine is called 'nine'. Choose one of openvino, ")
    assert error.endswith(", or one that MODEL's module registers.\n")


def test_verify_writes_what_wrapped_verify_finds(
    scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "verification.json"
    assert main(["verify", MODEL, scheme, TASK, "--calibration", IMAGES, "--out", str(out), "--json"]) == 0
    verification = Verification.load(out)
    assert Verification.from_json(json.loads(capsys.readouterr().out)) == verification
    assert verification.passed
    assert [check.status for check in verification.layers] == ["verified", "verified", "in float"]
    assert verification.metric_deployed == pytest.approx(verification.metric_simulated, rel=0.01)


def test_an_engine_that_computes_something_else_is_exit_code_1(
    scheme: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Verification, "passed", property(lambda _: False))
    assert main(["verify", MODEL, scheme, "--calibration", IMAGES]) == 1
    captured = capsys.readouterr()
    assert "layers: 2 verified, 1 in float" in captured.out  # the facts are told all the same
    assert "openvino does not compute what was simulated" in captured.err


@pytest.mark.parametrize("command", ["deploy", "verify"])
def test_what_is_missing_is_one_line_and_exit_code_2(
    command: str, scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.json").write_text("{", encoding="utf-8")
    for words, message in [
        ([MODEL, scheme], "needs images to measure their ranges on: give --calibration"),
        ([MODEL, str(tmp_path / "none.json"), "--calibration", IMAGES], "sensitivity protect --out writes one"),
        ([MODEL, str(tmp_path / "no.json"), "--calibration", IMAGES], "is not JSON"),
        ([f"{HERE}:number", scheme, "--calibration", IMAGES], "returned int. Return a torch module"),
    ]:
        assert main([command, *words]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert message in captured.err


@pytest.mark.parametrize("command", ["deploy", "verify"])
@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[]", b'{"rules": [], "reasons": 5}', None])
def test_a_scheme_that_is_something_else_is_one_line(
    command: str, content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scheme.json"
    path.mkdir() if content is None else path.write_bytes(content)
    assert main([command, MODEL, str(path), "--calibration", IMAGES]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "scheme" in captured.err.replace(str(path), "").lower()


@pytest.mark.parametrize("command", ["deploy", "verify"])
def test_images_and_places_are_checked_before_the_model_is_made(
    command: str, scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, f"{HERE}:broken", scheme, "--calibration"]
    assert main([*words, IMAGES, "--out", str(tmp_path)]) == 2
    assert "it is a folder" in capsys.readouterr().err
    assert main([command, MODEL, scheme, "--calibration", f"{HERE}:no_images"]) == 2
    assert "returned NoneType, which is no images" in capsys.readouterr().err


def test_a_file_of_another_kind_is_no_scheme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "study.json"
    path.write_text('{"schema": 1}', encoding="utf-8")
    assert main(["deploy", MODEL, str(path)]) == 2
    expected = f"{path}: not a scheme: it has no 'rules'. Give a file that sensitivity protect --out or tune wrote."
    assert capsys.readouterr().err == f"sensitivity: {expected}\n"


def test_parts_are_what_an_engine_runs(scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{HERE}:encoded", scheme, "--calibration", IMAGES]
    with_task = ["verify", f"{HERE}:encoded", scheme, f"{HERE}:encoded_task", "--calibration", IMAGES]
    assert main(with_task) == 2  # the task calls methods, not the model
    assert "never runs the model" in capsys.readouterr().err
    assert main([*with_task, "--parts", "encoder"]) == 0, capsys.readouterr()
    capsys.readouterr()
    out = tmp_path / "model.onnx"
    assert main(["deploy", *words, "--parts", "encoder", "head", "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["written"] == [str(tmp_path / "model-encoder.onnx"), str(tmp_path / "model-head.onnx")]
    assert main(["deploy", *words, "--parts", "encodr"]) == 2
    assert "--parts names 'encodr'" in capsys.readouterr().err


def test_a_calibration_that_was_made_before_is_taken(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["deploy", MODEL, scheme, "--calibration", f"{HERE}:calibration", "--engine", "torch", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {}


@pytest.mark.parametrize("command", ["deploy", "verify"])
def test_an_unknown_engine_is_told_before_the_work(
    command: str, scheme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, f"{HERE}:broken", scheme, "--engine", "opnvino"]) == 2
    assert "no engine is called 'opnvino'. Choose one of openvino, onnxruntime," in capsys.readouterr().err
