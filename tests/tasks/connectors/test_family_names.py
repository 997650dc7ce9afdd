"""Names, kinds, roles and flags of real networks of each family, one golden file a network, read by eye.

``tests/layers/test_family_names.py`` checks the names of the same files where the families' packages are not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import sensitivity as sv

Network = tuple[nn.Module, Any]

SMALL_DETR: dict[str, Any] = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "d_model": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
}
SMALL_VIT: dict[str, Any] = {
    "image_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
SMALL_RESNET: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [2, 2, 2, 2]}


def image(size: int) -> torch.Tensor:
    return torch.rand(1, 3, size, size)


def torchvision(name: str, size: int = 64, **settings: Any) -> Network:
    models = pytest.importorskip("torchvision.models")
    return models.get_model(name, weights=None, **settings), image(size)


def torchvision_detector(name: str, size: int = 128) -> Network:
    model, _ = torchvision(name, weights_backbone=None)
    model.transform.min_size, model.transform.max_size = (size,), size
    if hasattr(model, "roi_heads"):
        model.roi_heads.score_thresh, model.roi_heads.detections_per_img = 0.0, 5
        model.rpn._pre_nms_top_n = model.rpn._post_nms_top_n = {"training": 20, "testing": 20}
    return model, ([torch.rand(3, size, size)],)


def ultralytics(name: str, kind: str = "DetectionModel", size: int = 64) -> Network:
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    return getattr(tasks, kind)(f"{name}.yaml", verbose=False), image(size)


def transformers(model: str, config: str, size: int = 64, **settings: Any) -> Network:
    package = pytest.importorskip("transformers")
    made = {key: value(package) if callable(value) else value for key, value in settings.items()}
    return getattr(package, model)(getattr(package, config)(**made)), {"pixel_values": image(size)}


def sam() -> Network:
    package = pytest.importorskip("transformers")
    vision = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 256, "mlp_dim": 128}
    config = package.SamConfig(
        vision_config={**vision, "global_attn_indexes": [1], "output_channels": 32, "num_pos_feats": 16},
        prompt_encoder_config={"hidden_size": 32, "image_size": 256},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 4, "iou_head_hidden_dim": 32, "mlp_dim": 64},
    )
    boxes = torch.tensor([[[10.0, 10.0, 100.0, 100.0]]])
    return package.SamModel(config), {"pixel_values": image(256), "input_boxes": boxes}


def timm(name: str, size: int = 64) -> Network:
    return pytest.importorskip("timm").create_model(name, pretrained=False), image(size)


def efficientdet() -> Network:
    package = pytest.importorskip("effdet")
    return package.create_model("tf_efficientdet_d0", pretrained=False, pretrained_backbone=False), image(512)


def smp(name: str) -> Network:
    package = pytest.importorskip("segmentation_models_pytorch")
    return getattr(package, name)("resnet18", encoder_weights=None, classes=3), image(64)


def resnet(*levels: str) -> Callable[[Any], Any]:
    return lambda package: package.ResNetConfig(**SMALL_RESNET, layer_type="basic", out_features=list(levels))


def rt_detr_resnet(package: Any) -> Any:
    levels = ["stage2", "stage3", "stage4"]
    return package.RTDetrResNetConfig(**SMALL_RESNET, layer_type="basic", out_features=levels)


def small_swin(package: Any) -> Any:
    levels = ["stage1", "stage2", "stage3", "stage4"]
    return package.SwinConfig(
        image_size=128, embed_dim=24, depths=[2, 2, 2, 2], num_heads=[2, 2, 2, 2], out_features=levels
    )


NETWORKS: dict[str, Callable[[], Network]] = {
    "torchvision-resnet50": lambda: torchvision("resnet50"),
    "torchvision-mobilenet_v3_large": lambda: torchvision("mobilenet_v3_large"),
    "torchvision-densenet121": lambda: torchvision("densenet121"),
    "torchvision-convnext_tiny": lambda: torchvision("convnext_tiny"),
    "torchvision-efficientnet_b0": lambda: torchvision("efficientnet_b0"),
    "torchvision-efficientnet_v2_s": lambda: torchvision("efficientnet_v2_s"),
    "torchvision-regnet_y_400mf": lambda: torchvision("regnet_y_400mf"),
    "torchvision-inception_v3": lambda: torchvision("inception_v3", 128, init_weights=False),
    "torchvision-swin_t": lambda: torchvision("swin_t"),
    "torchvision-swin_v2_t": lambda: torchvision("swin_v2_t"),
    "torchvision-vit_b_32": lambda: torchvision("vit_b_32", 224),
    "torchvision-deeplabv3_resnet50": lambda: torchvision("deeplabv3_resnet50", weights_backbone=None),
    "torchvision-lraspp": lambda: torchvision("lraspp_mobilenet_v3_large", weights_backbone=None),
    "torchvision-retinanet": lambda: torchvision_detector("retinanet_resnet50_fpn_v2"),
    "torchvision-fcos": lambda: torchvision_detector("fcos_resnet50_fpn"),
    "torchvision-maskrcnn": lambda: torchvision_detector("maskrcnn_resnet50_fpn"),
    "torchvision-ssdlite": lambda: torchvision_detector("ssdlite320_mobilenet_v3_large", 320),
    "ultralytics-yolov5n": lambda: ultralytics("yolov5n"),
    "ultralytics-yolov8n": lambda: ultralytics("yolov8n"),
    "ultralytics-yolov8n-seg": lambda: ultralytics("yolov8n-seg", "SegmentationModel"),
    "ultralytics-yolov9t": lambda: ultralytics("yolov9t"),
    "ultralytics-yolov10n": lambda: ultralytics("yolov10n"),
    "ultralytics-yolo11n": lambda: ultralytics("yolo11n"),
    "ultralytics-yolo12n": lambda: ultralytics("yolo12n"),
    "ultralytics-rtdetr-l": lambda: ultralytics("rtdetr-l", "RTDETRDetectionModel"),
    "transformers-detr": lambda: transformers(
        "DetrForObjectDetection", "DetrConfig", backbone_config=resnet("stage4"), **SMALL_DETR
    ),
    "transformers-deformable_detr": lambda: transformers(
        "DeformableDetrForObjectDetection",
        "DeformableDetrConfig",
        backbone_config=resnet("stage2", "stage3", "stage4"),
        disable_custom_kernels=True,
        **SMALL_DETR,
    ),
    "transformers-rt_detr": lambda: transformers(
        "RTDetrForObjectDetection",
        "RTDetrConfig",
        size=128,
        backbone_config=rt_detr_resnet,
        encoder_in_channels=[32, 64, 128],
        decoder_layers=2,
        num_queries=20,
    ),
    "transformers-segformer": lambda: transformers("SegformerForSemanticSegmentation", "SegformerConfig"),
    "transformers-mask2former": lambda: transformers(
        "Mask2FormerForUniversalSegmentation",
        "Mask2FormerConfig",
        size=128,
        backbone_config=small_swin,
        encoder_layers=2,
        decoder_layers=3,
        hidden_dim=64,
        feature_size=64,
        mask_feature_size=64,
        num_attention_heads=4,
        num_queries=10,
    ),
    "transformers-sam": sam,
    "transformers-vit": lambda: transformers("ViTForImageClassification", "ViTConfig", **SMALL_VIT),
    "transformers-yolos": lambda: transformers(
        "YolosForObjectDetection", "YolosConfig", **{**SMALL_VIT, "image_size": [64, 64]}
    ),
    "transformers-dpt": lambda: transformers(
        "DPTForDepthEstimation",
        "DPTConfig",
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 32, 64, 64],
        fusion_hidden_size=32,
        **{**SMALL_VIT, "num_hidden_layers": 4},
    ),
    "timm-convnext_atto": lambda: timm("convnext_atto"),
    "timm-swin_tiny": lambda: timm("swin_tiny_patch4_window7_224", 224),
    "timm-mobilenetv4_conv_small": lambda: timm("mobilenetv4_conv_small"),
    "timm-efficientvit_b0": lambda: timm("efficientvit_b0"),
    "timm-levit_128s": lambda: timm("levit_128s", 224),
    "timm-pvt_v2_b0": lambda: timm("pvt_v2_b0"),
    "timm-cspdarknet53": lambda: timm("cspdarknet53"),
    "timm-vovnet39a": lambda: timm("vovnet39a"),
    "timm-hrnet_w18_small": lambda: timm("hrnet_w18_small"),
    "effdet-d0": efficientdet,
    "smp-unet": lambda: smp("Unet"),
    "smp-unetplusplus": lambda: smp("UnetPlusPlus"),
    "smp-fpn": lambda: smp("FPN"),
    "smp-deeplabv3plus": lambda: smp("DeepLabV3Plus"),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_layers_are_those_of_the_golden_file(network: str, golden: Callable[[str, str], None]) -> None:
    model, example = NETWORKS[network]()
    layers = sv.wrap(model.eval(), example).layers
    rows = [(layer.name, layer.module, layer.kind, layer.role, " ".join(sorted(layer.flags))) for layer in layers]
    rows += [("-", skipped.module, "", "", skipped.reason) for skipped in layers.skipped]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)).rstrip() for row in rows
    ]
    golden(f"families/{network}.txt", "\n".join(lines) + "\n")
