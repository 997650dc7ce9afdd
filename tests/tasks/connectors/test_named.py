"""Networks of known families by their name on the command line: ``torchvision:NAME`` and the like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

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


@pytest.mark.parametrize("trained", [True, False])
def test_a_folder_of_transformers_makes_its_network_with_its_own_weights(tmp_path: Path, trained: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[64, 64],
        num_labels=3,
    )
    saved = transformers.YolosForObjectDetection(config)
    saved.save_pretrained(tmp_path)
    transformers.YolosImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    connected = connected_family(f"transformers:{tmp_path}", trained=trained)
    assert connected.purpose == "detection"
    assert same_weights(connected.model, saved) == trained
    assert sv.wrap(connected.model, connected.example_inputs).layers


def test_a_folder_of_smp_makes_its_network_with_its_own_weights(tmp_path: Path) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    saved = smp.Unet("resnet18", encoder_weights=None, classes=3)
    saved.save_pretrained(tmp_path)
    connected = connected_family(f"smp:{tmp_path}", trained=True)
    assert connected.purpose == "semantic segmentation"
    assert same_weights(connected.model, saved)
    with pytest.raises(ModelError, match="leave out --random-weights"):
        connected_family(f"smp:{tmp_path}", trained=False)


def test_a_file_of_ultralytics_makes_its_network_with_its_own_weights(tmp_path: Path) -> None:
    ultralytics = pytest.importorskip("ultralytics")
    saved = ultralytics.YOLO("yolo11n.yaml")
    saved.save(tmp_path / "mine.pt")
    connected = connected_family(f"ultralytics:{tmp_path / 'mine.pt'}", trained=True)
    assert same_weights(connected.model.half(), saved.model.half())  # the file holds halves


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks of one form hold the same parameters."""
    return all(map(torch.equal, first.parameters(), second.parameters()))


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
