"""Names from module paths alone."""

from __future__ import annotations

import pytest

from sensitivity.errors import ModelError
from sensitivity.layers.names import name_layers


def test_a_number_in_the_path_is_the_block_and_what_stands_before_it_the_stage() -> None:
    paths = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "backbone.layer3.0.conv1", "fc"]
    names = ["conv1:0:0", "layer1:0:0", "layer1:0:1", "layer1:1:0", "backbone.layer3:0:0", "fc:0:0"]
    assert name_layers(paths) == names


def test_a_row_of_blocks_inside_a_numbered_stage_gives_the_block_number() -> None:
    paths = [f"stages.{s}.blocks.{b}.{c}" for s in (0, 1) for b in (0, 1) for c in ("conv1", "conv2")]
    names = name_layers(paths)
    assert names[:5] == ["stages.0:0:0", "stages.0:0:1", "stages.0:1:0", "stages.0:1:1", "stages.1:0:0"]


def test_a_sequential_inside_a_block_is_no_row_of_blocks() -> None:
    paths = ["features.0.0", "features.1.conv.0.0", "features.1.conv.1", "features.2.conv.0.0", "features.2.conv.1"]
    assert name_layers(paths) == ["features:0:0", "features:1:0", "features:1:1", "features:2:0", "features:2:1"]


def test_blocks_of_one_layer_count_as_the_blocks_of_the_stages_beside_them_do() -> None:
    deep = [f"features.1.{i}.block.0.0" for i in (0, 1)] + [f"features.2.0.block.{i}.0" for i in (0, 1)]
    assert name_layers(deep) == ["features.1:0:0", "features.1:1:0", "features.2:0:0", "features.2:0:1"]
    flat = [
        "blocks.0.0.conv",
        "blocks.0.1.conv",
        *[f"blocks.1.{i}.{c}" for i in (0, 1) for c in ("conv_pw", "conv_dw")],
    ]
    assert name_layers(flat)[:3] == ["blocks.0:0:0", "blocks.0:1:0", "blocks.1:0:0"]


def test_numbers_behind_the_number_of_a_stage_count_its_blocks() -> None:
    paths = [
        f"trunk.block{s}.block{s}-{b}.f.{c}.0" for s, blocks in ((1, 1), (2, 2)) for b in range(blocks) for c in "abc"
    ]
    assert name_layers(paths)[::3] == ["trunk.block1:0:0", "trunk.block2:0:0", "trunk.block2:1:0"]


def test_a_row_beside_blocks_without_rows_is_part_of_a_block() -> None:
    paths = ["model.0.conv", *[f"model.1.m.{i}.conv{c}" for i in (0, 1) for c in (1, 2)], "model.1.sc.conv"]
    paths += ["model.2.cv1.conv", "model.2.cv2.conv"]
    assert name_layers(paths) == ["model:0:0", *[f"model:1:{i}" for i in range(5)], "model:2:0", "model:2:1"]


def test_the_rows_of_a_decoder_are_stages_though_layers_stand_around_them() -> None:
    rows = [f"model.3.decoder.layers.{i}.{c}" for i in (0, 1) for c in ("attn.qkv", "fc1")]
    rows += [f"model.3.box_head.{i}.layers.{c}" for i in (0, 1) for c in (0, 1)]
    paths = ["model.0.conv", "model.1.cv1.conv", "model.1.cv2.conv", "model.3.enc_output", *rows, "model.3.score_head"]
    names = dict(zip(paths, name_layers(paths), strict=True))
    assert names["model.3.decoder.layers.1.fc1"] == "model.3.decoder.layers:1:1"
    assert names["model.3.box_head.1.layers.0"] == "model.3.box_head:1:0"
    assert names["model.3.enc_output"] == "model.3.enc_output:0:0"


def test_a_stage_whose_blocks_hold_blocks_is_a_stage_though_layers_stand_around_them() -> None:
    inner = ["cpe.proj", *[f"layers.{i}.{c}" for i in (0, 1) for c in ("qkv", "proj")]]
    stage = ["conv1.conv", *[f"paths.{p}.{layer}" for p in (0, 1) for layer in inner], "aggregate.conv"]
    paths = [f"stages.{s}.{layer}" for s in (0, 1) for layer in stage]
    names = dict(zip(paths, name_layers(paths), strict=True))
    assert names["stages.1.paths.0.layers.1.proj"] == "stages.1.paths.0:1:1"
    assert names["stages.1.paths.0.cpe.proj"] == "stages.1.paths.0.cpe:0:0"
    assert names["stages.1.aggregate.conv"] == "stages.1.aggregate:0:0"


def test_wrappers_of_single_layers_are_one_block_of_what_holds_nothing_else() -> None:
    mixed = [f"Mixed_5b.{branch}.conv" for branch in ("branch1x1", "branch5x5_1", "branch_pool")]
    assert name_layers(mixed) == ["Mixed_5b:0:0", "Mixed_5b:0:1", "Mixed_5b:0:2"]
    head = ["classifier.cbr.0", "classifier.scale.1", "classifier.low_classifier"]
    assert name_layers(head) == ["classifier:0:0", "classifier:0:1", "classifier:0:2"]
    beside = ["inception3a.branch1.conv", "inception3a.branch2.0.conv", "inception3a.branch2.1.conv"]
    assert name_layers(beside)[0] == "inception3a.branch1:0:0"
    assert name_layers(["conv1.conv", "conv2.conv"]) == ["conv1:0:0", "conv2:0:0"]


def test_a_plain_row_of_layers_is_one_block() -> None:
    assert name_layers(["0", "2", "4"]) == ["layers:0:0", "layers:0:1", "layers:0:2"]
    assert name_layers(["head.0", "head.3"]) == ["head:0:0", "head:0:1"]


def test_names_stay_unique_where_two_paths_fall_into_one_block() -> None:
    names = name_layers(["a.b", "a.c", "a.b.d", "a"])
    assert len(set(names)) == 4


def test_efficientvit_paths_get_the_names_of_the_thesis() -> None:
    paths = [
        "image_encoder.backbone.stages.0.op_list.0.conv",
        "image_encoder.backbone.stages.4.op_list.1.context_module.main.qkv.conv",
        "image_encoder.backbone.stages.4.op_list.1.context_module.main.aggreg.0.0",
        "image_encoder.neck.input_ops.0.op_list.0.conv",
        "image_encoder.neck.input_ops.1.op_list.0.conv",
        "image_encoder.neck.middle.op_list.0.main.spatial_conv.conv",
        "image_encoder.neck.middle.op_list.0.main.point_conv.conv",
        "image_encoder.neck.output_ops.0.op_list.0.conv",
    ]
    names = ["stage0:0:0", "stage4:1:0", "stage4:1:1", "neck:0:0", "neck:1:0", "neck:2:0", "neck:2:1", "neck:3:0"]
    assert name_layers(paths) == names


def test_a_user_can_bring_a_naming_scheme_and_leave_the_rest_to_ours() -> None:
    names = name_layers(["a.x", "b"], naming=lambda paths: [("mine", 7) if p == "a.x" else None for p in paths])
    assert names == ["mine:7:0", "b:0:0"]


def test_a_naming_scheme_must_place_every_path() -> None:
    with pytest.raises(ModelError, match="gave 1 places for 2 modules"):
        name_layers(["a", "b"], naming=lambda paths: [("s", 0)])
