"""A connector from outside passes the suite, and the suite finds what is wrong with one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pickle import PickleError
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import Connector, Purpose
from sensitivity.errors import MissingPackageError, TaskError
from sensitivity.tasks.connectors import registry
from sensitivity.testing.connectors import ConnectorSuite
from tests.testing import made_detectors
from tests.testing.made_detectors import Cells, ChoosingDetector, GridDetector, Untold, connect


@pytest.fixture(autouse=True, scope="module")
def _mine() -> Iterator[None]:
    """The family is known to the tests of this file alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry._FAMILIES, "_values", dict(registry._FAMILIES._values))
        sv.register_connector("mine", connect, packages="tests")
        yield


def detector(kind: type[GridDetector]) -> GridDetector:
    torch.manual_seed(0)
    return kind().eval()


class TestRawOutputs(ConnectorSuite):
    @pytest.fixture
    def network(self) -> nn.Module:
        return detector(GridDetector)


class TestPostProcessingInside(ConnectorSuite):
    settings = {"side": 64}  # noqa: RUF012 - as outsiders write it

    @pytest.fixture
    def network(self) -> nn.Module:
        return detector(ChoosingDetector)


class Counts:
    """Gives another image each time."""

    calls = 0

    def __call__(self, image: Any) -> Tensor:
        self.calls += 1
        return sv.Resize(height=32, width=32)(image) + self.calls


def grey(image: Any) -> Tensor:
    return sv.Resize(height=32, width=32)(np.repeat(image.mean(2, keepdims=True), 3, 2).astype(np.uint8))


def darkens(image: Any) -> Tensor:
    image //= 2
    return sv.Resize(height=32, width=32)(image)


def as_it_is(image: Any) -> Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).float()


def scales_outputs(outputs: Any, sizes: Any) -> Any:
    outputs.mul_(2.0)
    return Cells(32)(outputs, sizes)


def in_network_pixels(outputs: Any, sizes: Any) -> Any:
    return [prediction | {"boxes": prediction["boxes"] * 40} for prediction in Cells(32)(outputs, sizes)]


def by_the_batch(outputs: Any, sizes: Any) -> Any:
    return [prediction | {"scores": prediction["scores"] / len(sizes)} for prediction in Cells(32)(outputs, sizes)]


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("it_gives_what_the_contract_asks_for", {"adapter": None}),
    ("the_network_is_not_changed_but_for_its_mode", {"model": GridDetector().train()}),
    ("an_image_becomes_one_float_tensor", {"preprocess": Counts()}),
    ("an_image_becomes_one_float_tensor", {"preprocess": darkens}),
    ("preprocessing_looks_at_the_pixels_and_their_channels", {"preprocess": grey}),
    ("the_example_is_one_image_as_it_is_preprocessed", {"example_inputs": torch.zeros(2, 3, 32, 32)}),
    ("the_example_is_one_image_as_it_is_preprocessed", {"example_inputs": torch.zeros(1, 4, 32, 32)}),
    ("images_of_several_sizes_fit_into_one_batch", {"preprocess": as_it_is}),
    ("there_is_one_prediction_for_each_image_in_its_own_pixels", {"adapter": in_network_pixels}),
    ("there_is_one_prediction_for_each_image_in_its_own_pixels", {"purpose": Purpose.SEMANTIC}),
    ("labels_are_those_that_it_tells", {"first_label": 3, "last_label": None}),
    ("labels_are_those_that_it_tells", {"last_label": 0}),
    ("labels_are_those_that_it_tells", {"classes": ("a",)}),
    ("predictions_do_not_depend_on_the_batch", {"adapter": by_the_batch}),
    ("an_adapter_leaves_the_outputs_as_they_are", {"adapter": scales_outputs}),
    ("it_can_be_sent_to_a_worker", {"preprocess": lambda image: as_it_is(image)}),
    ("its_parts_say_what_they_do_the_same_each_time", {"preprocess": Untold()}),
    ("raw_heads_end_at_submodules_of_the_network", {"parts": ("body",)}),
    ("raw_heads_end_at_submodules_of_the_network", {"parts": ("features", "features.0")}),
    ("raw_heads_end_at_submodules_of_the_network", {"parts": ()}),
]


@pytest.mark.parametrize(("test", "fault"), FAULTS, ids=[f"{test}-{number}" for number, (test, _) in enumerate(FAULTS)])
def test_the_suite_finds_a_fault(test: str, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry._FAMILIES, "_values", dict(registry._FAMILIES._values))
    sv.register_connector("mine", lambda model: replace(connect(model), **fault), packages="tests", replace=True)
    with pytest.raises((AssertionError, PickleError, KeyError, TypeError, AttributeError)):
        getattr(ConnectorSuite(), f"test_{test}")(detector(GridDetector))


def test_a_registered_family_is_scored_by_name_of_its_package_alone(tmp_path: Any) -> None:
    connected = sv.connect(detector(GridDetector), side=48)
    assert isinstance(connect, Connector)
    assert connected.family == "mine"
    assert connected.example_inputs.shape == (1, 3, 48, 48)
    assert sv.connect(detector(GridDetector), family="mine").example_inputs.shape == (1, 3, 32, 32)
    with pytest.raises(TaskError, match=r"size= is no setting of mine\. It has side"):
        sv.connect(detector(GridDetector), size=48)


def test_a_reference_is_imported_when_a_network_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry._FAMILIES, "_values", dict(registry._FAMILIES._values))
    sv.register_connector("late", f"{made_detectors.__name__}:connect")
    assert sv.connect(detector(GridDetector), family="late").purpose is Purpose.DETECTION
    sv.register_connector("absent", "no_such_package:connect")
    with pytest.raises(MissingPackageError, match=r"needs the package 'no_such_package'.* Install 'no_such_package'\."):
        sv.connect(detector(GridDetector), family="absent")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("timm", connect), "family 'timm' is one of this library's own"),
        (("mine", lambda model: connect(model)), "another family is registered as 'mine'"),
        ((" ", connect), "' ' is no name for a family"),
        (("other", 3), "connector=3 is no connector"),
        (("other", "connect"), "connector='connect' is no connector"),
    ],
)
def test_a_connector_that_cannot_be_registered_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        sv.register_connector(*arguments)


def test_packages_are_names_that_no_other_family_has() -> None:
    with pytest.raises(TaskError, match="'timm' belongs to the family 'timm' already"):
        sv.register_connector("other", connect, packages=["mydetectors", "timm"])
    with pytest.raises(TaskError, match=r"packages=\('a\.b',\): give names of top-level packages"):
        sv.register_connector("other", connect, packages=("a.b",))


def test_what_a_connector_returns_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry._FAMILIES, "_values", dict(registry._FAMILIES._values))
    sv.register_connector("mine", lambda model: model, packages="tests", replace=True)
    with pytest.raises(TaskError, match="the connector of mine returned a GridDetector; expected a sensitivity"):
        sv.connect(detector(GridDetector))
