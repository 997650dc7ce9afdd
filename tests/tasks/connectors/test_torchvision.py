"""torchvision's networks against torchvision itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import sensitivity as sv
from tests.tasks.connectors.conftest import predictions_of

pytest.importorskip("torchvision", reason="torchvision is not installed", exc_type=(ImportError, RuntimeError))

from torchvision.models import detection as detectors
from torchvision.models import resnet18, segmentation

SMALL = {"weights": None, "weights_backbone": None, "num_classes": 10, "min_size": 64, "max_size": 96}


def detector(name):
    torch.manual_seed(0)
    if name == "ssdlite":
        return detectors.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=10).eval()
    return getattr(detectors, name)(**SMALL).eval()


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite"])
def test_boxes_are_those_that_the_network_gives_for_the_images(name, tmp_path, pictures, annotations):
    model = detector(name)
    connected = sv.connect(model)
    task = connected.task(tmp_path / "images", annotations)
    predictions = predictions_of(task, model)
    for position, picture in enumerate(pictures):
        [expected] = model([torch.from_numpy(picture).permute(2, 0, 1).float() / 255])
        known = np.isin(expected["labels"].numpy(), (2, 5, 9))
        assert known.any()
        np.testing.assert_array_equal(predictions[position]["labels"], expected["labels"].numpy()[known])
        np.testing.assert_allclose(predictions[position]["boxes"], expected["boxes"].numpy()[known], atol=1e-4)


def test_masks_are_those_above_one_half(tmp_path, pictures, annotations):
    from pycocotools import mask as mask_tools

    torch.manual_seed(0)
    backbone = detectors.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    model = detectors.MaskRCNN(backbone, num_classes=10, min_size=64, max_size=96, box_score_thresh=0.0).eval()
    connected = sv.connect(model)
    assert connected.purpose == "instance segmentation"
    task = connected.task(tmp_path / "images", annotations)
    [expected] = model([torch.from_numpy(pictures[0]).permute(2, 0, 1).float() / 255])
    known = np.isin(expected["labels"].numpy(), (2, 5, 9))
    masks = mask_tools.decode(predictions_of(task, model)[0]["masks"])
    np.testing.assert_array_equal(masks.transpose(2, 0, 1) > 0, expected["masks"][:, 0].numpy()[known] > 0.5)


def test_the_parts_in_front_of_post_processing_exist():
    model = detector("fasterrcnn_mobilenet_v3_large_320_fpn")
    assert sv.connect(model).parts == ("backbone", "rpn.head", "roi_heads.box_head", "roi_heads.box_predictor")
    assert sv.connect(detector("ssdlite")).parts == ("backbone", "head")


def test_a_segmenter_is_scored_on_maps_of_the_original_size(tmp_path, pictures):
    torch.manual_seed(0)
    model = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    (tmp_path / "labels").mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture[..., 0] % 3).save(tmp_path / "labels" / f"{number}.png")
    task = sv.connect(model).task(tmp_path / "images", tmp_path / "labels", classes=("a", "b", "c"))
    score = task.score(predictions_of(task, model))
    assert 0 < score["pixel_accuracy"] < 1


def test_a_classifier_gets_the_transforms_of_its_weights(tmp_path, pictures):
    from torchvision.models import ResNet18_Weights

    torch.manual_seed(0)
    model = resnet18(weights=None, num_classes=5).eval()
    for name in ("a", "b"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        (tmp_path / "images" / "0.png").rename(tmp_path / "classes" / name / "0.png") if name == "a" else None
    (tmp_path / "images" / "1.png").rename(tmp_path / "classes" / "b" / "1.png")
    connected = sv.connect(model, weights=ResNet18_Weights.DEFAULT)
    task = connected.task(tmp_path / "classes")
    [batch] = task.batches()
    expected = ResNet18_Weights.DEFAULT.transforms()(Image.fromarray(pictures[0]))
    torch.testing.assert_close(batch.inputs[0][0], expected)
    assert connected.classes is not None
    assert connected.classes[0] == "tench"
