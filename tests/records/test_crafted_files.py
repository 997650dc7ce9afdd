"""Record files that somebody crafted or damaged: each is refused with an error of the library that names the file."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sensitivity as sv
from sensitivity.errors import RecipeError, SensitivityError, StudyError
from sensitivity.records.results.verification import LayerCheck, LayerStatus, VerificationRecord
from sensitivity.records.storage.files import write_bytes, write_json
from tests.made_studies import make_study, with_intervals

DEEP = "[" * 900 + "]" * 900
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    return with_intervals(make_study([0.04, None, -0.002])).to_json()


def put(*path: Any, value: Any) -> Change:
    """A change that sets one value in a nest."""

    def change(plain: dict[str, Any]) -> None:
        inner: Any = plain
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value

    return change


STUDIES: dict[str, tuple[Change, str]] = {
    "another schema": (put("schema", value=99), "study of schema 99"),
    "a schema of text": (put("schema", value="1"), "study of schema '1'"),
    "a name that is a number": (put("model", value=5), "model=5: give text"),
    "a truth that is text": (put("higher_is_better", value="yes"), "higher_is_better='yes'"),
    "an unknown direction": (put("direction", value="sideways"), "direction='sideways'"),
    "a baseline of text": (put("baseline", "value", value="0.5"), "value='0.5': give a number"),
    "a baseline that is NaN": (put("baseline", "value", value={"number": "nan"}), "value=nan"),
    "a metric of text": (put("baseline", "metrics", value={"miou": "high"}), "'miou' is 'high'"),
    "images of text": (put("baseline", "images", value="50"), "images='50': give a whole number"),
    "a drop of text": (put("measurements", 0, "drop", value="big"), "drop='big'"),
    "a drop that is true": (put("measurements", 0, "drop", value=True), "drop=True"),
    "a drop that is NaN": (put("measurements", 0, "drop", value={"number": "nan"}), "drop=nan"),
    "a bound that is NaN": (put("measurements", 0, "drop_low", value={"number": "nan"}), "drop_low=nan"),
    "images below zero": (put("measurements", 0, "images", value=-1), "on -1 images"),
    "an unknown status": (put("measurements", 0, "status", value="guessed"), "'guessed' is not a valid Status"),
    "an unknown layer": (put("measurements", 0, "layer", value="nowhere:0:0"), "layer 'nowhere:0:0'"),
    "an unknown recipe": (put("measurements", 0, "recipe", value="FP3"), "recipe 'FP3'"),
    "a signal of a list": (put("measurements", 0, "signals", value={"sqnr": []}), r"'sqnr' is \[\]"),
    "a field too many": (put("measurements", 0, "colour", value=1), "colour"),
    "a measurement of text": (put("measurements", 0, value="dip"), "not a complete study"),
    "measurements of a number": (put("measurements", value=7), "not a complete study"),
    "a layer with a strange name": (put("layers", 0, "name", value="stem"), "'stem' is no layer"),
    "channels of text": (put("layers", 0, "in_channels", value="3"), "in_channels='3'"),
    "no groups": (put("layers", 0, "groups", value=0), "groups are 1 or more"),
    "flags of a number": (put("layers", 0, "flags", value=3), "not a complete study"),
    "a kernel of text": (put("layers", 0, "kernel_size", value=["3", "3"]), "kernel_size holds '3'"),
    "skipped modules of text": (put("skipped", value=["head"]), "not a complete study"),
    "a note of a number": (put("notes", value=[5]), "not a complete study"),
    "info of text": (put("info", value="fast"), "info='fast'"),
    "times without numbers": (put("info", "latency", value={"INT8": {"layers": 5}}), "no complete times"),
    "a number of words": (put("baseline", value={"number": "many"}), "not a complete study"),
}


RECIPES: dict[str, tuple[Any, str]] = {
    "an unknown key": ({"name": "x", "bits": 8}, r"it does not know 'bits'\. The keys are name, weights, activations"),
    "no name": ({"weights": {"format": "int8"}}, "it lacks 'name'. The keys are name,"),
    "an unknown key of a part": ({"name": "x", "weights": {"formt": "int8"}}, "weights does not know 'formt'"),
    "a part that is a number": ({"name": "x", "weights": 5}, "weights is 5"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_refused_in_the_words_of_its_file(name: str) -> None:
    plain, message = RECIPES[name]
    with pytest.raises(RecipeError, match=message) as refusal:
        sv.Recipe.from_json(plain)
    assert "__init__" not in str(refusal.value)


def test_another_record_is_refused_by_what_it_lacks(study: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"^not a scheme: it has no 'rules'\."):
        sv.Scheme.from_json(study)
    with pytest.raises(StudyError, match=r"^not a complete tuned model: it has no 'goal'\."):
        sv.Tuned.from_json(study)


@pytest.mark.parametrize("name", STUDIES)
def test_a_crafted_study_is_refused_with_what_is_wrong_in_which_file(
    name: str, study: dict[str, Any], tmp_path: Path
) -> None:
    change, message = STUDIES[name]
    plain = copy.deepcopy(study)
    change(plain)
    path = tmp_path / "study.json"
    path.write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(StudyError, match=message) as refused:
        sv.Study.load(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("part", ["layers", "recipes", "measurements"])
def test_what_stands_twice_in_a_study_is_refused(part: str, study: dict[str, Any], tmp_path: Path) -> None:
    plain = copy.deepcopy(study)
    plain[part].append(plain[part][0])
    (tmp_path / "study.json").write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(StudyError, match=rf"study\.json: the {part[:-1]} .* stands twice"):
        sv.Study.load(tmp_path / "study.json")


@pytest.mark.parametrize("kind", [sv.Study, sv.Scheme, sv.Verification])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 1, "schema": 1}', "the key 'schema' stands twice"),
        ('{"schema": NaN}', "NaN is no number in JSON"),
        ('{"schema": -Infinity}', "-Infinity is no number in JSON"),
        ("[" * 100_000, "is not JSON|recursion"),
        ('{"schema": 1, "rules": ' + DEEP + ', "layers": ' + DEEP + ', "recipes": ' + DEEP + "}", r"a\.json"),
        ("9" * 10_000, "is not JSON"),
    ],
)
def test_json_that_only_python_reads_is_refused(kind: Any, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(SensitivityError, match=message):
        kind.load(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"rules": [{"pattern": 5, "recipe": None}]}, "pattern=5: give text"),
        ({"rules": [], "predicted_drop": "small"}, "predicted_drop='small'"),
        ({"rules": [], "size_bytes": 1.5}, r"size_bytes=1\.5"),
        ({"rules": [], "reasons": {"stem:0:0": 5}}, "reasons="),
        ({"rules": [], "rest": "fp7"}, "fp7"),
    ],
)
def test_a_crafted_scheme_is_refused(plain: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "scheme.json").write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"scheme\.json: .*{message}"):
        sv.Scheme.load(tmp_path / "scheme.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("images", value="50"), "images='50'"),
        (put("metric_fp32", value="high"), "metric_fp32='high'"),
        (put("layers", 0, "code_share", value="all"), "code_share='all'"),
        (put("layers", 0, "status", value="fine"), "fine"),
        (put("gates", "code_steps", value="1"), "code_steps='1'"),
        (put("engine", value=None), "engine=None"),
    ],
)
def test_a_crafted_verification_is_refused(change: Change, message: str, tmp_path: Path) -> None:
    plain = VerificationRecord("m", "e", (LayerCheck("a:0:0", "a", "int8", "int8", LayerStatus.VERIFIED),)).to_json()
    change(plain)
    (tmp_path / "v.json").write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(SensitivityError, match=rf"v\.json: .*{message}"):
        sv.Verification.load(tmp_path / "v.json")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_study_with_any_value_replaced_is_read_or_refused_and_nothing_else(
    data: st.DataObject, study: dict[str, Any]
) -> None:
    plain = copy.deepcopy(study)
    inner: Any = plain
    while True:
        key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        if not isinstance(inner[key], (dict, list)) or not inner[key] or data.draw(st.booleans()):
            break
        inner = inner[key]
    scalars = st.one_of(st.none(), st.booleans(), st.integers(-2, 2**70), st.floats(), st.text(max_size=5))
    inner[key] = data.draw(st.one_of(scalars, st.lists(scalars, max_size=2), st.dictionaries(st.text(), scalars)))
    try:
        loaded = sv.Study.from_json(plain)
    except SensitivityError:
        return
    repr(loaded)
    loaded.to_markdown()


@pytest.mark.parametrize("kind", ["Study", "Scheme", "Verification", "Calibration"])
def test_a_pipe_is_refused_at_once(kind: str, tmp_path: Path, repository: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    code = f"import sensitivity as sv; sv.{kind}.load({str(tmp_path / 'pipe')!r})"
    run = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=120)
    assert "pipe or a device" in run.stderr
    assert "Error: " in run.stderr


def test_a_draft_is_never_written_through_a_file_that_waits_at_its_old_name(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    (tmp_path / "study.json.part").symlink_to(victim)
    write_json(tmp_path / "study.json", {"a": 1})
    assert victim.read_text(encoding="utf-8") == "precious"


def test_the_mode_of_a_file_that_is_replaced_is_kept_and_a_new_one_obeys_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    before = os.umask(0o027)
    try:
        write_json(path, 1)
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o604)
        write_json(path, 2)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o604
    assert json.loads(path.read_text(encoding="utf-8")) == 2


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("1", encoding="utf-8")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_json(tmp_path / "link.json", 2)
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text(encoding="utf-8") == "2\n"


def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]
