"""Small networks of every family, with seeded random weights whose scores are far enough apart to be ranked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

CLASSES = 9


def varied(model: Any, heads: Iterable[nn.Module], inputs: Any, spread: float = 0.3) -> Any:
    """The model in evaluation mode, with scores that differ from image to image and from place to place.

    Batch norms get the statistics of these inputs: with those they are made with, deep features fade to nothing. Then
    the layers that give the scores get wider weights.
    """
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
    for head in heads:
        for parameter in head.parameters():
            nn.init.normal_(parameter, std=spread if parameter.ndim > 1 else spread / 10)
    return model


def noise(side: int) -> torch.Tensor:
    """Four images of smooth noise."""
    small = torch.rand(4, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(small, (side, side), mode="bilinear")


def _pyramid(levels: list[int]) -> Any:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    extra = {"extra_blocks": LastLevelP6P7(256, 256)} if levels[0] == 2 else {}
    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, returned_layers=levels, **extra)


def torchvision_detector(name: str) -> Any:
    """``faster``, ``mask``, ``keypoint`` (R-CNN), ``retinanet``, ``fcos`` or ``ssd``."""
    from torchvision.models import detection

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"min_size": 64, "max_size": 96}
    many = {"box_score_thresh": 0.0, "box_detections_per_img": 12}
    if name in ("faster", "mask", "keypoint"):
        kind = {"faster": "FasterRCNN", "mask": "MaskRCNN", "keypoint": "KeypointRCNN"}[name]
        classes = 2 if name == "keypoint" else CLASSES + 1
        model: Any = getattr(detection, kind)(_pyramid([1, 2, 3, 4]), num_classes=classes, **sizes, **many)
        return varied(model, [model.rpn.head.cls_logits, model.roi_heads.box_predictor.cls_score], list(noise(64)), 0.1)
    if name == "ssd":
        model = detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=CLASSES + 1, score_thresh=0.0, detections_per_img=20
        )
        return varied(model, [last for *_, last in model.head.classification_head.module_list], list(noise(320)))
    kind = {"retinanet": "RetinaNet", "fcos": "FCOS"}[name]
    settings = {"score_thresh": 0.0, "detections_per_img": 20}
    model = getattr(detection, kind)(_pyramid([2, 3, 4]), num_classes=CLASSES + 1, **sizes, **settings)
    varied(model, [model.head.classification_head.cls_logits], list(noise(64)))
    with torch.no_grad():  # trained ones never find the background, their label 0
        model.head.classification_head.cls_logits.bias[:: CLASSES + 1] = -20.0
    return model


def torchvision_segmenter(name: str) -> Any:
    """``lraspp_mobilenet_v3_large``, ``deeplabv3_mobilenet_v3_large``, or ``fcn`` over a ResNet-18."""
    from torchvision.models import resnet18, segmentation
    from torchvision.models._utils import IntermediateLayerGetter

    torch.manual_seed(0)
    if name == "fcn":
        backbone = IntermediateLayerGetter(resnet18(weights=None), {"layer4": "out"})
        return varied(segmentation.FCN(backbone, segmentation.fcn.FCNHead(512, 3)), [], noise(64))
    model = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=3)
    return varied(model, [], noise(64))


def ultralytics_network(name: str) -> Any:
    """Of a configuration file that the package brings, such as ``yolov8n-seg.yaml``."""
    from ultralytics.nn.tasks import DetectionModel, PoseModel, RTDETRDetectionModel, SegmentationModel

    torch.manual_seed(0)
    kind = SegmentationModel if "seg" in name else PoseModel if "pose" in name else DetectionModel
    kind = RTDETRDetectionModel if name.startswith("rtdetr") else kind
    model = kind(name, nc=1 if "pose" in name else CLASSES, verbose=False)
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    head: Any = model.model[-1]
    classifiers = [branch[-1] for key in ("cv3", "one2one_cv3") for branch in getattr(head, key, None) or []]
    return varied(model, classifiers or list(getattr(head, "dec_score_head", [])), noise(96), 0.1)


NAMES = {number: f"class{number}" for number in range(CLASSES)}


def labels(names: Iterable[str]) -> dict[str, Any]:
    """A configuration's two tables of class names."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


LABELS = labels(NAMES.values())

THREE: dict[str, Any] = {"num_labels": 3}


def _small_resnet() -> Any:
    import transformers

    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )


def rt_detr(names: Sequence[str] = tuple(NAMES.values())) -> Any:
    """transformers' RT-DETR with a class for each name."""
    import transformers

    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[16, 24, 32],
        encoder_hidden_dim=32,
        d_model=32,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        decoder_in_channels=[32, 32, 32],
        num_queries=30,
        **labels(names),
    )
    model = transformers.RTDetrForObjectDetection(config)
    return varied(model, [model.model.enc_score_head, *model.model.decoder.class_embed], noise(64))


def detr() -> Any:
    """transformers' DETR."""
    import transformers

    torch.manual_seed(0)
    config = transformers.DetrConfig(
        backbone_config=_small_resnet(),
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=20,
        **LABELS,
    )
    model = transformers.DetrForObjectDetection(config)
    return varied(model, [model.class_labels_classifier, model.model.query_position_embeddings], noise(64), 1.0)


def mask2former() -> Any:
    """transformers' Mask2Former over a small Swin."""
    import transformers

    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=12,
        **LABELS,
    )
    return varied(transformers.Mask2FormerForUniversalSegmentation(config), [], noise(64))


def segformer() -> Any:
    """transformers' SegFormer."""
    import transformers

    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, **THREE
    )
    model = transformers.SegformerForSemanticSegmentation(config)
    return varied(model, [model.decode_head.classifier], noise(64))


def sam() -> Any:
    """transformers' SAM, for 64 x 64 pixels."""
    import transformers

    torch.manual_seed(0)
    vision = transformers.SamVisionConfig(
        hidden_size=16,
        output_channels=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        window_size=4,
        num_pos_feats=8,
        mlp_dim=32,
        global_attn_indexes=[1],
    )
    prompts = transformers.SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
    masks = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    model = transformers.SamModel(
        transformers.SamConfig(
            vision_config=vision,
            prompt_encoder_config=prompts,
            mask_decoder_config=transformers.SamMaskDecoderConfig(**masks),
        )
    )
    return _lively(model)


def sam2() -> Any:
    """transformers' SAM 2, for 128 x 128 pixels."""
    import transformers

    torch.manual_seed(0)
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[128, 128],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[8, 4, 8, 4],
        window_positional_embedding_background_size=[4, 4],
        global_attention_blocks=[3],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        fpn_hidden_size=32,
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
    )
    prompts = transformers.Sam2PromptEncoderConfig(hidden_size=32, image_size=128, mask_input_channels=4)
    masks = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    model = transformers.Sam2Model(
        transformers.Sam2Config(
            vision_config=vision,
            prompt_encoder_config=prompts,
            mask_decoder_config=transformers.Sam2MaskDecoderConfig(**masks),
        )
    )
    return _lively(model)


def sam_processor(*, second: bool = False) -> Any:
    """For the small SAM, or the small SAM 2: theirs are for 1024 pixels."""
    import transformers

    if second:
        sizes = {"size": {"height": 128, "width": 128}, "mask_size": {"height": 32, "width": 32}}
        return transformers.Sam2Processor(transformers.Sam2ImageProcessor(**sizes))
    inner = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    outer = {"mask_size": {"longest_edge": 32}, "mask_pad_size": {"height": 32, "width": 32}}
    return transformers.SamProcessor(transformers.SamImageProcessor(**inner, **outer))


def _lively(model: Any) -> Any:
    """With weights wide enough that masks and predicted IoU differ from prompt to prompt."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "mask_decoder" in name:
                parameter.normal_(std=0.3, generator=draw)
    return model.eval()


def vit() -> Any:
    """transformers' ViT with a classifier."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        **THREE,
    )
    return transformers.ViTForImageClassification(config).eval()


def efficientdet_for(images: Sequence[Any]) -> Any:
    """effdet's smallest, with scores between 0 and 1 for these images, (H, W, 3) uint8: for others all are 1."""
    import sensitivity as sv

    preprocess = sv.connect(efficientdet()).preprocess
    return efficientdet(torch.stack([preprocess(image) for image in images]))


def efficientdet(images: torch.Tensor | None = None) -> Any:
    """effdet's smallest, for 128 x 128 pixels, with norms as preprocessed images need them."""
    import effdet

    torch.manual_seed(0)
    model = effdet.create_model(
        "tf_efficientdet_d0", num_classes=CLASSES, pretrained=False, pretrained_backbone=False, image_size=(128, 128)
    )
    varied(model, [model.class_net.predict], noise(128) if images is None else images)
    for parameter in model.box_net.predict.parameters():  # boxes stay near their anchors
        nn.init.normal_(parameter, std=0.001)
    return model


def unet(classes: int = 3) -> Any:
    """smp's U-Net over a ResNet-18."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    return varied(smp.Unet("resnet18", encoder_weights=None, classes=classes), [], noise(64))


def timm_classifier() -> Any:
    """timm's smallest ResNet."""
    import timm

    torch.manual_seed(0)
    return varied(timm.create_model("resnet10t", pretrained=False, num_classes=4), [], noise(64))
