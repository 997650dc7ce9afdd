"""Names in the sources: a variable says what it holds, the field's word stands, and a class's name has one meaning."""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "sensitivity"

# No variable has one of these names, which do not say what it holds.
EMPTY_NAMES = {
    "asked", "bend", "bends", "bent", "found", "given", "here", "it", "kept", "lane", "lanes", "mine", "one",
    "ones", "ours", "said", "theirs", "there", "thing", "things", "those", "told", "what", "who", "wish", "wishes",
}  # fmt: skip
# No name holds one of these words; the field's word stands in its place.
FIELD_WORDS = {
    "bend": "nonlinearity",
    "bending": "nonlinearity",
    "disturb": "perturb",
    "disturbed": "perturbed",
    "disturber": "perturber",
    "lane": "criterion",
    "lanes": "criteria",
    "wish": "candidate",
    "wishes": "candidates",
}
SOURCES = sorted(PACKAGE.rglob("*.py"))
# What an assert may call: it asks, and changes nothing.
ASKING = {"all", "any", "callable", "hasattr", "isinstance", "issubclass", "len", "max", "min", "sorted", "sum"}

parsed = functools.cache(ast.parse)


def variables(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names and lines of all that functions bind: arguments and variables; fields of classes are left out."""
    fields = {
        id(node)
        for owner in ast.walk(tree)
        if isinstance(owner, ast.ClassDef)
        for statement in owner.body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in fields:
            yield node.id, node.lineno


def empty_names(source: str) -> list[str]:
    """Every variable in a source whose name does not say what it holds."""
    return [f"{name} in line {line}" for name, line in variables(parsed(source)) if name in EMPTY_NAMES]


def words_of(name: str) -> set[str]:
    """The words of an identifier: ``able_to_bend`` and ``AbleToBend`` alike."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)}


def replaced_words(source: str) -> list[str]:
    """Every name defined in a source with a word that the field has another one for."""
    tree = parsed(source)
    definitions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    names = [(node.name, node.lineno) for node in definitions] + list(variables(tree))
    return [
        f"{name} in line {line}: say {FIELD_WORDS[word]}"
        for name, line in names
        for word in sorted(words_of(name) & FIELD_WORDS.keys())
    ]


def acts(condition: ast.expr) -> bool:
    """Whether a condition binds a name or calls what may change something."""
    parts = list(ast.walk(condition))
    called = {ast.unparse(part.func) for part in parts if isinstance(part, ast.Call)}
    return any(isinstance(part, ast.NamedExpr) for part in parts) or not called <= ASKING


def asserts_that_act(source: str) -> list[str]:
    """Every assert whose condition does more than ask."""
    asserts = [node for node in ast.walk(parsed(source)) if isinstance(node, ast.Assert)]
    return [ast.unparse(node) for node in asserts if acts(node.test)]


def docstrings_inside_functions(source: str) -> list[str]:
    """Every function inside a function that has a docstring: its few lines say what it does."""
    functions = [node for node in ast.walk(parsed(source)) if isinstance(node, ast.FunctionDef)]
    return [
        f"{inner.name} in line {inner.lineno}"
        for outer in functions
        for inner in ast.walk(outer)
        if inner is not outer and isinstance(inner, ast.FunctionDef) and ast.get_docstring(inner)
    ]


def complaints(check: Callable[[str], list[str]]) -> list[str]:
    """What a check says of every file of the package."""
    return [
        f"{path.relative_to(PACKAGE)}: {complaint}"
        for path in SOURCES
        if "testing" not in path.parts or check is not asserts_that_act  # suites are asserts, run by pytest
        for complaint in check(path.read_text(encoding="utf-8"))
    ]


def test_a_variable_says_what_it_holds() -> None:
    assert complaints(empty_names) == []


def test_a_name_uses_the_word_of_the_field() -> None:
    assert complaints(replaced_words) == []


def test_no_assert_has_an_effect_that_python_without_asserts_would_lack() -> None:
    assert complaints(asserts_that_act) == []


def test_functions_inside_functions_have_no_docstring() -> None:
    assert complaints(docstrings_inside_functions) == []


def test_public_classes_do_not_share_a_name() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        for node in parsed(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(path.relative_to(PACKAGE)))
    assert len(homes) > 100
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("def f(one):\n    return one", "one in line 1"),
        ("def f(x):\n    found = x\n    return found", "found in line 2"),
        ("f = [given for given in range(3)]", "given in line 1"),
        ("with open('x') as it:\n    pass", "it in line 1"),
        ("for number, told in enumerate('x'):\n    pass", "told in line 1"),
        ("g = lambda there: there", "there in line 1"),
    ],
)
def test_an_empty_name_is_seen_wherever_it_is_bound(source: str, named: str) -> None:
    assert empty_names(source) == [named]


def test_fields_of_classes_are_not_taken_for_variables() -> None:
    assert empty_names("class Step:\n    what: str\n    kept = 3") == []


@pytest.mark.parametrize("source", ["class Disturber: ...", "def able_to_be_disturbed(): ...", "bending_parts = 3"])
def test_a_word_that_the_field_does_not_use_is_seen(source: str) -> None:
    [message] = replaced_words(source)
    assert "say perturb" in message or "say nonlinearity" in message


@pytest.mark.parametrize("condition", ["(n := f())", "names.pop()", "f(3) == 4"])
def test_an_assert_that_acts_is_seen(condition: str) -> None:
    assert asserts_that_act(f"assert {condition}") == [f"assert {condition}"]


def test_a_docstring_inside_a_function_is_seen() -> None:
    source = 'def outer():\n    """Public."""\n    def inner():\n        """Noise."""'
    assert docstrings_inside_functions(source) == ["inner in line 3"]
