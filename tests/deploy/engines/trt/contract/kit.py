"""What a contract test needs: the real bindings of one TensorRT version, the mock built for it, and its slots.

Everything is made once and kept in pytest's cache folder: the bindings (1.3 MB from the package registry, without
NVIDIA's libraries), the mock (compiled), the slots (probed).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[4]
PACKAGES = {
    "10.0.1": "tensorrt_cu12_bindings",  # the oldest that is supported, before there were debug tensors
    "10.16.1.11": "tensorrt_cu13_bindings",
    "11.4.0.106": "tensorrt_cu13_bindings",
}
LIBRARIES = ("nvinfer_plugin", "nvonnxparser", "nvinfer")


class UnavailableError(Exception):
    """Bindings or compiler cannot be had here."""


@dataclass(frozen=True)
class Kit:
    """Paths of what was made for one version."""

    version: str
    folder: Path

    @property
    def major(self) -> str:
        return self.version.split(".")[0]

    @property
    def shows_tensors(self) -> bool:
        """Whether this version can show the tensors between layers."""
        return self.version != "10.0.1"

    @property
    def slots(self) -> Path:
        return self.folder / "slots"

    def run(self, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Python with these bindings and the mock in the place of TensorRT's libraries."""
        library = self.folder / f"libnvinfer.so.{self.major}"
        own = {
            "PYTHONPATH": os.pathsep.join([str(self.folder / "bindings"), str(REPOSITORY)]),
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(self.folder), os.environ.get("LD_LIBRARY_PATH")])),
            "MOCK_LIBRARY": str(library),
            "MOCK_SLOTS": str(self.slots),
            "MOCK_LOG": str(self.folder / "log"),
        }
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=REPOSITORY,
            env={**os.environ, **own, **environment},
        )


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """One process at a time, tests run in several."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def kit(version: str, cache: Path) -> Kit:
    """The kit of a version, from the cache or made now."""
    sources = (HERE / "mock.cpp").read_bytes() + (HERE / "probe.py").read_bytes() + (HERE / "kit.py").read_bytes()
    key = f"{version}-{sys.implementation.cache_tag}-{hashlib.sha256(sources).hexdigest()[:12]}"
    made = Kit(version, cache / key)
    with locked(cache / f"{key}.making"):
        if not made.slots.is_file():
            shutil.rmtree(made.folder, ignore_errors=True)
            made.folder.mkdir(parents=True)
            _fetch(version, made.folder / "bindings")
            _compile(made)
            _probe(made)
    return made


def _fetch(version: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as target:
        words = [
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "-q",
            "-d",
            target,
            f"{PACKAGES[version]}=={version}",
        ]
        completed = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
        if completed.returncode:
            reason = (completed.stderr.strip() or "no reason given").splitlines()[-1]
            raise UnavailableError(f"pip cannot download the bindings of TensorRT {version}: {reason}")
        for wheel in Path(target).glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)


def _compile(made: Kit) -> None:
    """Three libraries of our own under the names that the bindings load; the nine functions are in one of them."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise UnavailableError("no C++ compiler (g++) to build the mock of TensorRT's libraries with")
    for library in LIBRARIES:
        source = HERE / "mock.cpp" if library == "nvinfer" else made.folder / "empty.cpp"
        (made.folder / "empty.cpp").touch()
        target = made.folder / f"lib{library}.so.{made.major}"
        words = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(target), str(source)]
        completed = subprocess.run([compiler, *words], capture_output=True, text=True, check=False)
        assert completed.returncode == 0, completed.stderr


def _probe(made: Kit) -> None:
    completed = made.run([str(HERE / "probe.py")])
    assert completed.returncode == 0, (
        f"the probe of TensorRT {made.version} failed:\n{completed.stdout}\n{completed.stderr}"
    )
    made.slots.write_text(completed.stdout, encoding="utf-8")


def played(made: Kit, folder: Path) -> Callable[[str], dict[str, Any]]:
    """All scenarios of ``drive.py``, run once for all tests; then a function that gives one by its name."""
    with locked(folder):
        done = folder / "done"
        if not done.exists():
            (folder / "runs").mkdir()
            completed = made.run(
                ["-m", "tests.deploy.engines.trt.contract.drive", str(folder / "runs")], OMP_NUM_THREADS="1"
            )
            done.write_text(f"exit code {completed.returncode}\n{completed.stderr}", encoding="utf-8")

    def scenario(name: str) -> dict[str, Any]:
        path = folder / "runs" / f"{name}.json"
        assert path.is_file(), f"the process did not finish {name!r}: {done.read_text(encoding='utf-8')}"
        outcome: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        assert not outcome["crash"], outcome["crash"]
        return outcome

    return scenario
