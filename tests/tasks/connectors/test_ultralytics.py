"""ultralytics' networks against its own validation's steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sensitivity as sv
from tests.tasks.connectors.conftest import SIZES, predictions_of

pytest.importorskip("torchvision", reason="torchvision is not installed", exc_type=(ImportError, RuntimeError))
pytest.importorskip("ultralytics", reason="ultralytics is not installed")

from ultralytics.data.augment import LetterBox
from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel, SegmentationModel
from ultralytics.utils import nms, ops

SIDE = 96


def network(kind, name):
    torch.manual_seed(0)
    model = kind(name, nc=10, verbose=False).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    return model


def test_an_image_is_prepared_as_by_its_letterbox(pictures):
    connected = sv.connect(network(DetectionModel, "yolov8n.yaml"), image_size=SIDE)
    import cv2

    for picture in pictures:
        ratio = SIDE / max(picture.shape[:2])
        height, width = (min(int(np.ceil(side * ratio)), SIDE) for side in picture.shape[:2])
        resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
        expected = LetterBox((SIDE, SIDE), auto=False, scaleup=False)(image=resized)
        prepared = connected.preprocess(picture)
        np.testing.assert_array_equal(prepared.permute(1, 2, 0).numpy(), expected.astype(np.float32) / 255)


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml", "yolov10n.yaml"])
def test_boxes_are_those_of_its_suppression_in_original_pixels(name, tmp_path, annotations):
    model = network(DetectionModel, name)
    connected = sv.connect(model, image_size=SIDE)
    task = connected.task(tmp_path / "images", annotations, batch_size=3)
    [batch] = task.batches()
    end2end = bool(getattr(model.model[-1], "end2end", False))
    suppressed = nms.non_max_suppression(
        model(batch.inputs[0]), 0.001, 0.7, multi_label=True, max_det=300, end2end=end2end, max_time_img=60
    )
    predictions = predictions_of(task, model)
    for position, (rows, size) in enumerate(zip(suppressed, SIZES, strict=True)):
        known = rows[:, 5] < 3  # labels 0, 1, 2 are the file's categories
        boxes = ops.scale_boxes((SIDE, SIDE), rows[known, :4].clone(), size)
        np.testing.assert_allclose(predictions[position]["boxes"], boxes.numpy(), atol=1e-4)
        np.testing.assert_array_equal(predictions[position]["labels"], np.array([2, 5, 9])[rows[known, 5].long()])


def test_masks_have_the_original_size(tmp_path, annotations):
    model = network(SegmentationModel, "yolov8n-seg.yaml")
    connected = sv.connect(model, image_size=SIDE)
    assert connected.purpose == "instance segmentation"
    task = connected.task(tmp_path / "images", annotations)
    predictions = predictions_of(task, model)
    for position, size in enumerate(SIZES):
        assert all(tuple(mask["size"]) == size for mask in predictions[position]["masks"])
    assert sum(len(prediction["masks"]) for prediction in predictions.values()) > 0


def test_an_rt_detr_gives_the_boxes_of_its_queries(tmp_path, annotations):
    model = network(RTDETRDetectionModel, "rtdetr-resnet50.yaml")
    connected = sv.connect(model, image_size=SIDE)
    task = connected.task(tmp_path / "images", annotations, limit=1)
    [batch] = task.batches()
    rows = model(batch.inputs[0])
    rows = (rows if isinstance(rows, torch.Tensor) else rows[0])[0]
    predictions = predictions_of(task, model)[0]
    height, width = SIZES[0]
    boxes = ops.xywh2xyxy(rows[:, :4]).numpy() * [width, height, width, height]
    for box in predictions["boxes"]:
        assert np.abs(boxes - box).max(1).min() < 1e-3
    assert set(predictions["labels"]) <= {2, 5, 9}


def test_layers_can_be_named_by_backbone_neck_and_head():
    connected = sv.connect(network(DetectionModel, "yolov8n.yaml"), image_size=SIDE)
    wrapped = sv.wrap(connected.model, connected.example_inputs, naming=connected.naming)
    by_module = {layer.module: layer.name for layer in wrapped.layers}
    assert by_module["model.0.conv"] == "backbone:0:0"
    assert by_module["model.9.cv2.conv"] == "backbone:9:1"  # the last of the backbone in yolov8.yaml
    assert by_module["model.12.cv1.conv"] == "neck:12:0"
    assert by_module["model.22.cv3.1.2"] == "head.cv3:1:2"
    assert by_module["model.22.dfl.conv"] == "head.dfl:0:0"
    assert len(by_module) == len(set(by_module.values()))
    assert wrapped.layers.select("neck:any:any")


def test_its_yolo_object_is_taken_as_its_network():
    from ultralytics import YOLO

    yolo = YOLO("yolov8n.yaml")
    assert sv.connect(yolo, image_size=64).model is yolo.model
