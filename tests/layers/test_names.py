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
