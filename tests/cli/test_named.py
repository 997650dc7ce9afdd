from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sensitivity.cli.arguments import shape
from sensitivity.cli.named import call_named
from sensitivity.errors import ModelError, TaskError

HERE = "tests.cli.named_models"


def test_a_function_is_called() -> None:
    assert call_named(f"{HERE}:number", "MODEL", ModelError) == 7


def test_dots_reach_into_what_the_module_holds() -> None:
    assert call_named(f"{HERE}:torch.nn.ReLU", "MODEL", ModelError).__class__ is torch.nn.ReLU


@pytest.fixture
def module_in_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "a_module_of_mine.py").write_text("def make():\n    return 'made'\n", encoding="utf-8")
    (tmp_path / "lacks_something.py").write_text("import not_installed_at_all\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry])
    return


@pytest.mark.usefixtures("module_in_current_folder")
def test_modules_of_the_current_folder_are_found() -> None:
    assert call_named("a_module_of_mine:make", "MODEL", ModelError) == "made"


def test_a_file_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    file = tmp_path / "some" / "a_file_of_mine.py"
    file.parent.mkdir()
    file.write_text("def make():\n    return 'made'\n", encoding="utf-8")
    assert call_named(f"{file}:make", "MODEL", ModelError) == "made"
    with pytest.raises(ModelError, match=r"there is no file 'nowhere\.py' for MODEL"):
        call_named("nowhere.py:make", "MODEL", ModelError)
    (tmp_path / "json.py").write_text("def make():\n    return 1\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"a module named 'json' is there already, from .*Rename the file"):
        call_named(f"{tmp_path / 'json.py'}:make", "MODEL", ModelError)


@pytest.mark.usefixtures("module_in_current_folder")
def test_what_a_users_module_lacks_is_not_hidden() -> None:
    message = (
        r"'lacks_something:make' failed: ModuleNotFoundError: .*not_installed_at_all.*lacks_something\.py, line 1\)"
    )
    with pytest.raises(ModelError, match=message):
        call_named("lacks_something:make", "MODEL", ModelError)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def make():\n    import json\n    json.loads('{')\n", r"JSONDecodeError: .*fails\.py, line 3\)\. Call it in"),
        ("1 / 0\n", r"ZeroDivisionError: division by zero \(.*fails\.py, line 1\)"),
        ("def make(:\n", r"SyntaxError: .*fails\.py, line 1\)"),
        ("def make():\n    raise LookupError\n", r"failed: LookupError: +\(.*fails\.py, line 2\)"),
    ],
)
def test_an_exception_of_the_users_code_is_told_with_its_place(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    monkeypatch.delitem(__import__("sys").modules, "fails", raising=False)
    (tmp_path / "fails.py").write_text(source, encoding="utf-8")
    with pytest.raises(TaskError, match=message):
        call_named(f"{tmp_path / 'fails.py'}:make", "TASK", TaskError)


@pytest.mark.parametrize("text", ["", "number", ":number", f"{HERE}:", f"{HERE}.number"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"not of the form package\.module:callable"):
        call_named(text, "MODEL", ModelError)


def test_a_missing_module_is_named() -> None:
    with pytest.raises(TaskError, match=r"there is no module 'tests\.cli\.nothing' for TASK"):
        call_named("tests.cli.nothing:task", "TASK", TaskError)


def test_a_missing_function_has_the_nearest_names() -> None:
    with pytest.raises(ModelError, match=r"tests\.cli\.named_models has no 'modl'. Nearest: 'model'"):
        call_named(f"{HERE}:modl", "MODEL", ModelError)


def test_a_model_is_not_taken_for_a_function_that_makes_one() -> None:
    with pytest.raises(ModelError, match=r"is Sequential, not a function .* def make\(\): return a_model"):
        call_named(f"{HERE}:a_model", "MODEL", ModelError)


def test_a_number_cannot_be_called() -> None:
    with pytest.raises(ModelError, match="is int, not a function"):
        call_named(f"{HERE}:SIDE", "MODEL", ModelError)


def test_errors_of_the_users_code_are_not_hidden() -> None:
    with pytest.raises(ModelError, match="ZeroDivisionError: a bug of the user's own") as caught:
        call_named(f"{HERE}:broken", "MODEL", ModelError)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_shape_is_numbers_between_crosses() -> None:
    assert shape("1x3x224x224") == (1, 3, 224, 224)
    assert shape("5") == (5,)
