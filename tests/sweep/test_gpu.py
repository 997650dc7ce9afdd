"""On a CUDA device a replayed sweep gives every bit of a full one, and waits for the device as rarely."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.sweep.passes.forward import Forward
from sensitivity.sweep.passes.predictions import same
from sensitivity.sweep.plan import Variant
from sensitivity.sweep.replay.replayer import Replayer
from tests.models.retinanet import RetinaNet

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: run with -m gpu where one is"),
]


@pytest.fixture
def exact() -> Any:
    """Algorithms that give the same bits each time, also for a layer that runs alone."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def retinanet() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = RetinaNet(width=8, depths=(1, 2, 1, 1), head=16, classes=5).eval().cuda()
    return model, torch.randn(2, 3, 128, 128, device="cuda")


def sweep(model: nn.Module, inputs: list[Tensor], *, replay: bool) -> tuple[list[Any], Forward]:
    variants = [Variant.alone(layer, sv.INT4_WEIGHTS) for layer in sv.wrap(model, inputs[0]).layers]
    forward = Forward(model, Perturber(model), replay=replay)
    outputs = []
    with torch.no_grad(), untouched(model):
        for x in inputs:

            def run(x: Tensor = x) -> list[Any]:
                return [{"outputs": [tensor.cpu().numpy() for tensor in tensors_in(model(x))]}]

            outputs.append(forward.baseline(run, variants))
            outputs += [forward.variant(run, variant) for variant in variants]
    return outputs, forward


def test_a_replayed_sweep_equals_full_passes_bit_for_bit(exact: None) -> None:
    model, x = retinanet()
    replayed, forward = sweep(model, [x, x + 1], replay=True)
    full, _ = sweep(model, [x, x + 1], replay=False)
    assert forward.replayer is not None, forward.notes
    assert forward.replayer.counts.reused > 0
    assert all(map(same, replayed, full))


def test_replaying_does_not_wait_for_the_device(exact: None) -> None:
    model, x = retinanet()
    perturber, replayer = Perturber(model), Replayer(model)
    layers = list(sv.wrap(model, x).layers)
    touched = [perturber.touched({layer: sv.INT4_WEIGHTS}) for layer in layers]
    with torch.no_grad(), untouched(model):
        replayer.record(lambda: model(x), touched)  # surveys; weights were quantized
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            replayer.record(lambda: model(x), touched)
            for layer, modules in zip(layers, touched, strict=True):
                with perturber.applied({layer: sv.INT4_WEIGHTS}), replayer.replaying(modules):
                    model(x)
                assert replayer.intact()
                replayer.done(modules)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_model_that_draws_random_numbers_on_the_device_draws_the_same_ones_each_pass(exact: None) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x) + torch.randn(1, 4, 1, 1, device=x.device))

    torch.manual_seed(0)
    model, x = Noisy().eval().cuda(), torch.randn(1, 3, 8, 8, device="cuda")
    before = torch.cuda.get_rng_state()
    replayed, forward = sweep(model, [x, x], replay=True)
    assert forward.notes == ["not replayed, every pass run in full: the model draws random numbers"]
    assert same(replayed[0], replayed[len(replayed) // 2]), "both batches are the same, and so are the numbers drawn"
    assert torch.equal(torch.cuda.get_rng_state(), before)
