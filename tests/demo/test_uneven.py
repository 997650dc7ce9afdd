"""The demo's network breaks in int8 because of its ranges, and computes what it did."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import sensitivity as sv
from sensitivity.demo import uneven
from sensitivity.demo.run import WEIGHTS, uneven_sam
from sensitivity.demo.scenes import CALIBRATION_SEED, draw_scene
from sensitivity.zoo.efficientvit_sam import EfficientViTSam, load


@pytest.fixture(scope="module")
def trained() -> EfficientViTSam:
    return load("tiny", checkpoint=WEIGHTS)


@pytest.fixture(scope="module")
def images(trained: EfficientViTSam) -> Tensor:
    return torch.cat([trained.preprocess(draw_scene(CALIBRATION_SEED, index)[0]) for index in range(4)])


def sqnr_db(reference: Tensor, other: Tensor) -> float:
    return float(10 * torch.log10(reference.square().sum() / (reference - other).square().sum()))


@torch.no_grad()
def test_channels_of_the_sums_of_blocks_grow_and_the_outputs_differ_by_rounding_alone(
    trained: EfficientViTSam, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uneven, "BETWEEN", {})
    encoder = copy.deepcopy(trained.image_encoder)
    uneven.make_uneven(encoder, images)
    assert sqnr_db(trained.image_encoder(images), encoder(images)) > 100.0
    for stage, gain in uneven.STREAMS.items():
        before, after = (net.backbone(images)[f"stage{stage}"] for net in (trained.image_encoder, encoder))
        scaled = before.clone()
        scaled[:, : uneven.CHANNELS] *= gain
        assert torch.allclose(after, scaled, rtol=1e-3, atol=1e-3 * gain)


@torch.no_grad()
def test_channels_after_a_gelu_grow_and_the_outputs_hardly_change(trained: EfficientViTSam, images: Tensor) -> None:
    encoder = copy.deepcopy(trained.image_encoder)
    uneven.make_uneven(encoder, images)
    assert sqnr_db(trained.image_encoder(images), encoder(images)) > 20.0
    largest: dict[str, Tensor] = {}
    for block, _, reader in uneven.BETWEEN:
        layer = encoder.get_submodule(f"{block}.{reader}")
        layer.register_forward_pre_hook(lambda _, x, name=block + reader: largest.update({name: x[0].amax((0, 2, 3))}))
    encoder(images)
    assert len(largest) == len(uneven.BETWEEN)
    for of_channels in largest.values():
        assert int((of_channels > 20 * of_channels.median()).sum()) == uneven.CHANNELS


@torch.no_grad()
def test_int8_breaks_the_uneven_network_and_not_the_trained_one(trained: EfficientViTSam, images: Tensor) -> None:
    sam, calibration = uneven_sam()
    noise = {}
    for name, encoder in {"trained": trained.image_encoder, "uneven": sam.image_encoder}.items():
        reference = encoder(images)
        wrapped = sv.wrap(encoder, calibration[0])
        wrapped.calibrate(calibration[:4], sv.INT8)
        with wrapped.quantized(sv.Scheme.all(sv.INT8)) as model:
            noise[name] = sqnr_db(reference, model(images))
    assert noise["trained"] > 20.0
    assert noise["uneven"] < 5.0
