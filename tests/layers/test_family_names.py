"""Names of the trees that well-known families have, one golden file for all: read by eye, and told by a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from sensitivity.layers.names import name_layers

FAMILIES: dict[str, list[str]] = {
    "YOLO (ultralytics)": [
        "model.0.conv",
        *[f"model.2.{part}.conv" for part in ("cv1", "m.0.cv1", "m.0.cv2", "cv2")],
        *[f"model.9.{part}.conv" for part in ("cv1", "cv2")],
        *[
            f"model.22.{branch}.{level}.{part}"
            for level in (0, 1)
            for branch in ("cv2", "cv3")
            for part in ("0.conv", "1.conv", "2")
        ],
        "model.22.dfl.conv",
    ],
    "ConvNeXt (timm)": [
        "stem.0",
        *[f"stages.0.blocks.{i}.{part}" for i in (0, 1) for part in ("conv_dw", "mlp.fc1", "mlp.fc2")],
        "stages.1.downsample.1",
        *[f"stages.1.blocks.{i}.{part}" for i in (0, 1) for part in ("conv_dw", "mlp.fc1", "mlp.fc2")],
        "head.fc",
    ],
    "DenseNet (torchvision)": [
        "features.conv0",
        *[f"features.denseblock1.denselayer{i}.conv{c}" for i in (1, 2) for c in (1, 2)],
        "features.transition1.conv",
        *[f"features.denseblock2.denselayer{i}.conv{c}" for i in (1, 2) for c in (1, 2)],
        "classifier",
    ],
    "ViT (torchvision)": [
        "conv_proj",
        *[
            f"encoder.layers.encoder_layer_{i}.{part}"
            for i in (0, 1)
            for part in ("self_attention", "self_attention.out_proj", "mlp.0", "mlp.3")
        ],
        "heads.head",
    ],
    "Swin (torchvision)": [
        "features.0.0",
        *[f"features.1.{i}.{part}" for i in (0, 1) for part in ("attn.qkv", "attn.proj", "mlp.0", "mlp.3")],
        "features.2.reduction",
        *[f"features.3.{i}.{part}" for i in (0, 1) for part in ("attn.qkv", "attn.proj", "mlp.0", "mlp.3")],
        "head",
    ],
    "ResNet with an FPN (torchvision)": [
        "backbone.body.conv1",
        *[f"backbone.body.layer1.{i}.conv{c}" for i in (0, 1) for c in (1, 2, 3)],
        "backbone.body.layer2.0.conv1",
        "backbone.body.layer2.0.downsample.0",
        "backbone.fpn.inner_blocks.0.0",
        "backbone.fpn.inner_blocks.1.0",
        "backbone.fpn.layer_blocks.0.0",
        "rpn.head.conv.0.0",
        "rpn.head.cls_logits",
        "roi_heads.box_head.fc6",
        "roi_heads.box_predictor.cls_score",
        "roi_heads.mask_head.0.0",
        "roi_heads.mask_head.1.0",
        "roi_heads.mask_predictor.conv5_mask",
    ],
    "DETR (transformers)": [
        "model.input_projection",
        *[
            f"model.encoder.layers.{i}.{part}"
            for i in (0, 1)
            for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "fc1", "fc2")
        ],
        "class_labels_classifier",
        "bbox_predictor.layers.0",
        "bbox_predictor.layers.1",
    ],
}


REAL = sorted((Path(__file__).parents[1] / "goldens" / "families").glob("*.txt"))
"""Layers of real networks; ``tests/tasks/connectors/test_family_names.py`` writes them and checks kinds and flags."""


def read_layers(file: Path) -> tuple[list[str], list[str]]:
    """Module paths and names in execution order; modules that are no layers are left out."""
    rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    layers = [row for row in rows if row[0] != "-"]
    return [row[1] for row in layers], [row[0] for row in layers]


def doubled(names: Iterable[str]) -> list[tuple[str, str]]:
    """Blocks that hold what is a stage by itself as well."""
    places = {tuple(name.rsplit(":", 2)[:2]) for name in names}
    stages = {stage for stage, _ in places}
    return [(stage, block) for stage, block in places if any(f"{s}.".startswith(f"{stage}.{block}.") for s in stages)]


def text_of(families: dict[str, list[str]]) -> str:
    """One line a layer: its path and its name."""
    lines = []
    for family, paths in families.items():
        lines += [family, *(f"  {path:<56}{name}" for path, name in zip(paths, name_layers(paths), strict=True)), ""]
    return "\n".join(lines)


def test_families_have_the_names_of_the_golden_file(golden: Callable[[str, str], None]) -> None:
    golden("family_names.txt", text_of(FAMILIES))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_block_of_a_stage_is_a_stage_as_well(family: str) -> None:
    assert doubled(name_layers(FAMILIES[family])) == []


@pytest.mark.parametrize("file", REAL, ids=[file.stem for file in REAL])
def test_a_real_network_has_the_names_of_its_golden_file(file: Path) -> None:
    paths, names = read_layers(file)
    assert name_layers(paths) == names
    assert doubled(names) == []


def test_sibling_branches_are_stages_of_their_own() -> None:
    names = dict(zip(FAMILIES["YOLO (ultralytics)"], name_layers(FAMILIES["YOLO (ultralytics)"]), strict=True))
    assert names["model.22.cv2.0.0.conv"] == "model.22.cv2:0:0"
    assert names["model.22.cv3.1.2"] == "model.22.cv3:1:2"


def test_a_block_with_a_row_in_its_middle_stays_one_block() -> None:
    paths = ["model.2.cv1.conv", "model.2.m.0.cv1.conv", "model.2.m.0.cv2.conv", "model.2.cv2.conv"]
    assert name_layers(paths) == [f"model:2:{number}" for number in range(4)]


def test_a_number_behind_layer_or_block_counts_from_zero_and_a_lone_one_does_not_count() -> None:
    rows = [f"encoder.layers.encoder_layer_{i}.{part}" for i in (0, 1) for part in ("attention", "mlp.0")]
    assert name_layers(rows)[2] == "encoder.layers:1:0"
    dense = [f"features.denseblock1.denselayer{i}.conv{c}" for i in (1, 2) for c in (1, 2)]
    assert name_layers(dense)[2] == "features.denseblock1:1:0"
    assert name_layers(["body.layer4.conv1", "body.layer4.conv2"])[1] == "body.layer4:0:1"
