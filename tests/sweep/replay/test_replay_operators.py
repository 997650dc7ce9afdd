"""Torch functions between modules are answered too, where modules do not separate branches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.sweep.replay.replayer import Replayer
from tests.models.retinanet import RetinaNet


@pytest.fixture(autouse=True)
def operators_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models are too quick to decide by the clock whether looking operators up pays."""
    monkeypatch.setattr("sensitivity.sweep.replay.foresight.OPERATOR_SECONDS", 0.0)


def small_retinanet() -> RetinaNet:
    torch.manual_seed(0)
    return RetinaNet(width=4, depths=(1, 1, 1, 1), head=8, classes=3).eval()


def outputs_of(model: nn.Module, x: Tensor, replayer: Replayer, layers: list[sv.Layer]) -> dict[str, list[Tensor]]:
    """Every layer's replayed outputs, all of which are also those of a full pass."""
    perturber, outputs = Perturber(model), {}
    with torch.no_grad(), untouched(model):
        replayer.record(lambda: model(x), [perturber.touched({layer: sv.INT4_WEIGHTS}) for layer in layers])
        for layer in layers:
            recipes = {layer: sv.INT4_WEIGHTS}
            with perturber.applied(recipes):
                full = list(tensors_in(model(x)))
                with replayer.replaying(perturber.touched(recipes)):
                    outputs[layer.name] = list(tensors_in(model(x)))
            assert replayer.intact()
            replayer.done(perturber.touched(recipes))
            assert all(map(torch.equal, outputs[layer.name], full)), layer.name
    return outputs


def convolutions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills with one entry a convolution that really runs."""
    ran: list[str] = []
    original = nn.Conv2d._conv_forward

    def counting(self: nn.Conv2d, *args: Any) -> Tensor:
        ran.append("ran")
        return original(self, *args)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", counting)
    return ran


@pytest.mark.parametrize("ways", [{}, {"operators": False}, {"modules": False}])
def test_retinanet_is_replayed_bit_for_bit_in_every_way(ways: dict[str, bool]) -> None:
    model, x = small_retinanet(), torch.randn(2, 3, 64, 64)
    layers = list(sv.wrap(model, x).layers)
    replayer = Replayer(model, **ways)
    outputs_of(model, x, replayer, layers)
    outputs_of(model, x + 1, replayer, layers)
    assert replayer.counts.reused > 0


def test_a_pyramid_level_runs_alone_where_its_own_layer_is_perturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small_retinanet(), torch.randn(1, 3, 128, 128)
    wrapped = sv.wrap(model, x)
    middle = next(layer for layer in wrapped.layers if layer.module == "fpn.layer_blocks.1")
    perturber = Perturber(model)
    runs = {}
    for operators in (True, False):
        replayer = Replayer(model, operators=operators)
        with torch.no_grad(), untouched(model):
            replayer.record(lambda: model(x), [perturber.touched({middle: sv.INT4_WEIGHTS})])
            ran = convolutions(monkeypatch)
            with (
                perturber.applied({middle: sv.INT4_WEIGHTS}),
                replayer.replaying(perturber.touched({middle: sv.INT4_WEIGHTS})),
            ):
                model(x)
        runs[operators] = len(ran)
    one_level = 1 + 2 * 5  # its own convolution, and those of the two heads
    assert runs[True] == one_level
    # the finer level comes from a sum, the coarsest from a ReLU: without operators nobody knows that they are the same
    assert runs[False] == 3 * one_level


def test_operators_that_do_not_pay_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small_retinanet(), torch.randn(1, 3, 64, 64)
    layers = list(sv.wrap(model, x).layers)
    looked_up = {}
    for seconds in (0.0, 1.0):
        monkeypatch.setattr("sensitivity.sweep.replay.foresight.OPERATOR_SECONDS", seconds)
        replayer = Replayer(model)
        outputs_of(model, x, replayer, layers)
        looked_up[seconds] = replayer.looked_up
    assert "Pyramid" in looked_up[0.0]
    assert looked_up[1.0] == []


def test_an_operator_with_another_constant_or_autocast_is_another_operator() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.register_buffer("mix", torch.eye(4))

        def forward(self, x: Tensor) -> list[Tensor]:
            x = self.stem(x)
            left = self.left(x)
            scaled = [x * 1.0, x * -0.0, x * 0.0, x[:, 1:], x[:, :1], F.pad(x, (1, 0)), F.pad(x, (0, 1)), x * 1]
            full = F.linear(x.mean((2, 3)), self.mix)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = F.linear(x.mean((2, 3)), self.mix)
            return [left, *scaled, full, half, self.right(x)]

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(1, 3, 4, 4)
    replayer = Replayer(model)
    outputs_of(model, x, replayer, list(sv.wrap(model, x).layers))
    assert replayer.looked_up == ["Twice"]


def test_attention_of_torch_keeps_its_fast_path_while_operators_are_looked_up() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 8)
            self.side = nn.Linear(6, 8)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            side = self.side(x)
            return self.head(self.block(self.embed(x) * 2 + 1) + side * 3)

    torch.manual_seed(0)
    model, x = Encoder().eval(), torch.randn(2, 5, 6)
    for ways in ({}, {"modules": False}):
        layers = [layer for layer in sv.wrap(model, x).layers if layer.module in ("side", "embed", "head")]
        replayer = Replayer(model, **ways)
        outputs_of(model, x, replayer, layers)
        assert replayer.looked_up


def test_a_tensor_that_gets_the_identity_of_a_dead_one_is_not_taken_for_it() -> None:
    class Reused(nn.Module):
        """``shared`` is given tensors that die at once, then one in the place of a dead one that the record keeps."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.shared, self.other = (nn.Conv2d(3, 3, 1) for _ in range(3))
            self.late = nn.Conv2d(3, 3, 1)
            self.seen: list[int] = []

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            dead = [self._shared(x * number) for number in range(1, 9)]
            living = [self.other(x) for _ in range(9)]
            first = self.late(dead[0])
            return first + sum(self._shared(tensor) for tensor in living)

        def _shared(self, x: Tensor) -> Tensor:
            self.seen.append(id(x))
            return self.shared(x)

    torch.manual_seed(0)
    model, x = Reused().eval(), torch.randn(1, 3, 4, 4)
    layers = list(sv.wrap(model, x).layers)
    outputs_of(model, x, Replayer(model), layers)
    model.seen.clear()
    outputs_of(model, x, Replayer(model, operators=False), layers)
    recorded = model.seen[17:34]  # behind the survey
    if not set(recorded[:8]) & set(recorded[8:]):
        pytest.skip("this Python gave no tensor the identity of a dead one, so that nothing could be taken for another")


def test_lists_and_dicts_that_the_caller_changes_are_handed_out_anew() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
            x = self.one(x)
            return [x, self.two(x)], {"levels": [x], "x": x}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head, self.last = Features(), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> list[Tensor]:
            levels, more = self.features(x)
            levels.append(self.head(levels.pop()))
            more["levels"].append(self.last(more.pop("x")))
            return levels + more["levels"]

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(1, 3, 4, 4)
    replayer = Replayer(model)
    outputs_of(model, x, replayer, list(sv.wrap(model, x).layers))
    assert replayer.counts.reused > 0


def test_a_caller_may_write_to_what_the_model_returned_even_through_numpy() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.stem(x)
            return {"left": self.left(x), "right": self.right(x).view(-1)}

    torch.manual_seed(0)
    model, x = Heads().eval(), torch.randn(1, 3, 4, 4)
    layers = list(sv.wrap(model, x).layers)
    perturber, replayer = Perturber(model), Replayer(model)

    def doubled() -> list[Tensor]:
        outputs = list(model(x).values())
        for tensor in outputs:
            tensor.numpy()[...] *= 2
        return outputs

    with torch.no_grad():
        touched = [perturber.touched({layer: sv.INT4_WEIGHTS}) for layer in layers]
        plain = doubled()
        assert all(map(torch.equal, replayer.record(doubled, touched), plain))
        for _ in range(2):
            for layer, modules in zip(layers, touched, strict=True):
                with perturber.applied({layer: sv.INT4_WEIGHTS}):
                    full = doubled()
                    with replayer.replaying(modules):
                        assert all(map(torch.equal, doubled(), full)), layer.name
    assert replayer.counts.reused > 0


def test_another_way_through_the_model_is_surveyed_again() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.dark, self.bright, self.head = (nn.Conv2d(3, 3, 1) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.bright(self.stem(x)) if x.mean() > 0 else self.dark(self.dark(self.stem(x)))
            return self.head(F.relu(x))

    torch.manual_seed(0)
    model, x = Deciding().eval(), torch.rand(1, 3, 4, 4)
    layers = [layer for light in (x, -x) for layer in sv.wrap(model, light).layers]
    replayer = Replayer(model)
    perturber = Perturber(model)
    touched = [perturber.touched({layer: sv.INT4_WEIGHTS}) for layer in layers]
    runs = []
    for image in (x, 2 * x, -x, -2 * x, x):
        outputs_of(model, image, replayer, layers)
        before = replayer.counts.run
        with torch.no_grad():
            replayer.record(lambda image=image: runs.append(model(image)), touched)
        assert replayer.counts.run == before, "recording is no replay"
    assert len(runs) == 5, "the second time the same way is not surveyed"
