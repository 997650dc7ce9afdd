"""Every public call with one wrong argument, made from the signatures: an error names the argument, and none is raw.

Called is all that ``sv.__all__`` holds: functions, constructors, and the public methods of the classes. A new public
name is called as soon as it is there; where no right value for one of its parameters is known, its test says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sensitivity as sv
from sensitivity.deploy.engines import registry as engines
from sensitivity.errors import SensitivityError
from sensitivity.quantize.extremes import MinMaxObserver
from sensitivity.records.recipes.formats import _FORMATS as FORMATS
from sensitivity.records.recipes.observers import _OBSERVERS as OBSERVERS
from sensitivity.records.results.latency import Latency
from tests.tasks.made_scenes import ANNOTATIONS, SIZES, Recall, adapter, truth_as_output, write_scenes

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
    "array": np.zeros((2, 2)),
    "path": Path("nowhere"),
    "recipe": sv.INT8,
}
RETURNED = ("CallbackTask", "Deployed", "LayerTable")
"""Classes with methods that are not in ``sv.__all__``: public calls return them."""

NO_CALLS = {"ray_executor": "starts a cluster", "SensitivityError": "is raised, not called"}


def label_maps(outputs: Any, sizes: Any) -> Any:
    """An adapter of label maps."""
    return [np.zeros(size, np.int64) for size in sizes]


def plain_image(image: Any) -> torch.Tensor:
    """An image of 8 x 8 pixels in the colour of its first one."""
    return torch.full((3, 8, 8), float(image[0, 0, 0]) / 255)


class Filler:
    """Segments whatever it is prompted with as nothing."""

    def preprocess(self, image: Any) -> Any:
        return image

    def encode(self, x: Any) -> Any:
        return x

    def predict_masks(self, embedding: Any, *, original_size: tuple[int, int], **prompts: Any) -> Any:
        count = len(prompts["boxes"])
        return torch.ones(count, 1, *original_size), torch.ones(count, 1)


class Count:
    """Counts what it is given."""

    higher_is_better = True

    def __init__(self) -> None:
        self.count = 0

    def update(self, predictions: Any, targets: Any) -> None:
        """Count."""
        self.count += len(targets)

    def compute(self) -> float:
        """The count."""
        return float(self.count)

    def reset(self) -> None:
        """Start again."""
        self.count = 0


def poses(outputs: Any, sizes: Any) -> list[Any]:
    """A pose of one keypoint in the corner of every box."""
    detections = adapter(outputs, sizes)
    return [{**detection, "keypoints": np.asarray(detection["boxes"])[:, None, :2]} for detection in detections]


class Subject:
    """Right arguments for every public call, and an object of every public class."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
        self.wrapped = sv.wrap(self.model, IMAGES[:1], name="net")
        self.task = sv.FeatureFidelity(IMAGES)
        self.scheme = sv.Scheme.all(sv.INT8)
        self.calibration = self.wrapped.calibrate(IMAGES, progress=False)
        self.study = self.wrapped.analyze(self.task, sv.INT8_WEIGHTS, progress=False)
        self.deployed = self.wrapped.deploy(self.scheme, "torch")
        self.saved = folder / "deployment"
        self.wrapped.deploy(self.scheme, "onnxruntime").save(self.saved)
        self.signals = self.wrapped.signals(IMAGES, sv.INT8_WEIGHTS)
        self.explanation = self.wrapped.explain(self.task, sv.INT8_WEIGHTS)
        self.objects = {type(value).__name__: value for value in self._objects()}
        self.right = self._right()
        self.own = self._own()

    def _objects(self) -> Iterator[Any]:
        yield from (sv.INT8, sv.QuantSpec(), self.scheme, sv.Sweep(), sv.Gates(), sv.Confidence(tolerance=0.5))
        yield from (self.wrapped, self.wrapped.layers, self.wrapped.layers[0], self.wrapped.activations())
        yield from (self.calibration, self.study, self.study.baseline, self.signals, self.explanation)
        yield from (self.deployed, self.wrapped.plan(self.scheme), self.wrapped.verify(self.deployed))
        yield from (sv.Resize(height=8, width=8), FORMATS.find("int8"), self.task.with_reference(self.model))
        yield sv.callback_task(lambda model: 1.0)
        yield self.wrapped.diagnose(IMAGES[:2], sv.INT8)
        self.classified = sv.Classification(IMAGES, torch.zeros(8, dtype=torch.int64))
        self.classifier = sv.wrap(nn.Sequential(self.model, nn.Flatten()).eval(), IMAGES[:1])
        yield self.classifier.changed_images(self.classified, sv.Scheme())
        yield self.wrapped.tune(self.task, max_drop=200.0, engine=None, candidates=sv.INT8_WEIGHTS, progress=False)
        scenes = write_scenes(self.folder / "scenes", SIZES, ANNOTATIONS)
        plain = json.loads(scenes.annotations.read_text())
        for image in plain["images"]:
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        plain["categories"] = [category | {"frequency": "f"} for category in plain["categories"]]
        scenes.annotations.write_text(json.dumps(plain))
        self.labels = self.folder / "labels"
        self.labels.mkdir()
        for number, size in enumerate(SIZES):
            Image.fromarray(np.zeros(size, np.uint8)).save(self.labels / f"{number}.png")
        self.files: dict[str, Any] = {"images": scenes.images, "annotations": scenes.annotations}
        self.adapted = {**self.files, "preprocess": plain_image, "adapter": adapter, "labels": "category_id"}
        self.recall = Recall(truth_as_output(scenes))
        people = plain | {
            "annotations": [annotation | {"keypoints": [1.0, 1.0, 2]} for annotation in plain["annotations"]]
        }
        (self.folder / "people.json").write_text(json.dumps(people))
        self.posed = {**self.adapted, "annotations": self.folder / "people.json", "adapter": poses, "sigmas": [0.1]}
        yield sv.CocoKeypoints(**self.posed)
        yield sv.CocoDetection(**self.adapted)
        yield sv.Lvis(**self.adapted)
        yield sv.PromptedMasks(**self.files)
        yield sv.SemanticSegmentation(**self._semantic())
        yield self.classified
        yield sv.LoaderTask(self._batches(), metric=Count())

    def _semantic(self) -> dict[str, Any]:
        settings = {"labels": self.labels, "classes": ["ground", "cat"], "preprocess": plain_image}
        return {"images": self.files["images"], "adapter": label_maps, **settings}

    def _batches(self) -> list[Any]:
        return [(IMAGES[:4], torch.zeros(4)), (IMAGES[4:], torch.zeros(4))]

    def _right(self) -> dict[str, Any]:
        """What is right for a required parameter of this name, wherever it stands."""
        return {
            "model": self.model,
            "example_inputs": IMAGES[:1],
            "images": IMAGES,
            "inputs": IMAGES,
            "wrapped": self.wrapped,
            "task": self.task,
            "scheme": self.scheme,
            "study": self.study,
            "other": self.study,
            "record": self.study,
            "recipe": sv.INT8_WEIGHTS,
            "calibration": self.calibration,
            "deployed": self.deployed,
            "signals": self.signals,
            "path": self.folder / "file.json",
            "names": "*",
            "pattern": "*",
            "name": "mine",
            "tolerance": 0.5,
            "height": 8,
            "width": 8,
        }

    def _own(self) -> dict[str, dict[str, Any]]:
        """What is right for the parameters of one call."""
        latency = Latency(
            "net", sv.INT8_WEIGHTS, "torch", 0.1, 0.2, dict.fromkeys(self.wrapped.layers.names, (0.1, 0.2))
        )
        quick = {"recipe": sv.INT8_WEIGHTS, "progress": False}
        return {
            "register_format": {"number_format": self.objects["NumberFormat"]},
            "register_observer": {"observer": MinMaxObserver},
            "register_engine": {"build": abs},
            "register_connector": {"family": "of generated calls", "connector": abs, "replace": True},
            "read_thesis": {"path": self.folder / "file.csv"},
            "callback_task": {"function": abs},
            "Prune": {"level_or_pattern": 0.5},
            "Recipe": {"weights": sv.QuantSpec()},
            "CocoDetection": self.adapted,
            "Lvis": self.adapted,
            "CocoKeypoints": self.posed,
            "PromptedMasks": self.files,
            "SemanticSegmentation": self._semantic(),
            "Classification": {"labels": torch.zeros(8, dtype=torch.int64)},
            "LoaderTask": {"loader": self._batches(), "metric": Count()},
            "Wrapped": {"layers": self.wrapped.layers},
            "Wrapped.calibrate": {"progress": False},
            "Wrapped.analyze": quick,
            "Wrapped.explain": {"recipe": sv.INT8_WEIGHTS},
            "Wrapped.signals": {"recipe": sv.INT8_WEIGHTS},
            "Wrapped.screen": {"recipe": sv.INT8_WEIGHTS},
            "Wrapped.deploy": {"engine": "torch"},
            "Wrapped.tune": {"max_drop": 200.0, "engine": None, "candidates": sv.INT8_WEIGHTS, "progress": False},
            "Wrapped.latency": {"recipe": sv.INT8_WEIGHTS, "engine": "torch"},
            "Wrapped.verify_study": {"engine": "torch"},
            "Scheme.with_rest": {"rest": "bf16"},
            "Wrapped.handover": {"tool": "nncf"},
            "Scheme.handover": {"tool": "nncf", "layers": self.wrapped.layers},
            "Calibration.joined": {"parts": [self.calibration]},
            "Calibration.range_of": {"point": next(iter(self.calibration.ranges))},
            "Calibration.save": {"path": self.folder / "file.safetensors"},
            "Study.protect": {"top": 1},
            "Study.with_latency": {"latency": latency},
            "Confidence.verdict": {"drop": 0.1, "low": 0.0, "high": 0.2},
            "Gates.metric_tolerance": {"unit": "%", "drop": 0.1},
            "Resize.inner_size": {"size": (8, 8)},
            "Resize.to_original": {"boxes": [[0.0, 0.0, 1.0, 1.0]], "size": (8, 8)},
            "Deployed.save": {"folder": self.folder},
            "load_deployment": {"folder": self.saved},
            "Calibration.inputs_of": {"layer": self.wrapped.layers.names[0]},
            "Wrapped.changed_images": {"task": self.classified, "scheme": sv.Scheme()},
            "ChangedImages.of": {"record": self.objects["ChangedImages"]},
            "Diagnosis.of": {"record": self.objects["Diagnosis"]},
            "Diagnosis.share_of": {"finding": self.objects["Diagnosis"][0]},
            "recipe_for": {"engine": "torch"},
            "Tuned.of": {"record": self.objects["Tuned"]},
            "Verification.of": {"record": self.objects["Verification"]},
        }

    def calls(self, name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        """Name of a call, and what is called: all that a public name leads to."""
        if name in sv.__all__:
            yield name, getattr(sv, name)
        if name not in sv.__all__ or inspect.isclass(getattr(sv, name)):
            yield from self._methods(name)

    def _methods(self, name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        owner = self.objects.get(name)
        assert owner is not None, f"no {name} to call the methods of: add one to Subject._objects"
        for method in dir(type(owner)):
            function = getattr(owner, method, None) if not method.startswith("_") else None
            if not inspect.isroutine(function) or not parameters_of(function):
                continue
            if (inspect.unwrap(function).__module__ or "").startswith("sensitivity"):
                yield f"{name}.{method}", function

    def right_for(self, name: str, function: Callable[..., Any]) -> dict[str, Any]:
        """Right arguments for all required parameters, and for some others."""
        own = dict(self.own.get(name, {}))
        owner, _, method = name.partition(".")
        if method == "picture":
            own["position"] = 0
        elif method in (
            "predict",
            "seen",
            "score",
            "scores_without",
            "images_by_kind",
            "suspicion",
            "instance_sum",
            "scored_part",
            "condensed",
        ):
            own |= self._of_task(owner)
        elif method == "batches":
            own["images"] = [0]
        elif method == "from_json":
            own["plain"] = self.objects[owner].to_json()
        elif not method and dataclasses.is_dataclass(function):
            instance = self.objects[owner]
            own = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)} | own
        right = {}
        for parameter in parameters_of(function):
            if parameter.name in own:
                right[parameter.name] = own[parameter.name]
            elif parameter.default is inspect.Parameter.empty:
                known = parameter.name in self.right
                assert known, f"what is right for {name}({parameter.name}=)? Add it to Subject._right or Subject._own"
                right[parameter.name] = self.right[parameter.name]
        return right

    def _of_task(self, owner: str) -> dict[str, Any]:
        task = self.objects[owner]
        model: Any = self.recall if owner in ("CocoDetection", "CocoKeypoints", "Lvis") else self.model
        model = Filler() if owner == "PromptedMasks" else model
        model = nn.Sequential(self.model, nn.Flatten()) if owner == "Classification" else model
        batch = next(iter(task.batches()))
        with torch.no_grad():
            predictions = dict(zip(batch.images, task.predict(model, batch), strict=True))
        prediction = next(iter(predictions.values()))
        return {
            "model": model,
            "batch": batch,
            "predictions": predictions,
            "prediction": prediction,
            "groups": [[0], [1]],
        }


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Those that have a name of their own."""
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [
        parameter for parameter in inspect.signature(function).parameters.values() if parameter.kind not in variadic
    ]


def called(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """The call, with what it returns entered or gone through where nothing happens before."""
    with registering_nothing():
        result = function(**arguments)
        if isinstance(result, contextlib.AbstractContextManager):
            with result:
                pass
        elif isinstance(result, Iterator):
            list(result)


REGISTERED: tuple[dict[str, Any], ...] = (engines._KINDS, FORMATS._values, OBSERVERS._values)


@contextlib.contextmanager
def registering_nothing() -> Iterator[None]:
    """What a call has registered is taken out again."""
    before = [dict(values) for values in REGISTERED]
    try:
        yield
    finally:
        for values, known in zip(REGISTERED, before, strict=True):
            values.clear()
            values.update(known)


def faults_of(name: str, function: Callable[..., Any], right: dict[str, Any]) -> list[str]:
    """What comes out of a function that is no clear error, with each of its arguments wrong in every way."""
    faults = []
    usual = ""
    try:
        called(function, right)
    except SensitivityError as error:
        usual = str(error)  # comes with right arguments too, e.g. of a file that is not there
    for parameter in parameters_of(function):
        for kind, value in WRONG.items():
            where = f"{name}({parameter.name}={kind})"
            try:
                called(function, right | {parameter.name: value})
            except (TypeError, ValueError, SensitivityError) as error:
                if not names(str(error), parameter.name, kind) and str(error) != usual:
                    faults.append(f"{where}: no name: {type(error).__name__}: {error}"[:250])
            except Exception as error:  # noqa: BLE001 - this is what is looked for
                faults.append(f"{where}: raw {type(error).__name__}: {error}"[:250])
            finally:
                plt.close("all")
    return faults


def names(message: str, parameter: str, kind: str) -> bool:
    """Whether a message names the argument.

    A function that can be called raises errors of its own; what ``from_json`` is given is mostly the content of a file,
    whose message says what is wrong with that.
    """
    words = {parameter, parameter.replace("_", " "), parameter.removesuffix("s")}
    if kind in ("text", "path") and parameter in ("path", "annotations", "prompts"):
        words.add(str(WRONG[kind]))  # the file that does not hold what it should
    if parameter == "prompts":
        words.add("detections")  # what the file should hold
    if parameter == "pattern":
        words.add("no layer matches")
    return parameter == "plain" or callable(WRONG[kind]) or any(word in message for word in words)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(tmp_path_factory.mktemp("subject"))


CALLABLE = [name for name in sv.__all__ if callable(getattr(sv, name)) and name not in NO_CALLS]


@pytest.mark.parametrize("name", [*CALLABLE, *RETURNED])
def test_a_wrong_argument_is_an_error_that_names_it(
    subject: Subject, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(subject.folder)
    calls = list(subject.calls(name))
    faults = [
        fault for call, function in calls for fault in faults_of(call, function, subject.right_for(call, function))
    ]
    assert calls
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)
