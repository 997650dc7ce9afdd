"""Batch-norm folding against the convolution and norm run one after the other, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensitivity.errors import ModelError
from sensitivity.quantize.fold import fold_batch_norm, fold_scale_shift, quantize_folded_weight, scale_shift
from sensitivity.quantize.weights import quantize_weight
from sensitivity.records import QuantSpec

INT8 = QuantSpec("int8", "per-channel")

CASES: dict[str, tuple[Any, ...]] = {  # name: layer, norm, input, output axis, groups
    "conv1d": (lambda: nn.Conv1d(6, 8, 3), nn.BatchNorm1d, (2, 6, 20), 0, 1),
    "conv2d": (lambda: nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d, (2, 6, 9, 9), 0, 1),
    "conv3d": (lambda: nn.Conv3d(6, 8, 2), nn.BatchNorm3d, (2, 6, 5, 5, 5), 0, 1),
    "grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d, (2, 6, 9, 9), 0, 2),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d, (2, 8, 9, 9), 0, 8),
    "transposed": (lambda: nn.ConvTranspose2d(6, 8, 3), nn.BatchNorm2d, (2, 6, 5, 5), 1, 1),
    "transposed grouped": (lambda: nn.ConvTranspose2d(6, 8, 3, groups=2), nn.BatchNorm2d, (2, 6, 5, 5), 1, 2),
    "transposed 1d": (lambda: nn.ConvTranspose1d(6, 9, 3, groups=3, bias=False), nn.BatchNorm1d, (2, 6, 5), 1, 3),
    "linear": (lambda: nn.Linear(6, 8), nn.BatchNorm1d, (20, 6), 0, 1),
}


class FrozenBatchNorm(nn.Module):
    """As torchvision and detectron2 write it: four buffers and an epsilon."""

    def __init__(self, channels: int, eps: float | None = 1e-5) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)
        if eps is not None:
            self.eps = eps


class SilentFrozenBatchNorm(FrozenBatchNorm):
    """As transformers writes it: the epsilon is a number in the forward."""

    def __init__(self, channels: int, inside: float) -> None:
        super().__init__(channels, eps=None)
        self._inside = (inside,)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        scale = self.weight.reshape(shape) * (self.running_var.reshape(shape) + self._inside[0]).rsqrt()
        return x * scale + (self.bias.reshape(shape) - self.running_mean.reshape(shape) * scale)


class BatchNormAct(nn.BatchNorm2d):
    """As timm writes it: the activation is inside the norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.act(super().forward(x))
        return activated


class SwitchableNorm(nn.Module):
    """Has all that a batch norm has, and more: no batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-5
        for name in ("weight", "bias", "mean_weight"):
            self.register_parameter(name, nn.Parameter(torch.ones(channels)))
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))


def trained(norm: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, tensor in norm.state_dict().items():
        if name in ("weight", "running_mean", "bias"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        elif name == "running_var":
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 4 + 1e-3)
    return norm.eval()


def build(case: str) -> tuple[Any, Any, Tensor, int, int]:
    make, norm_type, shape, output_axis, groups = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layer = make().eval()
        x = torch.randn(shape)
    channels = layer(x).shape[1]
    return layer, trained(norm_type(channels)), x, output_axis, groups


def with_weight(layer: Any, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    parameters = {"weight": weight} if layer.bias is None else {"weight": weight, "bias": torch.zeros_like(layer.bias)}
    out: Tensor = torch.func.functional_call(layer, parameters, (x,))
    return out if bias is None else out + bias.reshape(1, -1, *[1] * (out.dim() - 2))


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_a_folded_layer_computes_what_layer_and_norm_compute(case: str) -> None:
    layer, norm, x, output_axis, groups = build(case)
    folded = fold_scale_shift(norm)
    assert folded is not None
    weight, bias = fold_batch_norm(layer.weight, layer.bias, *folded, output_axis=output_axis, groups=groups)
    assert weight.dtype == bias.dtype == torch.float32
    layer, norm, x = layer.double(), norm.double(), x.double()
    exact_weight, exact_bias = fold_batch_norm(
        layer.weight, layer.bias, *folded, output_axis=output_axis, groups=groups
    )
    expected = norm(layer(x))
    torch.testing.assert_close(with_weight(layer, exact_weight, exact_bias, x), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(weight.double(), exact_weight, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(bias.double(), exact_bias, rtol=1e-6, atol=0.0)
    single = with_weight(layer.float(), weight, bias, x.float()).double()
    assert float((single - expected).norm() / expected.norm()) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("spec", [INT8, QuantSpec("int4", "per-channel"), QuantSpec("fp8_e4m3"), QuantSpec("int8")])
@pytest.mark.parametrize("case", CASES)
def test_folding_on_the_fly_computes_what_the_folded_and_quantized_layer_computes(case: str, spec: QuantSpec) -> None:
    layer, norm, x, output_axis, groups = build(case)
    folded = fold_scale_shift(norm)
    assert folded is not None
    scale, shift = folded
    weight, bias = fold_batch_norm(layer.weight, layer.bias, scale, shift, output_axis=output_axis, groups=groups)
    expected = with_weight(layer, quantize_weight(weight, spec, output_axis=output_axis), bias, x)
    stand_in = quantize_folded_weight(layer.weight, spec, scale, output_axis=output_axis, groups=groups)
    assert not torch.equal(stand_in, layer.weight)
    output = norm(with_weight(layer, stand_in, layer.bias, x))
    assert float((output - expected).norm() / expected.norm()) < 1e-5
    without_fold = norm(with_weight(layer, quantize_weight(layer.weight, spec, output_axis=output_axis), layer.bias, x))
    if spec.granularity == "per-tensor" or case == "transposed grouped":
        assert float((without_fold - expected).norm() / expected.norm()) > 1e-4  # where it matters, it matters


@torch.no_grad()
def test_channels_that_the_norm_switches_off_keep_their_weight() -> None:
    layer, norm, x, _, _ = build("conv2d")
    norm.weight[3] = 0.0
    norm.weight[5] = 1e-42  # its reciprocal overflows in float32
    folded = fold_scale_shift(norm)
    assert folded is not None
    result = quantize_folded_weight(layer.weight, INT8, folded[0])
    assert torch.equal(result[3], layer.weight[3])
    assert torch.isfinite(result).all()
    assert torch.isfinite(norm(with_weight(layer, result, layer.bias, x))).all()


def test_every_kind_of_batch_norm_is_known() -> None:
    tracking = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    norms: list[Any] = [nn.BatchNorm2d(4), nn.SyncBatchNorm(4), BatchNormAct(4), FrozenBatchNorm(4), tracking]
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    for norm in norms:
        trained(norm)
        folded = fold_scale_shift(norm)
        assert folded is not None
        expected = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        scale, shift = (value.float()[:, None, None] for value in folded)
        torch.testing.assert_close(x * scale + shift, expected)


def test_a_norm_without_affine_parameters_has_weight_one_and_bias_zero() -> None:
    folded = fold_scale_shift(nn.BatchNorm2d(4, affine=False, eps=0.25).eval())
    assert folded is not None
    torch.testing.assert_close(folded[0], torch.full((4,), 1.25**-0.5, dtype=torch.float64))
    assert not folded[1].any()


def test_scale_and_shift_are_those_of_the_formula() -> None:
    gamma, beta, mean, variance = torch.rand(4, 5, generator=torch.Generator().manual_seed(2))
    x = torch.linspace(-3, 3, 5, dtype=torch.float64)
    scale, shift = scale_shift(gamma, beta, mean, variance, 1e-3)
    torch.testing.assert_close(x * scale + shift, gamma * (x - mean) / (variance.double() + 1e-3).sqrt() + beta)


@pytest.mark.parametrize(
    "norm",
    [
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.InstanceNorm2d(4, affine=True),
        nn.BatchNorm2d(4, track_running_stats=False).eval(),
        nn.BatchNorm2d(4).train(),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True).train(),
        SwitchableNorm(4).eval(),
        FrozenBatchNorm(4, eps=None),
        nn.ReLU(),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_what_depends_on_its_input_or_is_not_known_is_not_folded(norm: nn.Module) -> None:
    assert fold_scale_shift(norm) is None


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 0.0375])
def test_a_frozen_norm_that_does_not_tell_its_epsilon_is_asked_for_it(epsilon: float) -> None:
    norm, x = SilentFrozenBatchNorm(4, epsilon), torch.randn(2, 4, 3, 3)
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    folded = fold_scale_shift(norm)
    assert folded is not None
    scale, shift = (factor.reshape(1, 4, 1, 1) for factor in folded)
    mean, variance, gamma, beta = (before[name].double() for name in ("running_mean", "running_var", "weight", "bias"))
    expected = F.batch_norm(x.double(), mean, variance, gamma, beta, eps=epsilon)
    assert torch.allclose(x.double() * scale + shift, expected, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())


def test_a_frozen_norm_that_computes_something_else_is_not_folded() -> None:
    class Other(SilentFrozenBatchNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).abs()

    assert fold_scale_shift(Other(4, 1e-5)) is None


def test_the_norm_of_another_layer_is_refused() -> None:
    scale = torch.ones(4, dtype=torch.float64)
    with pytest.raises(ModelError, match=r"norm has shape \(4,\), the convolution before it writes 8 channels"):
        fold_batch_norm(torch.ones(8, 2, 3, 3), None, scale, scale)
    with pytest.raises(ModelError, match="output_axis=2"):
        quantize_folded_weight(torch.ones(8, 2, 3, 3), INT8, scale, output_axis=2)


def test_nothing_is_changed_and_no_gradient_is_kept() -> None:
    layer, norm, _, _, _ = build("conv2d")
    before = [value.clone() for value in (*layer.state_dict().values(), *norm.state_dict().values())]
    folded = fold_scale_shift(norm)
    assert folded is not None
    results = (*folded, *fold_batch_norm(layer.weight, layer.bias, *folded))
    assert not any(result.requires_grad for result in (*results, quantize_folded_weight(layer.weight, INT8, folded[0])))
    after = (*layer.state_dict().values(), *norm.state_dict().values())
    assert all(torch.equal(tensor, other) for tensor, other in zip(before, after, strict=True))
