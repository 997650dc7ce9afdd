"""A module that an engine runs takes and returns what the module does, under all of the module's names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import EngineError
from tests.deploy.nets import SAFE, SAFE_INT8, images


def test_the_output_has_the_models_own_structure(shared: sv.Wrapped) -> None:
    x = images(1, seed=2)
    out = shared.deploy(sv.Scheme())(x)
    with torch.no_grad():
        want: Any = shared.model(x)
    assert list(out) == ["scores", "up", "none"]
    assert isinstance(out["scores"], list)
    assert out["up"][1] == "text"
    assert out["none"] is None
    torch.testing.assert_close(out["up"][0], want["up"][0], atol=1e-5, rtol=1e-4)
    for have, expected in zip(out["scores"], want["scores"], strict=True):
        torch.testing.assert_close(have, expected, atol=1e-5, rtol=1e-4)


def test_a_batch_of_any_size_gives_what_single_images_give(shared: sv.Wrapped) -> None:
    deployed, x = shared.deploy(SAFE), images(3, seed=2)
    singly = [deployed(x[i : i + 1])["scores"][0] for i in range(3)]
    assert torch.equal(deployed(x)["scores"][0], torch.cat(singly))


def test_another_size_is_refused_and_can_be_deployed_for(shared: sv.Wrapped) -> None:
    deployed = shared.deploy(sv.Scheme())
    with pytest.raises(EngineError, match=r"has shape \(1, 3, 64, 64\), it was given \(1, 3, 32, 32\)"):
        deployed(images(1, side=32))
    small = shared.deploy(sv.Scheme(), example=images(1, side=32))
    assert small(images(1, side=32))["scores"][0].shape == (1, 5, 16, 16)


def test_arguments_of_another_form_are_refused(shared: sv.Wrapped) -> None:
    with pytest.raises(EngineError, match="SharedHead was exported for arguments of the form"):
        shared.deploy(sv.Scheme())(x=images(1))


def test_methods_and_attributes_of_the_model_use_the_engine_too(several: sv.Wrapped) -> None:
    deployed, x = several.deploy(SAFE, parts=["backbone"]), images(1, seed=3)
    with deployed.plan.simulated() as model:
        want = model.encode(x)  # type: ignore[operator]
    torch.testing.assert_close(deployed.encode(x), want, atol=0.02, rtol=0)
    with torch.no_grad():
        assert not torch.allclose(deployed.encode(x), several.model.encode(x), atol=1e-5)  # type: ignore[operator]
    assert deployed.anchors == 3


def test_a_wholly_exported_model_has_no_methods_that_would_run_in_float(shared: sv.Wrapped) -> None:
    deployed = shared.deploy(sv.Scheme())
    assert deployed.training is False
    with pytest.raises(AttributeError, match=r"knows its forward\(\) alone, not 'fine'. Deploy the submodules"):
        _ = deployed.fine
    with pytest.raises(AttributeError, match="no attribute 'named_layers'"):
        _ = deployed.named_layers


def test_a_method_of_a_wholly_exported_model_is_refused(several: sv.Wrapped) -> None:
    deployed = several.deploy(sv.Scheme(), "torch", parts=["backbone"])
    with pytest.raises(AttributeError, match=r"backbone runs on an engine, .* not 'append'. Deploy the submodules"):
        _ = deployed.backbone.append


class Aliased(nn.Module):
    """Holds a block, and the block that holds it, under two names; runs the second."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.same = self.body
        self.head = nn.Conv2d(8, 4, 1)
        self.last = self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.same(x))


@pytest.mark.parametrize("parts", [["body"], ["body.0"], ["body.0", "head"], ["same"], ["same.0", "last"]], ids=str)
def test_a_part_runs_on_the_engine_under_all_its_names(parts: list[str]) -> None:
    torch.manual_seed(0)
    net = Aliased().eval()
    wrapped, x = sv.wrap(net, images(1)), images(2, seed=3)
    wrapped.calibrate([images(4, seed=1)])
    deployed = wrapped.deploy(sv.Scheme.only("body.0", SAFE_INT8), parts=parts)
    with deployed.plan.simulated() as model:
        torch.testing.assert_close(deployed(x), model(x), atol=0.02, rtol=0)
    with torch.no_grad():
        assert float((deployed(x) - net(x)).abs().max()) > 1e-4, "it runs in float"
