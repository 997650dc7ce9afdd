"""Kinds and roles by structure, on twins of the blocks that families of networks are made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.layers.table import LayerTable
from tests.layers import kinds_models as twins

WIDTH = 8


class Between(nn.Module):
    """A block between a stem and a 3x3 head, so that it is neither the first nor the last thing."""

    def __init__(self, block: nn.Module, out: int = WIDTH) -> None:
        super().__init__()
        self.stem, self.block, self.head = twins.conv(3, WIDTH, 3), block, nn.Conv2d(out, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)))


def layers_of(model: nn.Module, size: int = 4) -> LayerTable:
    return sv.wrap(model.eval(), torch.rand(1, 3, size, size)).layers


def read(model: nn.Module) -> dict[str, str]:
    """Kind and role by the path in the block."""
    return {
        layer.module.removeprefix("block.").removesuffix(".0"): f"{layer.kind} {layer.role}"
        for layer in layers_of(model)
        if layer.module.startswith("block.")
    }


def test_the_bottlenecks_of_c2f_are_residual_blocks_inside_a_cross_stage_block() -> None:
    wrapped = layers_of(Between(twins.C2f(WIDTH, WIDTH // 2)))
    kinds = {layer.module: layer.kind for layer in wrapped}
    assert kinds["block.cv1.0"] == kinds["block.cv2.0"] == "csp"
    assert {kind for path, kind in kinds.items() if path.startswith("block.m")} == {"res"}
    assert not any("exit" in layer.flags for layer in wrapped)  # an activation stands before each add
    assert kinds["stem.0"] == kinds["head"] == "independent"


@pytest.mark.parametrize("block", [twins.C3(WIDTH, WIDTH // 2), twins.Elan(WIDTH, WIDTH // 2)], ids=["C3", "ELAN"])
def test_a_branch_that_goes_by_and_a_1x1_over_both_is_a_cross_stage_block(block: nn.Module) -> None:
    kinds = {path: kind.split()[0] for path, kind in read(Between(block)).items() if not path.startswith("m.")}
    assert set(kinds.values()) == {"csp"}


@pytest.mark.parametrize("block", [twins.Branches(WIDTH, 4), twins.Pyramid(WIDTH, 4)], ids=["branches", "pyramid"])
def test_parallel_branches_and_the_levels_of_a_decoder_are_no_cross_stage_block(block: nn.Module) -> None:
    assert set(read(Between(block)).values()) == {"independent conv"}


@pytest.mark.parametrize("skips", [True, False])
def test_squeeze_and_excitation_is_the_gate_of_its_inverted_residual(skips: bool) -> None:
    roles_read = read(Between(twins.Inverted(WIDTH, skips=skips), WIDTH if skips else 2 * WIDTH))
    roles = {"expand": "expand", "dw": "depthwise", "fc1": "gate", "fc2": "gate", "project": "exit"}
    assert roles_read == {path: f"mb {role}" for path, role in roles.items()}


@pytest.mark.parametrize("linear", [True, False])
def test_convnext_is_an_inverted_residual_whether_linear_or_1x1(linear: bool) -> None:
    assert read(Between(twins.ConvNext(WIDTH, linear=linear))) == {
        "dw": "mb depthwise",
        "fc1": "mb expand",
        "fc2": "mb exit",
    }


MERGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "x - f(x)": lambda x, y: x - y,
    "f(x) - x": lambda x, y: y - x,
    "rsub": lambda x, y: torch.rsub(y, x),
    "alpha": lambda x, y: torch.add(x, y, alpha=0.5),
    "x + (-f(x))": lambda x, y: x + (-y),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "lerp by a constant": lambda x, y: torch.lerp(y, x, torch.full((WIDTH, 1, 1), 0.3)),
    "addcmul": lambda x, y: torch.addcmul(x, y, torch.full((WIDTH, 1, 1), 0.3)),
    "sum of a stack": lambda x, y: torch.stack([x, y]).sum(0),
    "mean of a stack": lambda x, y: torch.stack([y, x], -1).mean(dim=-1),
    "Python's sum": lambda x, y: sum([x, y]),  # type: ignore[dict-item, return-value]
    "Python's sum, the branch first": lambda x, y: sum([y, x]),  # type: ignore[dict-item, return-value]
}


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES)
def test_a_skip_connection_makes_an_exit_however_the_sum_is_written(merge: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert read(Between(twins.Merged(WIDTH, merge))) == {"first": "fmb expand", "last": "fmb exit"}


NO_MERGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda x, y: x * y,
    "lerp by what is computed": lambda x, y: torch.lerp(x, y, x.sigmoid()),
    "addcmul of two that are computed": lambda x, y: torch.addcmul(x, y, x),
    "sum over another dimension": lambda x, y: torch.stack([x, y]).sum(1),
    "maximum": lambda x, y: torch.maximum(x, y),
    "activation between": lambda x, y: x - y.relu(),
}


@pytest.mark.parametrize("merge", NO_MERGES.values(), ids=NO_MERGES)
def test_what_adds_no_branch_to_its_input_makes_no_exit(merge: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert not any("exit" in layer.flags for layer in layers_of(Between(twins.Merged(WIDTH, merge))))


@pytest.mark.parametrize("shift", [0, 1])
def test_attention_in_windows_has_the_same_roles_shifted_and_not(shift: int) -> None:
    roles = {"q": "qkv", "k": "qkv", "v": "qkv", "proj": "proj", "fc1": "expand", "fc2": "exit"}
    assert read(Between(twins.Attention(WIDTH, shift=shift))) == {path: f"att {role}" for path, role in roles.items()}


def test_keys_and_values_of_a_reduced_image_are_no_scaling_of_linear_attention() -> None:
    roles = read(Between(twins.Attention(WIDTH, reduce=True)))
    assert [roles[path] for path in ("q", "k", "v", "sr")] == ["att qkv", "att qkv", "att qkv", "att conv"]
    assert not any(
        "attention-pointwise" in layer.flags for layer in layers_of(Between(twins.Attention(8, reduce=True)))
    )


def test_layers_that_read_constants_alone_make_positions_and_are_no_stem() -> None:
    layers = layers_of(Between(twins.Attention(WIDTH, biased=True)))
    assert [layer.role for layer in layers if ".bias." in layer.module] == ["position", "position"]
    assert [layer.module for layer in layers if "stem" in layer.flags] == ["stem.0"]


def test_deformable_attention_is_attention() -> None:
    roles = {"value": "qkv", "offsets": "qkv", "weights": "qkv", "output": "proj"}
    assert read(Between(twins.Deformable(WIDTH))) == {path: f"att {role}" for path, role in roles.items()}


def test_queries_that_are_parameters_attend_and_a_product_at_the_end_does_not() -> None:
    layers = layers_of(nn.Sequential(twins.conv(3, WIDTH), twins.Queries(WIDTH)))
    roles = {layer.module.removeprefix("1."): layer.role for layer in layers if layer.module.startswith("1.")}
    assert [roles[path] for path in "qkvo"] == ["qkv", "qkv", "qkv", "proj"]
    assert (roles["pixels"], roles["embed"]) == ("output", "output")


def test_scores_of_two_levels_that_are_added_are_outputs_and_no_block() -> None:
    layers = layers_of(twins.TwoLevels(WIDTH))
    roles = {layer.module: (layer.kind, layer.role) for layer in layers}
    assert roles["low_scores"] == roles["high_scores"] == ("independent", "output")
    assert roles["cbr.0"] == ("independent", "conv")
    assert roles["scale"] == ("independent", "gate")
    assert roles["deeper.0.project.0"] == ("mb", "exit")


def test_feature_maps_that_are_returned_and_read_on_are_no_outputs_but_boxes_are() -> None:
    layers = layers_of(twins.Levels(WIDTH))
    assert [layer.module for layer in layers if "output" in layer.flags] == ["boxes", "refine"]
