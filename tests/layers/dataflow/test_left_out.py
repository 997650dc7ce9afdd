"""Weights that are no layers, or cannot be exchanged, have a row with the reason, and the other layers are measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sensitivity as sv

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def scripted(child: nn.Module) -> nn.Module:
    return torch.jit.script(child)  # type: ignore[no-any-return, no-untyped-call]


def traced(child: nn.Module) -> nn.Module:
    return torch.jit.trace(child, torch.rand(2, 8))  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize("compiled", [scripted, traced])
def test_a_part_that_torch_jit_compiled_is_left_out_and_the_others_are_measured(
    compiled: Callable[[nn.Module], nn.Module],
) -> None:
    torch.manual_seed(0)
    child = nn.Linear(8, 8)
    model = nn.Sequential(nn.Linear(8, 8), compiled(child), nn.Linear(8, 3)).eval()
    x = torch.randn(8, 8)
    with torch.no_grad():
        expected = nn.Sequential(model[0], child, model[2])(x)
    wrapped = sv.wrap(model, x[:1])
    wrapped.calibrate(x, sv.INT8)
    study = wrapped.analyze(sv.FeatureFidelity(x), sv.INT8, progress=False)
    assert [row.status for row in study.measurements] == ["measured", "measured"]
    assert [module.module for module in study.skipped] == ["1"]
    assert "is compiled by torch.jit" in study.skipped[0].reason
    with torch.no_grad():
        assert torch.equal(model(x), expected)


class Elementwise(nn.Module):
    """``(x * matrix).sum``: a matrix product that no operator tells."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x[:, None, :] * self.matrix).sum(-1))


class ScaledAndPooled(nn.Module):
    """A scale for each channel and a mean over pixels, which is no matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x[:, :, None, None].expand(-1, -1, 2, 2) * self.scale).mean((2, 3)))


class Sparse(nn.Module):
    """A product by a sparse weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(8).to_sparse_coo())  # type: ignore[no-untyped-call]
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.weight @ x.T).T)


class Blurred(nn.Module):
    """A convolution with a fixed kernel, as anti-aliasing has: every channel reads one view of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.rand(1, 1, 3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.conv1d(x[:, None].expand(-1, 2, -1), self.kernel.expand(2, -1, -1), None, 1, 1, 1, 2)[:, 1])


class Projected(nn.Module):
    """A matrix product with a fixed basis."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("basis", torch.rand(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x @ self.basis.T)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Blurred, "convolves an activation with its buffer kernel: make that a parameter"),
        (Projected, "multiplies an activation with its buffer basis: make that a parameter"),
        (Elementwise, "multiplies an activation by its matrix elementwise and sums"),
        (Sparse, "its weight is stored as sparse_coo, and recipes quantize dense weights"),
    ],
)
def test_a_product_that_is_no_layer_is_left_out_with_the_reason(make: Callable[[], nn.Module], reason: str) -> None:
    torch.manual_seed(0)
    wrapped = sv.wrap(make().eval(), torch.randn(2, 8))
    assert [layer.module for layer in wrapped.layers] == ["head"]
    (module,) = wrapped.layers.skipped
    assert reason in module.reason
    assert "not a layer: the model: " in repr(wrapped.layers)
    study = wrapped.analyze(sv.FeatureFidelity(torch.randn(4, 8)), sv.INT8_WEIGHTS, progress=False)
    assert [row.status for row in study.measurements] == ["measured"]


def test_a_scale_of_channels_that_are_pooled_is_not_taken_for_a_product() -> None:
    assert sv.wrap(ScaledAndPooled().eval(), torch.randn(2, 8)).layers.skipped == ()


def test_a_buffer_that_scales_or_shifts_is_not_taken_for_a_weight() -> None:
    class Normalized(Blurred):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(x * self.kernel.flatten()[0] + self.kernel.flatten()[1])

    assert sv.wrap(Normalized().eval(), torch.randn(2, 8)).layers.skipped == ()


def test_a_written_out_product_that_uses_an_operator_is_a_layer() -> None:
    class Written(Elementwise):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.linear(x, self.matrix))

    wrapped = sv.wrap(Written().eval(), torch.randn(2, 8))
    assert [layer.module for layer in wrapped.layers] == ["", "head"]
    assert wrapped.layers.skipped == ()
