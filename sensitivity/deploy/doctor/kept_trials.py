"""What engines made of one convolution, kept in a file, so that a machine is asked once and not in every process.

The file is named by what the answer depends on: the engine and its version, the CPU's instructions, and the variables
that choose among them. It is a cache: a file that is damaged, of another machine or not writable costs a new trial.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import sys
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import sensitivity
from sensitivity.deploy.doctor.one_convolution import ConvolutionTrial
from sensitivity.deploy.engines.registry import EngineKind
from sensitivity.errors import EngineError
from sensitivity.records.storage.files import read_json, write_json

FOLDER_VARIABLE = "SENSITIVITY_CACHE_DIR"
"""Environment variable that names another folder than the user's own for caches."""

_CHOOSES_KERNELS = ("ONEDNN_", "DNNL_", "MKLDNN_", "OV_", "MLAS_")
_CPUINFO = Path("/proc/cpuinfo")


def read_trial(kind: EngineKind) -> ConvolutionTrial | None:
    """What was kept of an engine on this machine; None where nothing usable was.

    Args:
        kind: One of this library's own engines: a function from outside can change without its version.
    """
    path = _file_of(kind)
    if path is None:
        return None
    try:
        plain = read_json(path, "a trial", "the doctor", EngineError)
        trial = ConvolutionTrial(plain["precision"], float(plain["largest_error"]), float(plain["largest_sum"]))
    except (EngineError, KeyError, TypeError, ValueError):
        return None
    known_precision = trial.precision is None or isinstance(trial.precision, str)
    sound = known_precision and math.isfinite(trial.largest_error) and trial.largest_sum > 0 <= trial.largest_error
    return trial if sound else None


def keep_trial(kind: EngineKind, trial: ConvolutionTrial) -> None:
    """Write down what an engine made of the convolution; nothing where no file can be written."""
    path = _file_of(kind)
    if path is not None:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, asdict(trial))


def _file_of(kind: EngineKind) -> Path | None:
    """The file of an engine on this machine; None where an engine is not known well enough to be kept."""
    folder = cache_folder()
    if kind.package is None or kind.extra is None or folder is None:
        return None
    try:
        engine_version = version(kind.package)
    except PackageNotFoundError:
        return None
    variables = sorted((name, text) for name, text in os.environ.items() if name.startswith(_CHOOSES_KERNELS))
    facts = [kind.name, engine_version, sensitivity.__version__, cpu_facts(), variables]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return folder / f"one-convolution-{kind.name}-{digest[:16]}.json"


@lru_cache(maxsize=1)
def cpu_facts() -> tuple[str, ...]:
    """What tells one kind of CPU from another: its name and instructions, where the system tells them."""
    facts = [platform.machine(), platform.processor(), platform.system()]
    with contextlib.suppress(OSError):
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        facts += sorted({line.strip() for line in lines if line.startswith(("flags", "Features", "model name"))})
    return tuple(facts)


def cache_folder() -> Path | None:
    """The user's folder for caches of this library; None where the user has no home."""
    own = os.environ.get(FOLDER_VARIABLE)
    if own:
        return Path(own)
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "layer-sensitivity"
