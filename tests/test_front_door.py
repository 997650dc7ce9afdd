"""The public surface: its names, what they cost to import, and what a saved study needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import sensitivity as sv
from sensitivity import _HOME


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_every_public_name_resolves() -> None:
    assert set(sv.__all__) == {*_HOME, "__version__"}
    for name in sv.__all__:
        assert getattr(sv, name) is not None
    assert set(dir(sv)) == set(sv.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(sv, "no_such_name")


def test_importing_the_package_loads_no_heavy_package() -> None:
    heavy = ["torch", "numpy", "pandas", "matplotlib", "pycocotools", "rich"]
    loaded = run(f"import sys, sensitivity; print([n for n in {heavy} if n in sys.modules])")
    assert loaded == "[]"


def test_importing_the_wrapper_brings_little_beyond_torch() -> None:
    """What it costs in seconds: benchmarks/imports.py."""
    loaded = run(
        "import torch, sys; b = set(sys.modules); import sensitivity; sensitivity.wrap; print(*sys.modules.keys() - b)"
    )
    modules = set(loaded.split())
    packages = {name.split(".")[0] for name in modules} - sys.stdlib_module_names
    compiled = {name for name in packages if name == "cython_runtime" or name.startswith("_cython_")}  # of numpy.random
    assert packages - compiled <= {"sensitivity", "numpy", "safetensors"}
    rooms = {".".join(name.split(".")[1:2]) for name in modules if name.startswith("sensitivity.")}
    assert {"layers", "perturb", "quantize"} <= rooms
    assert not rooms & {"cli", "demo", "deploy", "search", "tasks", "testing", "zoo"}, (
        "rooms that wrapping does not need"
    )
    assert not [name for name in modules if name.startswith(("sensitivity.report.figures", "sensitivity.report.page"))]


def test_opening_a_saved_study_loads_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    record = sv.records.StudyRecord(
        model="net",
        task="task",
        metric="AP",
        unit="%",
        higher_is_better=True,
        baseline=sv.Score(0.5, {"AP": 0.5}, "AP", "%", 10),
        layers=(),
        measurements=(),
        recipes={"int8": sv.INT8},
    )
    record.save(path)
    opened = f"import sys, sensitivity as sv; s = sv.Study.load({str(path)!r}); s.table()"
    code = f"{opened}; print('torch' in sys.modules, s.model)"
    assert run(code) == "False net"


def test_the_type_marker_ships() -> None:
    assert (Path(sv.__file__).parent / "py.typed").is_file()
