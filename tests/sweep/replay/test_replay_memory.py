"""What a record keeps: only what a variant will be answered with, only as long as one will, within a limit."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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


def a_sweep(model: nn.Module, x: Tensor, replayer: Replayer) -> tuple[list[int], int]:
    """Bytes kept when the pass is recorded and after every variant, and module calls run; all outputs are compared."""
    perturber = Perturber(model)
    layers = list(sv.wrap(model, x).layers)
    touched = [perturber.touched({layer: sv.INT4_WEIGHTS}) for layer in layers]
    with torch.no_grad(), untouched(model):
        replayer.record(lambda: model(x), touched)
        sizes_bytes = [replayer.kept_bytes]
        for layer, modules in zip(layers, touched, strict=True):
            with perturber.applied({layer: sv.INT4_WEIGHTS}):
                full = list(tensors_in(model(x)))
                with replayer.replaying(modules):
                    replayed = list(tensors_in(model(x)))
            assert replayer.intact()
            assert all(map(torch.equal, replayed, full)), layer.name
            replayer.done(modules)
            sizes_bytes.append(replayer.kept_bytes)
    return sizes_bytes, replayer.counts.run


def retinanet() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return RetinaNet(width=4, depths=(1, 1, 1, 1), head=8, classes=3).eval(), torch.randn(1, 3, 64, 64)


def test_what_no_remaining_variant_needs_is_dropped() -> None:
    model, x = retinanet()
    sizes_bytes, _ = a_sweep(model, x, Replayer(model))
    assert sizes_bytes == sorted(sizes_bytes, reverse=True)
    assert sizes_bytes[0] > 0
    assert sizes_bytes[-1] == 0


def test_a_chain_keeps_what_goes_into_perturbed_layers_and_nothing_between() -> None:
    torch.manual_seed(0)
    parts = [part for _ in range(3) for part in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())]
    model, x = nn.Sequential(*parts).eval(), torch.randn(1, 4, 8, 8)
    sizes_bytes, _ = a_sweep(model, x, Replayer(model))
    tensor_bytes = x.nbytes
    assert sizes_bytes == [2 * tensor_bytes, 2 * tensor_bytes, tensor_bytes, 0], (
        "the outputs of the first two ReLUs, until the layer behind has run"
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_memory_limit_is_kept_and_costs_passes_but_no_bits(share: float) -> None:
    model, x = retinanet()
    free, ran_free = a_sweep(model, x, Replayer(model))
    limit = int(share * free[0])
    limited, ran_limited = a_sweep(model, x, Replayer(model, memory_limit=limit))
    assert max(limited) <= limit
    assert ran_limited > ran_free
    if limit:
        assert limited[0] > 0.5 * limit, "what fits is used"


def test_a_larger_batch_than_was_surveyed_stays_within_the_limit() -> None:
    model, x = retinanet()
    free, _ = a_sweep(model, x, Replayer(model))
    replayer = Replayer(model, memory_limit=free[0])
    a_sweep(model, x, replayer)
    sizes_bytes, _ = a_sweep(model, torch.cat([x, x + 1]), replayer)
    assert 0 < max(sizes_bytes) <= free[0]


@pytest.mark.parametrize("slow", ["left", "right"])
def test_what_saves_the_most_time_by_the_byte_is_kept_first(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(300):
                super().forward(x)
            return super().forward(x)

    class Net(nn.Module):
        """Two stems of equal size, one of which takes far longer."""

        def __init__(self) -> None:
            super().__init__()
            kinds = (Slow, nn.Conv2d) if slow == "left" else (nn.Conv2d, Slow)
            self.left, self.right, self.head = kinds[0](3, 4, 1), kinds[1](3, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.left(x), self.right(x)], 1))

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(1, 3, 8, 8)
    names = {module: name for name, module in model.named_modules()}
    ran: list[str] = []
    original = nn.Conv2d._conv_forward

    def noting(self: nn.Conv2d, *args: Any) -> Tensor:
        ran.append(names[self])
        return original(self, *args)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", noting)
    replayer = Replayer(model, memory_limit=4 * 8 * 8 * 4, operators=False)
    with torch.no_grad():
        replayer.record(lambda: model(x), [{model.head}])
        ran.clear()
        with replayer.replaying({model.head}):
            model(x)
    assert replayer.kept_bytes == 4 * 8 * 8 * 4
    assert ran == ["right" if slow == "left" else "left", "head"], "the quick stem runs again, the slow one is kept"


def test_the_survey_keeps_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[Any] = []
    original = nn.Conv2d._conv_forward

    def noting(self: nn.Conv2d, *args: Any) -> Tensor:
        output = original(self, *args)
        alive.append(weakref.ref(output))
        return output

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", noting)
    model, x = retinanet()
    replayer = Replayer(model, memory_limit=0)
    counted = []

    def run() -> Any:
        alive.clear()
        result = model(x)
        del result
        counted.append(sum(reference() is not None for reference in alive))

    with torch.no_grad():
        replayer.record(run, [{model.body.conv1}])
    assert counted == [0, 0], "surveyed, then recorded with nothing allowed"


def test_a_sweep_within_a_limit_predicts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensitivity.sweep.replay.foresight.OPERATOR_SECONDS", 0.0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, 16, 16)
    variants = [Variant.alone(layer, sv.INT4_WEIGHTS) for layer in sv.wrap(model, x).layers]
    passes = []
    for limit in (None, 1000, 0):
        forward = Forward(model, Perturber(model), replay=True, memory_limit=limit)
        for batch in (x, x + 1):

            def run(batch: Tensor = batch) -> list[Any]:
                return [{"outputs": [F.relu(model(batch)).numpy()]}]

            with torch.no_grad():
                passes.append(
                    [forward.baseline(run, variants), *(forward.variant(run, variant) for variant in variants)]
                )
        assert forward.replayer is not None
        assert limit is None or forward.replayer.kept_bytes <= limit
    assert same(passes[:2], passes[2:4])
    assert same(passes[:2], passes[4:])
