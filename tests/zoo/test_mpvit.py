"""MPViT against facts of the official model and independent arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.errors import ModelError
from sensitivity.zoo.mpvit import CONFIGS, HEADS, WINDOWS, FactorizedAttention, RelativePositionEncoding, build, load


@pytest.fixture(params=tuple(CONFIGS))
def published(request, shared_data: Path):
    """A size on the meta device and the facts computed from the official model of the same name."""
    facts = json.loads((shared_data / "mpvit" / f"{request.param}.json").read_text())
    return build(request.param, device="meta"), facts


def test_state_dict_has_the_published_keys_and_shapes_in_the_published_order(published):
    model, facts = published
    assert [(key, list(value.shape)) for key, value in model.state_dict().items()] == list(facts["state_dict"].items())
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["params"]


def test_calls_and_their_macs_are_the_published_ones_in_the_published_order(published):
    model, facts = published
    calls = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: calls.append(
                    (name, list(inputs[0].shape), list(output.shape), output.numel() * module.weight[0].numel())
                )
            )
    model(torch.empty(1, 3, 224, 224, device="meta"))
    assert calls == [(call["module"], call["in"], call["out"], call["macs"]) for call in facts["calls"]]
    assert sum(macs for *_, macs in calls) == facts["macs_of_conv_and_linear_224"]


def test_without_classes_it_gives_the_maps_of_the_four_stages(published):
    model, facts = published
    backbone = build(next(name for name in CONFIGS if CONFIGS[name] == model.config), classes=None, device="meta")
    maps = backbone(torch.empty(1, 3, 224, 224, device="meta"))
    assert [list(x.shape) for x in maps] == list(facts["stage_shapes"].values())[1:]


def test_images_of_any_size_give_logits():
    assert build("tiny", classes=7)(torch.rand(2, 3, 64, 96)).shape == (2, 7)


def test_attention_equals_the_equation_written_out_in_numpy():
    torch.manual_seed(0)
    channels, size = 2 * HEADS, (3, 4)
    attention = FactorizedAttention(channels, RelativePositionEncoding(2))
    tokens = torch.randn(2, 12, channels)
    expected = np.stack([_attention(attention, x.numpy(), size) for x in tokens])
    np.testing.assert_allclose(attention(tokens, size).numpy(), expected, atol=1e-6)


def _attention(attention, tokens, size):
    """CoaT's factorized attention with relative positions, for the tokens (L, C) of one image."""
    parameters = {name: value.numpy() for name, value in attention.state_dict().items()}
    qkv = tokens @ parameters["qkv.weight"].T + parameters["qkv.bias"]
    channels = tokens.shape[1]
    query, key, value = (qkv[:, i * channels : (i + 1) * channels] for i in range(3))
    exponent = np.exp(key - key.max(0))
    attended = np.zeros_like(query)
    for head in range(HEADS):
        own = slice(head * channels // HEADS, (head + 1) * channels // HEADS)
        softmax = exponent[:, own] / exponent[:, own].sum(0)
        attended[:, own] = query[:, own] @ (softmax.T @ value[:, own]) / np.sqrt(channels // HEADS)
    first = 0
    for index, (side, heads) in enumerate(WINDOWS):
        for offset in range(heads * channels // HEADS):
            kernel = parameters[f"crpe.conv_list.{index}.weight"][offset, 0]
            image = np.pad(value[:, first + offset].reshape(size), side // 2)
            windows = np.lib.stride_tricks.sliding_window_view(image, (side, side))
            bias = parameters[f"crpe.conv_list.{index}.bias"][offset]
            attended[:, first + offset] += query[:, first + offset] * ((windows * kernel).sum((2, 3)) + bias).reshape(
                -1
            )
        first += heads * channels // HEADS
    return attended @ parameters["proj.weight"].T + parameters["proj.bias"]


@pytest.fixture(scope="module")
def tiny_wrapped() -> sv.Wrapped:
    return sv.wrap(build("tiny", classes=None), torch.rand(1, 3, 64, 64))


def test_every_convolution_and_linear_is_a_layer_and_the_shared_ones_have_a_call_for_each_block(tiny_wrapped):
    model = build("tiny", classes=None)
    weighted = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert {layer.module for layer in tiny_wrapped.layers} == weighted
    assert tiny_wrapped.layers["mhca_stages.2.mhca_blks.0.cpe.proj"].calls == CONFIGS["tiny"].depths[2]


def test_a_stage_has_an_inverted_residual_beside_paths_of_attention(tiny_wrapped):
    paths = ("conv1.conv", "dwconv", "conv2.conv")
    inverted = [tiny_wrapped.layers[f"mhca_stages.1.InvRes.{path}"] for path in paths]
    assert [(layer.kind, layer.role) for layer in inverted] == [("mb", "expand"), ("mb", "depthwise"), ("mb", "exit")]
    attention = "mhca_stages.1.mhca_blks.2.MHCA_layers.1."
    parts = ("factoratt_crpe.qkv", "factoratt_crpe.proj", "mlp.fc1", "mlp.fc2")
    layers = [tiny_wrapped.layers[attention + part] for part in parts]
    assert [layer.role for layer in layers] == ["qkv", "proj", "expand", "exit"]
    assert {layer.kind for layer in layers} == {"att"}
    assert {layer.name.rpartition(":")[0] for layer in layers} == {"mhca_stages.1.mhca_blks.2:1"}


def test_a_checkpoint_comes_back_exactly_also_under_the_key_model_and_without_its_classifier(tmp_path):
    model = build("tiny", classes=5)
    torch.save({"model": model.state_dict()}, tmp_path / "tiny.pth")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(load("tiny", checkpoint=tmp_path / "tiny.pth", classes=5)(x), model(x))
    backbone = load("tiny", checkpoint=tmp_path / "tiny.pth", classes=None)
    assert torch.equal(model.cls_head(backbone(x)[-1]), model(x))


def test_weights_of_another_size_are_refused(tmp_path):
    torch.save(build("tiny").state_dict(), tmp_path / "tiny.pth")
    with pytest.raises(ModelError, match=r"does not hold the weights of MPViT 'xsmall': .*mis-shaped"):
        load("xsmall", checkpoint=tmp_path / "tiny.pth")


@pytest.mark.parametrize("name", ["huge", None, 3])
def test_a_size_that_does_not_exist_is_told_with_those_that_do(name):
    with pytest.raises(ModelError, match=r"no MPViT is called name=.*'tiny', 'xsmall', 'small', 'base'"):
        build(name)


@pytest.mark.parametrize("classes", [0, -1, True, 2.5, "ten"])
def test_a_number_of_classes_that_makes_no_sense_is_told(classes):
    with pytest.raises(ModelError, match="is no number of classes"):
        build("tiny", classes=classes)
