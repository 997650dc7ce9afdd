"""Which family a network is of, and what its labels are in an annotation file; no family's package is needed."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.contracts import Purpose
from sensitivity.errors import MissingPackageError, ModelError, TaskError
from sensitivity.tasks.connect import ConnectedModel, connect
from sensitivity.tasks.connectors.known_labels import OfKnownLabels
from sensitivity.tasks.connectors.registry import family_of

CATEGORIES = [{"id": 9, "name": "eel"}, {"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}]


def boxes(outputs, sizes):
    return [{"boxes": x[:, :4], "scores": x[:, 4], "labels": x[:, 5].long()} for x in outputs]


def connected(**settings):
    known = {"family": "torchvision", "purpose": Purpose.DETECTION, "model": nn.Identity(), "adapter": boxes}
    known |= {"example_inputs": torch.zeros(1, 3, 8, 8), "preprocess": sv.Resize(height=8, width=8)}
    return ConnectedModel(**known | settings)


@pytest.mark.parametrize("package", ["torchvision", "ultralytics", "transformers", "timm", "effdet"])
def test_a_family_is_found_by_the_package_of_a_class_or_of_its_parents(package):
    net_type = type("Net", (nn.Module,), {"__module__": f"{package}.models.net"})
    assert family_of(net_type()) == package
    assert family_of(type("Own", (net_type,), {"__module__": "mine"})()) == package
    assert family_of(type("Unet", (nn.Module,), {"__module__": "segmentation_models_pytorch.unet"})()) == "smp"
    assert family_of(nn.Linear(1, 1)) is None


def test_labels_go_by_name_where_the_network_knows_all_of_the_file():
    classes = ("dog", "bird", "cat", "eel")
    assert connected(classes=classes).labels_in(CATEGORIES) == {0: 5, 2: 2, 3: 9}
    assert connected(classes=("background", *classes)).labels_in(CATEGORIES) == {1: 5, 3: 2, 4: 9}


def test_labels_of_a_network_trained_on_ids_with_gaps_are_ids():
    assert connected(first_label=1, last_label=9).labels_in(CATEGORIES) == {2: 2, 5: 5, 9: 9}


def test_other_labels_count_the_ids_in_ascending_order():
    assert connected(classes=("a", "b", "c")).labels_in(CATEGORIES) == {0: 2, 1: 5, 2: 9}
    assert connected(first_label=1, last_label=3).labels_in(CATEGORIES) == {1: 2, 2: 5, 3: 9}


def test_predictions_of_classes_that_the_data_lack_are_left_out():
    rows = torch.tensor([[0, 0, 4, 4, 0.9, 7], [1, 1, 5, 5, 0.8, 2]])
    [known] = OfKnownLabels(boxes, (2, 5))([rows], [(8, 8)])
    assert {key: value.tolist() for key, value in known.items()} == {
        "boxes": [[1, 1, 5, 5]],
        "scores": [pytest.approx(0.8)],
        "labels": [2],
    }


def test_a_detection_task_takes_all_from_a_connected_network(tmp_path, annotations):
    rows = [torch.tensor([[8.0, 6.0, 38.0, 46.0, 0.9, 0.0], [9.0, 6.0, 39.0, 46.0, 0.8, 1.0]])]
    task = sv.CocoDetection(tmp_path / "images", annotations, model=connected())
    model = lambda x: rows * len(x)  # noqa: E731
    predictions = {i: p for b in task.batches() for i, p in zip(b.images, task.predict(model, b), strict=True)}
    assert task.score(predictions)["AP"] == 1.0


def test_what_is_given_goes_before_what_the_family_says(tmp_path, annotations):
    task = sv.CocoDetection(
        tmp_path / "images", annotations, model=connected(), preprocess=sv.Resize(height=4, width=6), batch_size=3
    )
    [batch] = task.batches()
    assert batch.inputs[0].shape == (3, 3, 4, 6)


def test_without_a_network_preprocess_and_adapter_are_asked_for(tmp_path, annotations):
    with pytest.raises(TaskError, match="preprocess= is missing"):
        sv.CocoDetection(tmp_path / "images", annotations, adapter=boxes)
    with pytest.raises(TaskError, match="adapter= is missing"):
        sv.CocoDetection(tmp_path / "images", annotations, preprocess=sv.Resize(height=8, width=8))


def test_a_network_of_no_family_and_a_family_that_is_unknown_are_told():
    with pytest.raises(
        ModelError, match=r"torch.nn.modules.linear.Linear, of no family that is known here: torchvision"
    ):
        connect(nn.Linear(1, 1))
    with pytest.raises(TaskError, match=r"family='keras' is unknown. Choose one of 'torchvision'"):
        connect(nn.Linear(1, 1), family="keras")
    with pytest.raises(TaskError, match=r"size= is no setting of timm. It has none"):
        connect(nn.Linear(1, 1), family="timm", size=3)


@pytest.mark.parametrize("family", ["timm", "transformers"])
def test_a_package_that_is_missing_is_named_with_the_extra(family, monkeypatch):
    for name in [family, *(name for name in sys.modules if name.startswith(f"{family}."))]:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    net = type("Net", (nn.Module,), {"__module__": f"{family}.models.net", "num_classes": 3, "config": None})()
    with pytest.raises(MissingPackageError, match=rf"needs the package '{family}.*pip install .*\[{family}\]"):
        connect(net)


def test_a_task_without_labels_or_classes_asks_for_them(tmp_path):
    with pytest.raises(TaskError, match="labels= is missing: detection is scored against a COCO annotation file"):
        connected().task(tmp_path)
    semantic = connected(purpose=Purpose.SEMANTIC)
    with pytest.raises(TaskError, match="scored against a folder of label maps"):
        semantic.task(tmp_path)
    with pytest.raises(TaskError, match=r"classes= is missing.*Give the names.*classes=\['road', 'sky'\]"):
        semantic.task(tmp_path, tmp_path)
