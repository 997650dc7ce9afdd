"""A model leaves every pass and every measurement as it went in, whatever it writes to and however."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sensitivity as sv
from sensitivity.errors import ModelError
from sensitivity.perturb.state.state import ModelState


def counts_by_batch_statistics(model: Remembering, features: Tensor) -> Tensor:
    F.batch_norm(features, model.state, model.spread, training=True, momentum=0.5)
    return model.state


def counts_by_data(model: Remembering, features: Tensor) -> Tensor:
    model.state.data.mul_(0.5).add_(features.mean((0, 2, 3)))
    return model.state


def counts_by_numpy(model: Remembering, features: Tensor) -> Tensor:
    model.state.numpy()[:] += 1
    return model.state


def counts_in_place(model: Remembering, features: Tensor) -> Tensor:
    return model.state.mul_(0.5).add_(features.mean((0, 2, 3)))


def counts_by_another_buffer(model: Remembering, features: Tensor) -> Tensor:
    model.state = model.state + 1
    return model.state


def counts_in_an_attribute(model: Remembering, features: Tensor) -> Tensor:
    model.plain += 1
    return model.plain


def counts_in_a_parameter(model: Remembering, features: Tensor) -> Tensor:
    model.gain.data.mul_(0.9)
    return model.gain


def turns_a_norm_to_training(model: Remembering, features: Tensor) -> Tensor:
    model.norm.train()
    return model.norm(features).mean((0, 2, 3))


def moves_a_switch_of_torch(model: Remembering, features: Tensor) -> Tensor:
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float64)
    return model.state


class Remembering(nn.Module):
    """Two convolutions, and between them something that changes from pass to pass."""

    def __init__(self, change: Callable[[Remembering, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 1)
        self.gain = nn.Parameter(torch.ones(8))
        self.register_buffer("state", torch.zeros(8))
        self.register_buffer("spread", torch.ones(8))
        self.plain = torch.zeros(8)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(x)
        shift = self.change(self, features).detach()
        return self.last(torch.relu(features - 0.1 * shift.view(1, -1, 1, 1)))


CHANGES = [
    counts_by_batch_statistics,
    counts_by_data,
    counts_by_numpy,
    counts_in_place,
    counts_by_another_buffer,
    counts_in_an_attribute,
    counts_in_a_parameter,
    turns_a_norm_to_training,
    moves_a_switch_of_torch,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("replay", [True, False])
def test_every_variant_starts_from_the_same_state_and_nothing_is_left(
    change: Callable[[Remembering, Tensor], Tensor], replay: bool
) -> None:
    torch.manual_seed(0)
    model, images = Remembering(change).eval(), torch.randn(8, 3, 8, 8)
    before, plain, state = copy.deepcopy(model.state_dict()), model.plain, model.state
    wrapped = sv.wrap(model, images[:1])
    task = sv.FeatureFidelity(images, batch_size=4)
    study = wrapped.analyze(task, sv.INT8_WEIGHTS, replay=replay)
    for row in study.measurements:
        model.load_state_dict(before)
        alone = wrapped.evaluate(task, sv.Scheme.only([row.layer], sv.INT8_WEIGHTS))
        assert row.score == alone.value, f"{row.layer} alone"
        assert alone.value > 40, "8-bit weights are far from what another state would do"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.state is state
    assert model.plain is plain
    assert torch.equal(plain, torch.zeros(8))
    assert not any(module.training for module in model.modules())
    assert torch.get_default_dtype() is torch.float32
    assert torch.is_grad_enabled()


def test_buffers_made_in_inference_mode_are_put_back_outside_it() -> None:
    with torch.inference_mode():
        model = Remembering(counts_by_numpy).eval()
    images = torch.randn(4, 3, 8, 8)
    study = sv.wrap(model, images[:1]).analyze(sv.FeatureFidelity(images), sv.INT8_WEIGHTS)
    assert {str(row.status) for row in study.measurements} == {"measured"}
    assert torch.equal(model.state, torch.zeros(8))


def test_a_view_of_one_element_with_a_wide_stride_is_content_like_any_other() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.register_buffer("scale", torch.full((1, 6), 2.0)[:, 0])

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * self.scale

    images = torch.randn(4, 3, 8, 8)
    study = sv.wrap(Scaled().eval(), images[:1]).analyze(sv.FeatureFidelity(images), sv.INT8_WEIGHTS)
    assert study.notes == ()
    assert study.measurements[0].score > 40


@pytest.mark.parametrize("act", ["calibrate", "evaluate", "analyze", "signals"])
def test_a_model_on_the_meta_device_is_wrapped_and_refused_where_numbers_are_needed(act: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval().to("meta")
    wrapped, images = sv.wrap(model, torch.zeros(1, 3, 8, 8, device="meta")), torch.zeros(2, 3, 8, 8)
    assert len(wrapped.layers) == 1
    acts: dict[str, Callable[[], object]] = {
        "calibrate": lambda: wrapped.calibrate(images),
        "evaluate": lambda: wrapped.evaluate(sv.FeatureFidelity(images)),
        "analyze": lambda: wrapped.analyze(sv.FeatureFidelity(images), sv.INT8_WEIGHTS, progress=False),
        "signals": lambda: wrapped.signals(images, sv.INT8_WEIGHTS),
    }
    with pytest.raises(ModelError, match=r"Sequential cannot run: 0\.weight is on the meta device.*to_empty"):
        acts[act]()


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_sparse_buffer_that_a_pass_writes_to_is_noticed_and_put_back(layout: torch.layout) -> None:
    model = nn.Linear(3, 3)
    model.register_buffer("graph", torch.eye(3).to_sparse(layout=layout))
    state = ModelState(model)
    model.graph.values().add_(1.0)
    assert state.learn() == []
    assert torch.equal(model.graph.to_dense(), torch.eye(3))
    model.graph.values().add_(1.0)
    assert state.restore() == []
    assert torch.equal(model.graph.to_dense(), torch.eye(3))


def same_checksum(content: Tensor) -> Tensor:
    """Other bytes with the same CRC-32: the difference is its generator polynomial, lowest bit first."""
    bits = [int(bit) for bit in f"{0x104C11DB7:033b}"]
    changed = content.clone()
    for place, bit in enumerate(bits):
        changed.view(torch.uint8).view(-1)[place // 8] ^= bit << place % 8
    assert zlib.crc32(changed.numpy().tobytes()) == zlib.crc32(content.numpy().tobytes())
    return changed


def test_a_change_of_large_weights_that_a_checksum_cannot_see_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensitivity.perturb.state.state.COPIED_WEIGHT_BYTES", 0)
    model = nn.Linear(4, 4)
    state = ModelState(model)
    model.weight.data.copy_(same_checksum(model.weight.detach()))
    assert state.restore() == ["weight"]
