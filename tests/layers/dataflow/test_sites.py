"""Norms that cannot be folded, and layers that no path leads to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv


class OverTokens(nn.Module):
    """A batch norm that counts tokens, as many as there are features."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.own(x))


class Split(nn.Module):
    """A batch norm behind a view that splits the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Conv2d(3, 6, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.own(x).reshape(len(x) * 2, 3, *x.shape[2:])).reshape(len(x), 6, *x.shape[2:])


class Turned(nn.Module):
    """A batch norm over the features of a linear layer, which are turned to the second axis first."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.own(x).transpose(1, 2))


def _with_statistics(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_var.uniform_(0.1, 4.0, generator=torch.Generator().manual_seed(0))
    return model.eval()


@pytest.mark.parametrize(
    ("make", "folds"), [(OverTokens, False), (Split, False), (Turned, True)], ids=["tokens", "split", "turned"]
)
def test_a_batch_norm_folds_only_where_it_counts_the_channels_of_the_layer(make: type[nn.Module], folds: bool) -> None:
    torch.manual_seed(0)
    model = _with_statistics(make())
    x = torch.randn(2, 3, 4, 4) if make is Split else torch.randn(2, 6, 6)
    wrapped = sv.wrap(model, x)
    assert [layer.norm_folds for layer in wrapped.layers] == [folds]
    assert set(wrapped.analyze(sv.FeatureFidelity(x), sv.INT8_WEIGHTS).table()["status"]) == {"measured"}


@pytest.mark.parametrize("make", [OverTokens, Split], ids=["tokens", "split"])
def test_a_layer_whose_norm_does_not_fold_has_its_own_weight_quantized(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = _with_statistics(make())
    x = torch.randn(2, 3, 4, 4) if make is Split else torch.randn(2, 6, 6)
    weight = model.own.weight.detach()
    scale = weight.abs().flatten(1).amax(1) / 127
    expected = torch.fake_quantize_per_channel_affine(weight, scale, torch.zeros(len(scale)), 0, -127, 127)
    recipe = sv.Recipe("weights", weights=sv.QuantSpec("int8", granularity="per-channel", observer="minmax"))
    with sv.wrap(model, x).quantized(sv.Scheme.all(recipe)) as quantized:
        assert torch.equal(quantized.own.weight, expected)


def test_layers_in_plain_lists_and_weights_that_are_buffers_are_named_with_the_reason() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)
            self.parts = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())]
            self.frozen = nn.Conv2d(3, 3, 1)
            weight = self.frozen.weight.detach()
            del self.frozen.weight
            self.frozen.register_buffer("weight", weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.frozen(self.parts[0](self.first(x)))

    reasons = {
        skipped.module: skipped.reason for skipped in sv.wrap(Hidden().eval(), torch.randn(1, 3, 4, 4)).layers.skipped
    }
    assert reasons.keys() == {"parts.0.0", "frozen"}
    assert "nn.ModuleList" in reasons["parts.0.0"]
    assert "buffer" in reasons["frozen"]
