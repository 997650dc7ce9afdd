"""A model that was changed after it was wrapped: never is the one from before deployed in its place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import EngineError, ModelError

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SCHEME = sv.Scheme.all(sv.INT8_WEIGHTS)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.activation, self.last, self.scale = nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.1), nn.Linear(6, 2), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.activation(self.first(x))) * self.scale


@pytest.mark.parametrize("change", ["slope", "scale"])
def test_a_setting_that_was_changed_is_deployed(change: str) -> None:
    """The copy that the last deployment was made of had been taken again."""
    wrapped = sv.wrap(Net().eval(), IMAGES)
    before = wrapped.deploy(SCHEME, "torch")(IMAGES)
    if change == "slope":
        wrapped.model.activation.negative_slope = 0.9
    else:
        wrapped.model.scale = -2.0
    after = wrapped.deploy(SCHEME, "torch")(IMAGES)
    with wrapped.quantized(SCHEME) as model, torch.no_grad():
        torch.testing.assert_close(after, model(IMAGES))
    assert not torch.allclose(before, after)


def test_another_module_has_to_be_wrapped_again() -> None:
    wrapped = sv.wrap(Net().eval(), IMAGES)
    deployed = wrapped.deploy(SCHEME, "torch")
    wrapped.model.activation = nn.GELU()
    with pytest.raises(ModelError, match=r"Net has other modules than when it was wrapped.* Wrap it again"):
        wrapped.deploy(SCHEME, "torch")
    with pytest.raises(EngineError, match="was not made of Net as it is now: its modules are others"):
        wrapped.verify(deployed)
    again = sv.wrap(wrapped.model, IMAGES)
    assert again.verify(again.deploy(SCHEME, "torch")).passed
