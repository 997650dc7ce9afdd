"""What the sources must not hold: variables that do not say what they hold, replaced words, asserts that act, noise.

The words that may not come back stand here and nowhere else. ``test_architecture.py`` applies them to every file of
the package, the tests, the examples and the benchmarks.
"""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

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
# Functions of one name on purpose: each module does the same for another kind, and a caller picks the module.
INTERFACES = {
    **dict.fromkeys(("register", "run"), "cli"),  # of every command
    **dict.fromkeys(("build", "load"), "zoo"),  # of every model that ships
    **dict.fromkeys(
        ("facts", "fragment", "frame", "markdown", "row_classes", "rows", "sentence", "summary", "title"), "report"
    ),
    "change_of": "deploy/engines",  # of every engine that tells of changes of format
    "connect": "tasks",  # of every family, and the one that picks the family
    "describe_device": "deploy/engines",
    "handed_over": "deploy/handover",
    "main": "",  # of every program
}
# Functions whose parameters another package dictates: TensorRT calls this one.
DICTATED = {"process_debug_tensor"}
# Verbs that a user calls: each hands on to the function of its name.
FRONT = ("wrapped/", "study/", "tradeoff.py")
SOURCES = sorted(PACKAGE.rglob("*.py"))
# Names are chosen alike wherever a reader meets them; the other rules are of the package.
NAMED_SOURCES = SOURCES + sorted(
    path for folder in ("tests", "examples", "benchmarks") for path in (PACKAGE.parent / folder).rglob("*.py")
)
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


def long_functions(source: str) -> list[str]:
    """Every function with more than five parameters that a caller may give by position, or a body over 50 lines."""
    faults = []
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.FunctionDef) and node.name not in DICTATED:
            positional = [*node.args.posonlyargs, *node.args.args]
            count = sum(argument.arg not in ("self", "cls") for argument in positional)
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            faults += [f"{node.name} in line {node.lineno}: {count} parameters by position"] if count > 5 else []
            faults += [f"{node.name} in line {node.lineno}: {lines} lines"] if lines > 50 else []
    return faults


def homes(kind: type[ast.FunctionDef] | type[ast.ClassDef]) -> dict[str, list[str]]:
    """The files of the package in which each public function or class is defined."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        names = {node.name for node in parsed(path.read_text(encoding="utf-8")).body if isinstance(node, kind)}
        for name in sorted(names):
            if not name.startswith("_"):
                files[name].append(path.relative_to(PACKAGE).as_posix())
    return files


def homonyms(functions: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Functions of one name in several files that are neither an interface nor a verb and what it hands on to."""
    return {
        name: files
        for name, files in functions.items()
        if len([file for file in files if not file.startswith(FRONT)]) > 1
        and not (name in INTERFACES and all(file.startswith(INTERFACES[name]) for file in files))
    }


def complaints(check: Callable[[str], list[str]], sources: list[Path] = SOURCES) -> list[str]:
    """What a check says of every file of the package, or of other sources."""
    return [
        f"{path.relative_to(PACKAGE.parent)}: {complaint}"
        for path in sources
        if "testing" not in path.parts or check is not asserts_that_act  # suites are asserts, run by pytest
        for complaint in check(path.read_text(encoding="utf-8"))
    ]
