"""Norms against numpy and torch, and their exchange in a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.errors import ModelError
from sensitivity.zoo.norms import KINDS, EvoNormS0, FrozenBatchNorm, SwitchableNorm, convert


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12)
    )
    for norm in (net[1], net[4]):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(tensor, mean=0.5)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return net.eval()


def test_evonorm_s0_is_its_formula():
    torch.manual_seed(0)
    norm = EvoNormS0(6, groups=3)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 6, 4, 5) * 3 + 1
    v, weight, bias = (parameter.numpy()[None, :, None, None] for parameter in (norm.v, norm.weight, norm.bias))
    pixels = x.numpy()
    variance = pixels.reshape(2, 3, 2 * 4 * 5).var(-1).repeat(2, axis=1)[:, :, None, None]
    expected = pixels / (1 + np.exp(-v * pixels)) / np.sqrt(variance + 1e-5) * weight + bias
    np.testing.assert_allclose(norm(x).numpy(), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("share", "reference"), [(0, "instance"), (1, "layer"), (2, "batch")])
@pytest.mark.parametrize("training", [False, True])
def test_a_switchable_norm_with_one_share_is_torchs_norm_of_that_kind(share, reference, training):
    torch.manual_seed(0)
    norm = SwitchableNorm(8).train(training)
    reference_norm = KINDS[reference](8, 1e-5, 2).train(training)
    for weights in (norm.mean_weight, norm.var_weight):
        weights.copy_(torch.tensor([100.0 if i == share else 0.0 for i in range(3)]))
    for module in (norm, reference_norm):
        module.weight.copy_(torch.linspace(0.5, 2, 8))
        module.bias.copy_(torch.linspace(-1, 1, 8))
    x = torch.randn(3, 8, 5, 5) * 2 + 1
    torch.testing.assert_close(norm(x), reference_norm(x), rtol=1e-5, atol=1e-5)


def test_a_switchable_norm_mixes_as_its_softmax_says():
    norm = SwitchableNorm(2).eval()
    norm.mean_weight.copy_(torch.log(torch.tensor([1.0, 2.0, 1.0])))
    norm.var_weight.copy_(torch.log(torch.tensor([2.0, 1.0, 1.0])))
    norm.running_mean.copy_(torch.tensor([4.0, -4.0]))
    norm.running_var.copy_(torch.tensor([8.0, 16.0]))
    x = torch.tensor([[[[0.0, 2.0]], [[4.0, 8.0]]]])  # means 1, 6; variances 1, 4; of the layer 3.5 and 8.75
    mean = np.array([1 / 4 + 3.5 / 2 + 4 / 4, 6 / 4 + 3.5 / 2 - 4 / 4])
    variance = np.array([1 / 2 + 8.75 / 4 + 8 / 4, 4 / 2 + 8.75 / 4 + 16 / 4])
    expected = (x.numpy()[0, :, 0] - mean[:, None]) / np.sqrt(variance[:, None] + 1e-5)
    np.testing.assert_allclose(norm(x).numpy()[0, :, 0], expected, rtol=1e-6)


def test_running_statistics_of_a_switchable_norm_move_in_training_only():
    norm = SwitchableNorm(2)
    norm.eval()(torch.randn(2, 2, 3, 3))
    assert norm.running_mean.tolist() == [0.0, 0.0]
    norm.train()(torch.ones(2, 2, 3, 3))
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.1, 0.1]))
    torch.testing.assert_close(norm.running_var, torch.tensor([0.9, 0.9]))


@pytest.mark.parametrize("kind", ["batch", "frozen-batch", "sync-batch"])
def test_batch_kinds_keep_the_outputs(net, kind):
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(convert(net, kind)(x), net(x))


@pytest.mark.parametrize("kind", tuple(KINDS))
def test_a_copy_has_every_norm_replaced_and_the_model_stays_as_it_was(net, kind):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    converted = convert(net.double().requires_grad_(False), kind)
    expected = type(KINDS[kind](8, 1e-5, 2))
    assert [type(converted[1]), type(converted[4])] == [expected, expected]
    assert [type(net[1]), type(net[4])] == [nn.BatchNorm2d, nn.BatchNorm2d]
    assert torch.equal(converted[1].weight, net[1].weight)
    assert converted(torch.randn(1, 3, 9, 9, dtype=torch.float64)).dtype == torch.float64
    assert not any(module.training for module in converted.modules())
    assert all(torch.equal(before[name].double(), tensor.double()) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("kind", tuple(KINDS))
def test_a_converted_model_is_swept_with_a_norm_behind_each_convolution(net, kind):
    net = nn.Sequential(net, nn.Conv2d(12, 4, 1))
    wrapped = sv.wrap(convert(net, kind), torch.randn(1, 3, 9, 9))
    assert [layer.module for layer in wrapped.layers] == ["0.0", "0.3", "1"]
    assert [layer.norm is not None for layer in wrapped.layers] == [True, True, False]


def test_norms_of_other_libraries_and_dimensions_are_replaced_and_norms_over_tokens_are_not():
    class LibraryFrozenBatchNorm2d(FrozenBatchNorm):
        pass

    norms = convert(nn.ModuleList([LibraryFrozenBatchNorm2d(4), nn.BatchNorm1d(4), nn.LayerNorm(4)]), "batch")
    assert [type(norm) for norm in norms] == [nn.BatchNorm2d, nn.BatchNorm1d, nn.LayerNorm]


def test_a_shared_norm_stays_shared():
    norm = nn.BatchNorm2d(4)
    converted = convert(nn.ModuleDict({"a": nn.Sequential(norm), "b": nn.Sequential(norm)}), "group")
    assert converted["a"][0] is converted["b"][0]


def test_a_model_without_norms_and_a_kind_that_does_not_exist_are_told(net):
    with pytest.raises(ModelError, match="Conv2d has no norm over channels to replace"):
        convert(nn.Conv2d(1, 1, 1), "group")
    with pytest.raises(ModelError, match=r"no norm is called kind='gruop'. Choose one of: 'batch'"):
        convert(net, "gruop")
    with pytest.raises(TypeError, match=r"model='net' is no torch.nn.Module"):
        convert("net", "group")
