"""Networks of known families by their name on the command line: ``torchvision:NAME`` and the like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sensitivity as sv
from sensitivity.cli.families import connected_family
from sensitivity.cli.main import main
from sensitivity.errors import ModelError


@pytest.mark.parametrize(
    ("text", "package", "purpose"),
    [
        ("torchvision:resnet18", "torchvision", "classification"),
        ("torchvision:ssdlite320_mobilenet_v3_large", "torchvision", "detection"),
        ("torchvision:lraspp_mobilenet_v3_large", "torchvision", "semantic segmentation"),
        ("timm:resnet10t", "timm", "classification"),
        ("ultralytics:yolo11n.pt", "ultralytics", "detection"),
        ("effdet:tf_efficientdet_lite0", "effdet", "detection"),
    ],
)
def test_a_name_makes_a_network_that_can_be_wrapped(text: str, package: str, purpose: str) -> None:
    pytest.importorskip(package)
    connected = connected_family(text, trained=False)
    assert connected.purpose == purpose
    assert len(sv.wrap(connected.model, connected.example_inputs).layers) > 10


def test_an_unknown_name_is_told_with_its_neighbours() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(ModelError, match=r"'torchvision:resnet51': torchvision has no such network\..*resnet50"):
        connected_family("torchvision:resnet51", trained=False)


def test_a_detector_is_analysed_without_code(annotations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    torch.manual_seed(0)
    monkeypatch.chdir(annotations.parent)
    model, task = "torchvision:ssdlite320_mobilenet_v3_large", "dataset:images:instances.json"
    words = ["--random-weights", "--recipe", "int4-weights", "--layers", "head*", "--limit", "2", "--no-intervals"]
    assert main(["analyze", model, task, *words]) == 0
    study = json.loads(Path("study.json").read_text(encoding="utf-8"))
    assert study["baseline"]["images"] == 2
