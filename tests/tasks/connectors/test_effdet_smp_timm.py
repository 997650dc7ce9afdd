"""EfficientDets, segmenters of segmentation_models_pytorch and classifiers of timm against their packages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import sensitivity as sv
from tests.tasks.connectors.conftest import SIZES, predictions_of

pytest.importorskip("torchvision", reason="torchvision is not installed", exc_type=(ImportError, RuntimeError))


@pytest.mark.filterwarnings("ignore")
def test_an_efficientdet_gives_the_boxes_of_its_bench(tmp_path, pictures, annotations):
    effdet = pytest.importorskip("effdet", reason="effdet is not installed")
    from effdet.data.transforms import ResizePad, resolve_fill_color

    torch.manual_seed(0)
    model = effdet.create_model(
        "tf_efficientdet_d0", num_classes=9, pretrained=False, pretrained_backbone=False, image_size=(128, 128)
    ).eval()
    connected = sv.connect(model)
    task = connected.task(tmp_path / "images", annotations)
    predictions = predictions_of(task, connected.model)
    bench = effdet.DetBenchPredict(model)
    for position, picture in enumerate(pictures):
        padded, facts = ResizePad((128, 128), fill_color=resolve_fill_color("mean"))(Image.fromarray(picture), {})
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1) * 255 for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        x = (torch.from_numpy(np.array(padded)).permute(2, 0, 1)[None].float() - mean) / std
        height, width = SIZES[position]
        information = {
            "img_scale": torch.tensor([facts["img_scale"]]),
            "img_size": torch.tensor([[width, height]]).float(),
        }
        [rows] = bench(x, information)
        rows = rows[np.isin(rows[:, 5].numpy(), (2, 5, 9))]
        np.testing.assert_array_equal(predictions[position]["labels"], rows[:, 5].numpy())
        np.testing.assert_allclose(predictions[position]["boxes"], rows[:, :4].numpy(), atol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_a_segmenter_of_smp_is_normalised_as_its_encoder_was(tmp_path, pictures):
    smp = pytest.importorskip("segmentation_models_pytorch", reason="segmentation_models_pytorch is not installed")
    torch.manual_seed(0)
    model = smp.Unet("resnet18", encoder_weights=None, classes=3)
    connected = sv.connect(model, image_size=64, classes=("a", "b", "c"))
    image = np.asarray(Image.fromarray(pictures[0]).resize((64, 64), Image.Resampling.BILINEAR))
    normal = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_range": [0, 1]}
    expected = smp.encoders.preprocess_input(image.astype(np.float64), **normal).transpose(2, 0, 1)
    np.testing.assert_allclose(connected.preprocess(pictures[0]).numpy(), expected, atol=1e-5)
    (tmp_path / "labels").mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture[..., 0] % 3).save(tmp_path / "labels" / f"{number}.png")
    task = connected.task(tmp_path / "images", tmp_path / "labels")
    assert 0 < task.score(predictions_of(task, connected.model))["pixel_accuracy"] < 1
    with pytest.raises(sv.SensitivityError, match="multiples of 32"):
        sv.connect(model, image_size=100)


def test_a_classifier_of_timm_gets_its_data_configuration(tmp_path, pictures):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=4)
    connected = sv.connect(model)
    config = timm.data.resolve_model_data_config(model)
    expected = timm.data.create_transform(**config, is_training=False)(Image.fromarray(pictures[0]))
    torch.testing.assert_close(connected.preprocess(pictures[0]), expected)
    (tmp_path / "classes" / "a").mkdir(parents=True)
    (tmp_path / "images" / "0.png").rename(tmp_path / "classes" / "a" / "0.png")
    task = connected.task(tmp_path / "classes")
    best = int(model.eval()(expected[None]).argmax())
    assert predictions_of(task, connected.model)[0]["best"] == best
    with pytest.raises(sv.SensitivityError, match="has no classifier"):
        sv.connect(timm.create_model("resnet10t", pretrained=False, num_classes=0))
