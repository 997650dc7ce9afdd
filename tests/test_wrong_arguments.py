"""Calls of the public names with one wrong argument each, made from their signatures: no raw error comes out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.errors import SensitivityError

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WRONG: dict[str, Any] = {
    "none": None,
    "true": True,
    "minus": -1,
    "fraction": 0.3,
    "nan": math.nan,
    "infinite": math.inf,
    "text": "nonsense",
    "no text": "",
    "bytes": b"bytes",
    "nothing": [],
    "numbers": [1, 2],
    "mixed": [None, "nonsense"],
    "dict": {"a": 1},
    "object": object(),
    "class": int,
    "function": abs,
    "tensor": torch.zeros(2),
    "scalar": torch.tensor(1.0),
    "path": Path("nowhere"),
    "recipe": sv.INT8,
}
UNTRIED = {"ray_executor", "Lvis", "PromptedMasks", "SemanticSegmentation", "CocoDetection"}
"""Public names whose calls need a cluster or files; their tests of arguments stand in tests/tasks."""

LEFT_OUT = {("images", "tensor"), ("calibration", "tensor")}
"""Images of another shape than the model takes still raise the model's own error."""


class Subject:
    """One of everything that has public methods."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
        self.wrapped = sv.wrap(self.model, IMAGES[:1], name="net")
        self.task = sv.FeatureFidelity(IMAGES)
        self.calibration = self.wrapped.calibrate(IMAGES, progress=False)
        self.scheme = sv.Scheme.all(sv.INT8)
        self.study = self.wrapped.analyze(self.task, sv.INT8_WEIGHTS, progress=False)
        self.deployed = self.wrapped.deploy(self.scheme, "torch")
        self.verification = self.wrapped.verify(self.deployed)
        self.spec = sv.QuantSpec()
        self.path = folder / "file.json"

    def calls(self) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
        """Name of a call, the function, and arguments that are right."""
        task, scheme, study, wrapped = self.task, self.scheme, self.study, self.wrapped
        quick = {"recipe": sv.INT8_WEIGHTS}
        yield "wrap", sv.wrap, {"model": self.model, "example_inputs": IMAGES[:1]}
        yield "verify", sv.verify, {"wrapped": wrapped, "deployed": self.deployed}
        yield "read_thesis", sv.read_thesis, {"path": self.path}
        yield "pareto", sv.pareto, {"study": study}
        yield "callback_task", sv.callback_task, {"function": abs}
        yield "Prune", sv.Prune, {"level_or_pattern": 0.5}
        yield "FeatureFidelity", sv.FeatureFidelity, {"inputs": IMAGES}
        yield "Resize", sv.Resize, {"height": 8, "width": 8}
        yield "QuantSpec", sv.QuantSpec, {}
        yield "Recipe", sv.Recipe, {"name": "mine", "weights": self.spec}
        yield "Scheme", sv.Scheme, {}
        yield "Sweep", sv.Sweep, {}
        yield "Gates", sv.Gates, {}
        yield "Confidence", sv.Confidence, {"tolerance": 0.5}
        verbs: dict[str, dict[str, Any]] = {
            "activations": {},
            "folded": {},
            "size_bytes": {"scheme": scheme},
            "calibrate": {"images": IMAGES, "progress": False},
            "evaluate": {"task": task, "scheme": scheme},
            "analyze": {"task": task, "progress": False, **quick},
            "explain": {"task": task, **quick},
            "signals": {"images": IMAGES, **quick},
            "screen": {"images": IMAGES, **quick},
            "plan": {"scheme": scheme},
            "deploy": {"scheme": scheme, "engine": "torch"},
            "verify": {"deployed": self.deployed},
            "latency": {**quick, "engine": "torch"},
            "verify_study": {"study": study, "task": task, "engine": "torch"},
        }
        for name, given in verbs.items():
            yield f"Wrapped.{name}", getattr(wrapped, name), given
        yield "Wrapped.quantized", self._quantized, {"scheme": scheme}
        for name in ("table", "plot", "plot_levels", "flags", "to_markdown", "to_latex", "to_rst"):
            yield f"Study.{name}", getattr(study, name), {}
        yield "Study.compare", study.compare, {"other": study}
        yield "Study.protect", study.protect, {"top": 1}
        yield "Study.to_html", study.to_html, {"path": self.path}
        yield "Study.with_latency", study.with_latency, {"latency": None}
        yield "Study.with_signals", self._with_signals, {"signals": None}
        yield "Study.save", study.save, {"path": self.path}
        yield "Study.load", sv.Study.load, {"path": self.path}
        yield "Study.from_json", sv.Study.from_json, {"plain": study.to_json()}
        yield "Scheme.all", sv.Scheme.all, {"recipe": sv.INT8}
        yield "Scheme.only", sv.Scheme.only, {"names": "*", "recipe": sv.INT8}
        yield "Scheme.protect", scheme.protect, {"pattern": "*"}
        yield "Scheme.quantize", scheme.quantize, {"pattern": "*", "recipe": sv.INT8}
        yield "Scheme.with_rest", scheme.with_rest, {"rest": "bf16"}
        yield "Scheme.save", scheme.save, {"path": self.path}
        yield "Scheme.load", sv.Scheme.load, {"path": self.path}
        yield "Scheme.from_json", sv.Scheme.from_json, {"plain": scheme.to_json()}
        yield "Recipe.renamed", sv.INT8.renamed, {"name": "mine"}
        yield "Recipe.from_json", sv.Recipe.from_json, {"plain": sv.INT8.to_json()}
        yield "Calibration.fits", self.calibration.fits, {"recipe": sv.INT8}
        yield "Calibration.save", self.calibration.save, {"path": self.path.with_suffix(".safetensors")}
        yield "Calibration.load", sv.Calibration.load, {"path": self.path}
        yield "LayerTable.select", wrapped.layers.select, {"pattern": "*"}
        yield "Verification.plot", self.verification.plot, {}
        yield "Verification.save", self.verification.save, {"path": self.path}
        yield "Verification.load", sv.Verification.load, {"path": self.path}
        yield "Verification.from_json", sv.Verification.from_json, {"plain": self.verification.to_json()}

    def _quantized(self, scheme: Any, calibration: Any = None) -> None:
        with self.wrapped.quantized(scheme, calibration=calibration):
            pass

    def _with_signals(self, signals: Any) -> None:
        self.study.with_signals(signals)


def faults_of(name: str, function: Callable[..., Any], right: dict[str, Any]) -> list[str]:
    """What comes out of a function that is no clear error, with each of its arguments wrong in every way."""
    faults = []
    usual = ""
    try:
        function(**right)
    except SensitivityError as error:
        usual = str(error)  # comes with right arguments too, e.g. of a file that is not there
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = [one.name for one in inspect.signature(function).parameters.values() if one.kind not in variadic]
    for parameter in parameters:
        for kind, value in WRONG.items():
            if (parameter, kind) in LEFT_OUT:
                continue
            try:
                function(**right | {parameter: value})
            except (TypeError, ValueError, SensitivityError) as error:
                if not _says_which(str(error), parameter, kind) and str(error) != usual:
                    faults.append(f"{name}({parameter}={kind}): no name: {type(error).__name__}: {error}"[:250])
            except Exception as error:  # noqa: BLE001 - this is what is looked for
                faults.append(f"{name}({parameter}={kind}): raw {type(error).__name__}: {error}"[:250])
            finally:
                plt.close("all")
    return faults


def _says_which(message: str, parameter: str, kind: str) -> bool:
    """Whether a message names the argument or its value.

    A function that can be called raises errors of its own; what ``from_json`` is given is mostly the content of a file,
    whose message says what is wrong with that.
    """
    value = WRONG[kind]
    parts = [repr(value), *(map(repr, value) if isinstance(value, (list, dict)) else [str(value)])]
    named = parameter == "plain" or parameter in message or parameter.replace("_", " ") in message
    empty = kind == "nothing" and "no image was given" in message
    return named or empty or callable(value) or any(part and part[:40] in message for part in parts)


def test_a_wrong_argument_is_an_error_that_names_it_whatever_public_name_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    subject = Subject(tmp_path)
    faults = [fault for call in subject.calls() for fault in faults_of(*call)]
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)
