"""Networks of transformers against its own processors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sensitivity as sv
from tests.tasks.connectors import networks
from tests.tasks.connectors.conftest import SIZES, predictions_of

pytest.importorskip("torchvision", reason="torchvision is not installed", exc_type=(ImportError, RuntimeError))
transformers = pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture
def detector():
    return networks.rt_detr(("dog", "bird", "eel", "cat"))


def test_boxes_are_those_of_its_processor_and_labels_go_by_name(detector, tmp_path, pictures, annotations):
    processor = transformers.RTDetrImageProcessor(size={"height": 64, "width": 64})
    connected = sv.connect(detector, processor=processor)
    task = connected.task(tmp_path / "images", annotations)
    predictions = predictions_of(task, connected.model)
    for position, picture in enumerate(pictures):
        outputs = detector(**processor(images=picture, return_tensors="pt"))
        [expected] = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[SIZES[position]])
        known = expected["labels"] != 1
        ids = np.array([5, -1, 9, 2])[expected["labels"][known]]
        np.testing.assert_array_equal(predictions[position]["labels"], ids)
        np.testing.assert_allclose(predictions[position]["boxes"], expected["boxes"][known].numpy(), atol=1e-3)


def test_a_detector_is_wrapped_and_swept(detector, tmp_path, annotations):
    connected = sv.connect(detector, processor=transformers.RTDetrImageProcessor(size={"height": 64, "width": 64}))
    wrapped = sv.wrap(connected.model, connected.example_inputs)
    assert len(wrapped.layers) > 20
    task = connected.task(tmp_path / "images", annotations, limit=2)
    study = wrapped.analyze(task, sv.INT8_WEIGHTS, layers=[layer.name for layer in wrapped.layers][:2], intervals=False)
    assert study.table()["status"].tolist().count("measured") == 2


def test_without_a_processor_its_kind_is_taken_with_default_settings(detector):
    connected = sv.connect(detector)
    assert connected.example_inputs.shape == (1, 3, 640, 640)


def test_a_segmenter_gives_label_maps_of_the_original_size(tmp_path, pictures):
    from PIL import Image

    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        id2label={0: "a", 1: "b", 2: "c"},
        label2id={"a": 0, "b": 1, "c": 2},
    )
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    (tmp_path / "labels").mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture[..., 0] % 3).save(tmp_path / "labels" / f"{number}.png")
    processor = transformers.SegformerImageProcessor(size={"height": 64, "width": 64})
    connected = sv.connect(model, processor=processor)
    task = connected.task(tmp_path / "images", tmp_path / "labels")
    for position, prediction in predictions_of(task, connected.model).items():
        outputs = model(**processor(images=pictures[position], return_tensors="pt"))
        [label_map] = processor.post_process_semantic_segmentation(outputs, target_sizes=[SIZES[position]])
        truth = pictures[position][..., 0] % 3
        expected = np.zeros((3, 3), np.int64)
        np.add.at(expected, (truth.ravel(), label_map.numpy().ravel()), 1)
        np.testing.assert_array_equal(prediction["confusion"], expected)


def test_a_network_without_a_known_head_is_told():
    model = transformers.SegformerModel(
        transformers.SegformerConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4)
    )
    with pytest.raises(sv.SensitivityError, match="SegformerModel has none of the heads"):
        sv.connect(model)
