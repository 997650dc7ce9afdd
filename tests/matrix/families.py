"""Public models by family, each with random weights and an input as small as it takes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import sensitivity as sv

Models = dict[str, Callable[[], Any]]


def torchvision_detection() -> Models:
    """All of ``torchvision.models.detection``."""
    from torchvision.models import detection, list_models

    def make(name: str) -> Any:
        few = {"min_size": 128, "max_size": 160} if "ssd" not in name else {}
        model = getattr(detection, name)(weights=None, weights_backbone=None, **few)
        side = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}.get(name, 128)
        return model, (1, 3, side, side), sv.connect(model).parts

    return {name: partial(make, name) for name in list_models(module=detection)}


def torchvision_segmentation() -> Models:
    """All of ``torchvision.models.segmentation``."""
    from torchvision.models import list_models, segmentation

    def make(name: str) -> Any:
        return getattr(segmentation, name)(weights=None, weights_backbone=None), (1, 3, 96, 96), None

    return {name: partial(make, name) for name in list_models(module=segmentation)}


def ultralytics() -> Models:
    """The smallest detector, segmenter and pose network of each generation, and RT-DETR, of the package's files."""
    from ultralytics.nn.tasks import DetectionModel, PoseModel, RTDETRDetectionModel, SegmentationModel

    kinds = {"-seg": SegmentationModel, "-pose": PoseModel, "rtdetr": RTDETRDetectionModel}

    def make(name: str) -> Any:
        kind = next((kind for part, kind in kinds.items() if part in name), DetectionModel)
        model = kind(f"{name}.yaml", verbose=False)
        for parameter in model.parameters():
            parameter.requires_grad_(requires_grad=False)
        return model, (1, 3, 128, 128), None

    names = ["yolov3-tiny", "yolov5n", "yolov6n", "yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov9t", "yolov10n"]
    names += ["yolo11n", "yolo11n-seg", "yolo11n-pose", "yolo12n", "yolo26n", "rtdetr-resnet50", "rtdetr-l"]
    return {name: partial(make, name) for name in names}


def _resnet(**settings: Any) -> Any:
    import transformers as hf

    small = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return hf.ResNetConfig(**small, **settings)


def _swin(**settings: Any) -> Any:
    import transformers as hf

    small = {"image_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
    return hf.SwinConfig(**small, out_features=["stage1", "stage2", "stage3", "stage4"], **settings)


def transformers() -> Models:
    """Detectors and segmenters of small random configurations."""
    import transformers as hf

    attention = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    narrow = {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 10, **attention}
    own = {"use_timm_backbone": False, "backbone": None, "use_pretrained_backbone": False}
    levels = ["stage2", "stage3", "stage4"]
    hybrid = {
        "encoder_in_channels": [16, 24, 32],
        "encoder_hidden_dim": 32,
        "decoder_in_channels": [32, 32, 32],
        "d_model": 32,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "num_queries": 10,
    }
    vit = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    masks = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32}
    masks |= {"dim_feedforward": 32, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2}

    def rt_backbone() -> Any:
        small = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
        return hf.RTDetrResNetConfig(**small, out_features=levels)

    makers: Models = {
        "DETR": lambda: hf.DetrForObjectDetection(
            hf.DetrConfig(backbone_config=_resnet(out_features=["stage4"]), **own, **narrow)
        ),
        "Conditional DETR": lambda: hf.ConditionalDetrForObjectDetection(
            hf.ConditionalDetrConfig(backbone_config=_resnet(out_features=["stage4"]), **own, **narrow)
        ),
        "Deformable DETR": lambda: hf.DeformableDetrForObjectDetection(
            hf.DeformableDetrConfig(backbone_config=_resnet(out_features=levels), **own, **narrow, num_feature_levels=3)
        ),
        "RT-DETR": lambda: hf.RTDetrForObjectDetection(hf.RTDetrConfig(backbone_config=rt_backbone(), **hybrid)),
        "RT-DETRv2": lambda: hf.RTDetrV2ForObjectDetection(  # whose tied weights need a second layer
            hf.RTDetrV2Config(**{**hybrid, "decoder_layers": 2}, backbone_config=rt_backbone())
        ),
        "YOLOS": lambda: hf.YolosForObjectDetection(
            hf.YolosConfig(**vit, image_size=[64, 64], patch_size=8, num_detection_tokens=10)
        ),
        "Mask2Former": lambda: hf.Mask2FormerForUniversalSegmentation(
            hf.Mask2FormerConfig(backbone_config=_swin(), num_queries=10, **masks)
        ),
        "MaskFormer": lambda: hf.MaskFormerForInstanceSegmentation(
            hf.MaskFormerConfig(
                backbone_config=hf.MaskFormerSwinConfig(**_swin().to_dict()),
                decoder_config=hf.DetrConfig(backbone_config=_resnet(out_features=["stage4"]), **own, **narrow),
                fpn_feature_size=32,
                mask_feature_size=32,
            )
        ),
        "SegFormer": lambda: hf.SegformerForSemanticSegmentation(
            hf.SegformerConfig(
                hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, num_attention_heads=[1, 2, 2, 2], decoder_hidden_size=16
            )
        ),
        "UPerNet": lambda: hf.UperNetForSemanticSegmentation(
            hf.UperNetConfig(
                backbone_config=_swin(), hidden_size=16, auxiliary_in_channels=32, use_auxiliary_head=False
            )
        ),
        "DPT": lambda: hf.DPTForSemanticSegmentation(
            hf.DPTConfig(
                **{**vit, "num_hidden_layers": 4},
                image_size=64,
                patch_size=8,
                backbone_out_indices=[0, 1, 2, 3],
                neck_hidden_sizes=[8, 8, 16, 16],
                fusion_hidden_size=16,
                readout_type="ignore",
            )
        ),
        "MobileViT": lambda: hf.MobileViTForSemanticSegmentation(
            hf.MobileViTConfig(
                image_size=64,
                hidden_sizes=[16, 24, 32],
                neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64],
                aspp_out_channels=16,
            )
        ),
        "BEiT": lambda: hf.BeitForSemanticSegmentation(
            hf.BeitConfig(**{**vit, "num_hidden_layers": 4}, image_size=64, patch_size=8, out_indices=[1, 2, 3, 4])
        ),
        "MobileNetV2 DeepLabV3+": lambda: hf.MobileNetV2ForSemanticSegmentation(
            hf.MobileNetV2Config(image_size=64, depth_multiplier=0.35)
        ),
    }

    def make(name: str) -> Any:
        return makers[name](), (1, 3, 64, 64), None

    return {name: partial(make, name) for name in makers}


def effdet() -> Models:
    """Small EfficientDets."""
    import effdet as package

    def make(name: str) -> Any:
        settings = {"pretrained": False, "pretrained_backbone": False, "image_size": (128, 128)}
        return package.create_model(name, **settings), (1, 3, 128, 128), None

    return {name: partial(make, name) for name in ("efficientdet_d0", "tf_efficientdet_lite0", "resdet50")}


def smp() -> Models:
    """Every architecture over a ResNet-18, and U-Net over other encoders."""
    import segmentation_models_pytorch as package

    names = [
        "Unet",
        "UnetPlusPlus",
        "MAnet",
        "Linknet",
        "FPN",
        "PSPNet",
        "DeepLabV3",
        "DeepLabV3Plus",
        "PAN",
        "UPerNet",
    ]

    def make(architecture: str, encoder: str) -> Any:
        side = 128 if architecture == "PAN" else 96  # its attention halves the deepest map three times
        return getattr(package, architecture)(encoder, encoder_weights=None, classes=3), (1, 3, side, side), None

    models: Models = {name: partial(make, name, "resnet18") for name in names}
    for encoder in ("mobilenet_v2", "efficientnet-b0", "timm-regnetx_002", "mit_b0"):
        models[f"Unet {encoder}"] = partial(make, "Unet", encoder)
    return models


def timm() -> Models:
    """The smallest classifier of each of timm's families that takes images of at most 256 pixels."""
    import timm as package

    def make(name: str) -> Any:
        model = package.create_model(name, pretrained=False, num_classes=10)
        channels, height, width = package.data.resolve_model_data_config(model)["input_size"]
        fixed = getattr(model.default_cfg, "get", lambda _: None)("fixed_input_size")
        if not fixed and name not in OF_BLOCKS:
            height = width = min(height, 96)
        return model, (1, channels, height, width), None

    return {name: partial(make, name) for name in copy.copy(TIMM)}


OF_BLOCKS = ("halonet26t", "botnet26t_256", "lambda_resnet26t")
"""Attention over blocks of a fixed size, which the maps of small images are no multiple of."""

TIMM = (
    *("resnet10t", "resnet18", "resnext26ts", "seresnext26ts", "mobilenetv2_035", "mobilenetv3_small_050", "lcnet_035"),
    *("mnasnet_small", "efficientnet_lite0", "efficientnetv2_rw_t", "tinynet_e", "ghostnet_050", "ghostnetv2_100"),
    *("hardcorenas_a", "fbnetc_100", "regnetx_002", "regnety_002", "rexnet_100", "densenet121", "dla34", "vgg11"),
    *("cspresnet50", "darknet53", "dpn48b", "hrnet_w18_small", "inception_v3", "xception41", "nf_resnet26"),
    *("convnext_atto", "convnextv2_atto", "repvgg_a0", "repvit_m0_9", "mobileone_s0", "fastvit_t8", "starnet_s1"),
    *("edgenext_xx_small", "mobilevit_xxs", "mobilevitv2_050", "efficientformer_l1", "efficientvit_b0"),
    *(
        "efficientvit_m0",
        "poolformer_s12",
        "vit_tiny_patch16_224",
        "deit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
    ),
    *("swinv2_tiny_window8_256", "pvt_v2_b0", "levit_128s", "mixer_s32_224", "gmlp_ti16_224", "resmlp_12_224"),
    *("cait_xxs24_224", "xcit_nano_12_p16_224", "coat_tiny", "crossvit_tiny_240", "convmixer_768_32", "volo_d1_224"),
    *("maxvit_rmlp_pico_rw_256", "coatnet_nano_rw_224", "beit_base_patch16_224", "eva02_tiny_patch14_224"),
    *(
        "tiny_vit_5m_224",
        "twins_pcpvt_small",
        "visformer_tiny",
        "hiera_tiny_224",
        "mambaout_femto",
        "inception_next_atto",
    ),
    *("caformer_s18", "convformer_s18", "focalnet_tiny_srf", "davit_tiny", "nest_tiny", "sequencer2d_s", "selecsls42b"),
    *("skresnet18", "resnest14d", "res2net50_14w_8s", "cs3darknet_s", "gernet_s", "halonet26t", "lambda_resnet26t"),
    *("botnet26t_256", "eca_resnet33ts", "gcresnet33ts", "hgnet_tiny", "hgnetv2_b0", "vovnet39a", "ese_vovnet19b_dw"),
)
"""By hand, since the list that the package gives counts sizes, not families."""
