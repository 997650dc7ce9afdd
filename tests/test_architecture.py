"""Who may import whom, read from the sources: no forbidden arrow, no cycle, hooks in one file. How names are chosen."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.naming import (
    INTERFACES,
    NAMED_SOURCES,
    SOURCES,
    asserts_that_act,
    complaints,
    docstrings_inside_functions,
    empty_names,
    homes,
    homonyms,
    long_functions,
    replaced_words,
)

PACKAGE = Path(__file__).resolve().parents[1] / "sensitivity"

GROUND = {"errors", "records", "contracts", "markup"}
MAY_IMPORT = {
    "errors": set(),
    "markup": set(),
    "records": {"errors", "markup"},
    "contracts": {"errors", "records"},
    "interception": set(),
    "turns": set(),
    "weights": set(),
    "layers": GROUND | {"interception", "turns"},
    "quantize": GROUND,
    "tasks": GROUND | {"weights"},
    "perturb": GROUND | {"layers", "quantize", "progress", "interception", "turns", "weights"},
    "progress": {"errors"},
    "score": GROUND | {"turns"},
    "sweep": GROUND | {"layers", "quantize", "perturb", "progress", "score", "interception", "turns", "weights"},
    "report": {"errors", "records", "markup"},
    "advise": {"errors", "records"},
    "deploy": GROUND | {"layers", "quantize", "perturb", "score", "weights"},
    "search": GROUND | {"layers", "quantize", "perturb", "progress", "score", "sweep", "advise", "deploy"},
    "zoo": GROUND | {"layers", "quantize", "tasks"},
    "testing": GROUND,
    "study": {"errors", "records", "report", "advise"},
    "tradeoff": {"errors", "records", "report", "advise"},
    "verification": {"errors", "records", "report"},
    "tuned": {"errors", "records", "report"},
    "diagnosis": {"errors", "records", "report"},
    "changed_images": {"errors", "records", "report"},
}
EVERYONE = {"wrapped", "cli", "demo", "__init__"}
# Rooms inside a room, lowest first: a room imports only from those before it, and from no file that lies above it.
INNER_FLOORS = {
    "records": ("units", "decibels", "correlation", "arguments", "layer", "storage", "recipes", "size", "results"),
    "layers": (
        *("trace", "dataflow", "structure", "names", "select", "table", "cost", "activations", "batches", "find"),
    ),
    "tasks": (
        *("fingerprint", "images", "datasets", "annotations", "labels", "clicks", "segmenting", "nms", "shown"),
        *("first_look", "average_precision", "callback", "fidelity", "loader", "classification", "semantic"),
        *("connectors", "detector", "coco", "keypoints", "lvis", "prompted", "connect"),
    ),
    "perturb": (
        *("state", "restore", "parameters", "operators", "hooks", "rounding_mode", "activations", "cures", "weights"),
        *("half", "perturber", "reference", "calibration", "simulate"),
    ),
    "search": (
        *("assignment", "candidates", "groups", "trials", "noise", "space", "side", "budget", "proposals", "request"),
        *("diagnosis", "search", "tune", "explain"),
    ),
    "cli": ("output", "config", "named", "recipes", "arguments", "families", "models", "sweeps", "commands", "main"),
    "sweep": (
        *("plan", "replay", "passes", "settings", "storage", "stopping", "signals", "reach", "scoring", "record"),
        *("arguments", "explain", "run", "changed_images"),
    ),
    "deploy": (
        *("packages", "prepare", "graph", "handover", "engines", "doctor", "bundle", "engine_module", "executed"),
        *("other_sizes", "deployed", "outputs", "example_check", "deploy", "verify"),
    ),
}
NO_TORCH = {
    "errors",
    "markup",
    "records",
    "contracts",
    "report",
    "advise",
    "study",
    "tradeoff",
    "verification",
    "tuned",
    "diagnosis",
    "changed_images",
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Absolute names of everything a file imports at run time, also inside functions."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        for inner in ast.iter_child_nodes(node):
            visit(inner)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return names


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_a_room_imports_only_the_rooms_it_may(path: Path) -> None:
    own = room(path)
    if own in EVERYONE:
        return
    assert own in MAY_IMPORT, f"{own} is a room that HOUSE.md does not know"
    used = {name.split(".")[1] for name in imports(path) if name.startswith("sensitivity.")}
    assert used - {own} <= MAY_IMPORT[own], f"{module_name(path)} imports {sorted(used - {own} - MAY_IMPORT[own])}"


@pytest.mark.parametrize("path", [p for p in sources() if room(p) in INNER_FLOORS], ids=module_name)
def test_a_room_inside_a_room_imports_only_from_lower_ones(path: Path) -> None:
    floors = INNER_FLOORS[room(path)]
    if path.parent == PACKAGE / room(path) and path.stem == "__init__":
        return
    inner = path.relative_to(PACKAGE / room(path)).parts[0].removesuffix(".py")
    assert inner in floors, f"{inner} is a room inside {room(path)} that this test does not know"
    used = {name.split(".")[2] for name in imports(path) if name.startswith(f"sensitivity.{room(path)}.")}
    assert used - {inner} <= set(floors[: floors.index(inner)]), f"{module_name(path)} imports upward"


@pytest.mark.parametrize("path", [p for p in sources() if room(p) in NO_TORCH], ids=module_name)
def test_readers_of_a_study_import_no_torch(path: Path) -> None:
    assert not {name for name in imports(path) if name.split(".")[0] in {"torch", "torchvision"}}


def test_no_import_cycle() -> None:
    names = {module_name(path): path for path in sources()}
    graph = {name: {used for used in imports(path) if used in names and used != name} for name, path in names.items()}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for used in sorted(graph[name]):
            if not name.startswith(used + "."):  # a file of a package may use names of the package's front
                walk(used, (*trail, name))
        done.add(name)

    for name in sorted(graph):
        walk(name, ())


def test_hooks_are_registered_in_one_file_only() -> None:
    guilty = [p for p in sources() if "register_forward" in p.read_text(encoding="utf-8")]
    assert [module_name(path) for path in guilty] == ["sensitivity.perturb.hooks"]


def patches_of_module(path: Path) -> list[int]:
    """Lines where a file replaces an attribute of ``nn.Module``, or the forward of a module."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    assigned = [(node.lineno, target) for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
    leaves = [(line, leaf) for line, target in assigned for leaf in getattr(target, "elts", [target])]
    calls = [(node.lineno, node) for node in nodes if isinstance(node, ast.Call)]
    return [line for line, leaf in leaves if is_patch(leaf)] + [line for line, call in calls if is_setattr(call)]


def is_patch(target: ast.AST) -> bool:
    text = ast.unparse(target)
    patched = text.endswith((".forward", ".__dict__['forward']")) and not text.startswith("self.")
    return ".Module." in f".{text}" or patched


def is_setattr(call: ast.Call) -> bool:
    return "setattr" in ast.unparse(call) and any(ast.unparse(argument).endswith("nn.Module") for argument in call.args)


def test_nn_module_is_patched_in_one_file_only() -> None:
    guilty = [module_name(path) for path in sources() if patches_of_module(path)]
    assert guilty == ["sensitivity.interception"]


@pytest.mark.parametrize(
    "line",
    [
        "nn.Module._call_impl = call",
        "nn.Module.__getattr__, nn.Module._named_members = look_up, members",
        "setattr(torch.nn.Module, '__call__', call)",
        "stack.callback(setattr, nn.Module, '__call__', original)",
        "module.forward = run",
        "module.__dict__['forward'] = run",
    ],
)
def test_a_patch_of_nn_module_is_seen(line: str, tmp_path: Path) -> None:
    (tmp_path / "patch.py").write_text(line)
    assert set(patches_of_module(tmp_path / "patch.py")) == {1}


def test_a_wrapped_model_composes_verbs_and_inherits_nothing() -> None:
    tree = ast.parse((PACKAGE / "wrapped" / "model.py").read_text(encoding="utf-8"))
    [wrapped] = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert (wrapped.name, wrapped.bases) == ("Wrapped", [])
    bound = {ast.unparse(node) for node in wrapped.body if isinstance(node, ast.Assign)}
    verbs = {
        f"{node.name} = {path.stem}.{node.name}"
        for path in (PACKAGE / "wrapped").glob("*ing.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    assert bound == verbs


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc"}
    assert not [path for path in sources() if path.stem in drawers]


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_no_except_catches_everything_in_silence(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno} is a bare except"
            assert not all(isinstance(s, ast.Pass) for s in node.body), f"{path}:{node.lineno} hides an error"


def test_every_module_imports_in_a_fresh_interpreter() -> None:
    names = [module_name(path) for path in sources() if path.stem != "__main__"]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code, *names], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_a_variable_says_what_it_holds() -> None:
    assert complaints(empty_names, NAMED_SOURCES) == []


def test_a_name_uses_the_word_of_the_field() -> None:
    assert complaints(replaced_words, NAMED_SOURCES) == []


def test_names_are_checked_in_tests_examples_and_benchmarks_too() -> None:
    folders = {path.relative_to(PACKAGE.parent).parts[0] for path in NAMED_SOURCES}
    assert folders == {"sensitivity", "tests", "examples", "benchmarks"}
    assert len(NAMED_SOURCES) > len(SOURCES) + 300


def test_no_assert_has_an_effect_that_python_without_asserts_would_lack() -> None:
    assert complaints(asserts_that_act) == []


def test_functions_inside_functions_have_no_docstring() -> None:
    assert complaints(docstrings_inside_functions) == []


def test_no_function_is_long_or_takes_more_than_five_arguments_by_position() -> None:
    assert complaints(long_functions) == []


def test_a_long_function_and_a_long_list_of_arguments_are_seen() -> None:
    assert long_functions("def f(self, a, b, c, d, e, f): ...") == ["f in line 1: 6 parameters by position"]
    assert long_functions("def f(a, b, c, d, e, *, f): ...") == []
    assert long_functions("def f():\n" + "    x = 1\n" * 51) == ["f in line 1: 51 lines"]


def test_public_classes_do_not_share_a_name() -> None:
    classes = homes(ast.ClassDef)
    assert len(classes) > 100
    assert {name: files for name, files in classes.items() if len(files) > 1} == {}


def test_public_functions_of_one_name_do_the_same() -> None:
    functions = homes(ast.FunctionDef)
    assert len(functions) > 500
    assert homonyms(functions) == {}
    shared = {name for name, files in functions.items() if len(files) > 1}
    assert set(INTERFACES) <= shared, "an interface of one function needs no entry"


def test_a_function_of_another_meaning_is_seen() -> None:
    verb = {"tune": ["search/tune.py", "wrapped/tuning.py"], "frame": ["report/path.py", "report/tables/table.py"]}
    assert homonyms(verb) == {}
    for stranger in ("sweep/plan.py", "cli/commands/tune.py"):
        both = {name: [*files, stranger] for name, files in verb.items()}
        assert homonyms(both) == both


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
