"""Patches times filters are what torch computes, for every geometry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sensitivity.quantize.cures.patches import Geometry, Patches, filters_of, geometry_of, single_images, weight_of
from tests.quantize.cures.layers_to_cure import LAYERS

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

EVERY = 10**6


def made(name: str) -> tuple[nn.Module, Geometry, Tensor, Tensor]:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make().requires_grad_(requires_grad=False)
    geometry = geometry_of(layer)
    assert geometry is not None
    return layer, geometry, layer._parameters["weight"], torch.randn(shape)  # type: ignore[return-value]


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_filters_are_the_output_of_the_layer(name: str) -> None:
    layer, geometry, weight, x = made(name)
    outputs = layer(x)
    if layer._parameters["bias"] is not None:
        layer._parameters["bias"].zero_()
        outputs = layer(x)
    channels_first = outputs.movedim(-1, 1) if isinstance(layer, nn.Linear) and outputs.dim() > 2 else outputs
    for image, expected in zip(single_images(x, geometry), channels_first, strict=True):
        patches = Patches(image, geometry).sample(EVERY, 0)
        product = filters_of(weight, geometry) @ patches
        torch.testing.assert_close(product.reshape(len(expected), -1), expected.reshape(len(expected), -1))


@pytest.mark.parametrize("name", LAYERS)
def test_their_total_is_the_sum_of_all_and_a_sample_is_a_part_of_them(name: str) -> None:
    _, geometry, _, x = made(name)
    patches = Patches(next(single_images(x, geometry)), geometry)
    every = patches.sample(EVERY, 3)
    assert every.shape[2] == patches.positions
    torch.testing.assert_close(patches.total(), every.double().sum(2))
    some = patches.sample(max(1, patches.positions // 2), 1)
    assert 0 < some.shape[2] <= max(1, patches.positions // 2)
    columns = {tuple(column) for column in every.flatten(0, 1).T.tolist()}
    assert {tuple(column) for column in some.flatten(0, 1).T.tolist()} <= columns


@pytest.mark.parametrize("name", LAYERS)
def test_filters_turn_back_into_the_weight(name: str) -> None:
    _, geometry, weight, _ = made(name)
    assert torch.equal(weight_of(filters_of(weight, geometry), weight.shape, geometry), weight)


def test_a_module_that_computes_in_a_way_of_its_own_has_no_known_geometry() -> None:
    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.relu())

    assert geometry_of(Own(3, 3, 1)) is None
    assert geometry_of(nn.Embedding(3, 3)) is None
