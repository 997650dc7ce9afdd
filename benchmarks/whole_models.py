"""How much of whole detectors is deployed and verified: a table of small ones with random weights.

    python -m benchmarks.whole_models [--sizes] [NAME ...]

Needs torchvision and transformers, for YOLO ultralytics. Each model is wrapped, calibrated on two random images and
deployed to OpenVINO with every layer in int8 (weights in 7 bits, which no CPU saturates on), whole where that can be
exported, otherwise part by part; then every layer is verified. With ``--sizes`` it is deployed to OpenVINO and ONNX
Runtime for any number of samples, and for any image size, and the table says what was exported, or why it was refused.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import sensitivity as sv
from sensitivity.deploy.graph.export.dynamic import AXES

SIDE = 128
CLASSES = 4


def _torchvision(name: str) -> Callable[[], tuple[nn.Module, list[Any]]]:
    def build() -> tuple[nn.Module, list[Any]]:
        from torchvision.models import detection

        sizes = {} if name.startswith("ssd") else {"min_size": SIDE, "max_size": SIDE}
        make = getattr(detection, name)
        model = make(weights=None, weights_backbone=None, num_classes=CLASSES, **sizes)
        return model.eval(), [([torch.rand(3, SIDE, SIDE)],) for _ in range(2)]

    return build


def _detr() -> tuple[nn.Module, list[Any]]:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"], layer_type="basic"
    )
    sizes = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        num_queries=8,
        num_labels=CLASSES,
        **sizes,
    )
    return DetrForObjectDetection(config).eval(), [torch.rand(1, 3, 64, 64) for _ in range(2)]


def _swin() -> tuple[nn.Module, list[Any]]:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
    return SwinModel(config).eval(), [torch.rand(1, 3, 32, 32) for _ in range(2)]


def _yolo() -> tuple[nn.Module, list[Any]]:
    from ultralytics import YOLO

    return YOLO("yolov8n.yaml").model.eval(), [torch.rand(1, 3, SIDE, SIDE) for _ in range(2)]


MODELS: dict[str, Callable[[], tuple[nn.Module, list[Any]]]] = {
    "swin (transformers)": _swin,
    "detr (transformers)": _detr,
    "yolov8n (ultralytics)": _yolo,
    **{
        name: _torchvision(name)
        for name in (
            "ssdlite320_mobilenet_v3_large",
            "retinanet_resnet50_fpn",
            "fcos_resnet50_fpn",
            "fasterrcnn_mobilenet_v3_large_320_fpn",
            "fasterrcnn_resnet50_fpn",
            "maskrcnn_resnet50_fpn",
        )
    },
}


def _calibrated(name: str) -> tuple[sv.Wrapped, sv.Scheme]:
    torch.manual_seed(0)
    model, images = MODELS[name]()
    wrapped = sv.wrap(model, images[0])
    assert sv.INT8.weights is not None
    recipe = replace(sv.INT8, name="int8, 7-bit weights", weights=replace(sv.INT8.weights, format="int7"))
    wrapped.calibrate(images, recipe)
    return wrapped, sv.Scheme.all(recipe)


def row_of_sizes(name: str) -> str:
    """One model: the parts that run with any number of samples and any image size, on each engine."""
    wrapped, scheme = _calibrated(name)
    cells = [name]
    for axis in AXES:
        for engine in ("openvino", "onnxruntime"):
            try:
                parts = wrapped.deploy(scheme, engine, dynamic=axis).parts
                cells.append(", ".join(part.path for part in parts) or "whole")
            except sv.errors.SensitivityError as error:
                cells.append(f"refused: {str(error)[:200]}")
    return f"| {' | '.join(cells)} |"


def row(name: str) -> str:
    """One model: its layers, how many are deployed and verified, and what stands in the way of the rest."""
    started = time.perf_counter()
    wrapped, scheme = _calibrated(name)
    deployed = wrapped.deploy(scheme, "openvino")
    record = wrapped.verify(deployed)
    counts_by_status = Counter(str(check.status) for check in record.layers)
    parts = "whole" if [part.path for part in deployed.parts] == [""] else f"{len(deployed.parts)} parts"
    counts = ", ".join(f"{count} {status}" for status, count in counts_by_status.most_common())
    for attempt in deployed.attempts[:2]:
        print(f"  {name}: not exported: {attempt}"[:300], flush=True)
    for reason, count in Counter(deployed.plan.left_out.values()).most_common(3):
        print(f"  {name}: left in float, {count}: {reason}"[:300], flush=True)
    for reason, count in Counter(c.reason for c in record.layers if c.status not in ("verified",)).most_common(3):
        print(f"  {name}: {count}: {reason}"[:300], flush=True)
    return f"| {name} | {len(record.layers)} | {parts} | {counts} | {time.perf_counter() - started:.0f} s |"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    sizes = "--sizes" in sys.argv
    heads = ("model", "layers", "exported", "what verify says", "time")
    if sizes:
        heads = ("model", "batch: OpenVINO", "ONNX Runtime", "size: OpenVINO", "ONNX Runtime")
    rows = []
    for name in [name for name in sys.argv[1:] if name != "--sizes"] or MODELS:
        try:
            rows.append(row_of_sizes(name) if sizes else row(name))
        except (sv.errors.SensitivityError, RuntimeError, TypeError, ValueError) as error:
            rows.append(f"| {name} | | not deployed: {type(error).__name__}: {str(error)[:200]} | | |")
        print(rows[-1], flush=True)
    print("\n".join(("", f"| {' | '.join(heads)} |", "|---|---|---|---|---|", *rows)))


if __name__ == "__main__":
    main()
