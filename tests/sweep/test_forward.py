"""What replay keeps from batch to batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.perturb.disturb import Disturber
from sensitivity.sweep.forward import Forward
from sensitivity.sweep.predictions import same

RUNS: list[str] = []


class Counted(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        RUNS.append("ran")
        return super().forward(x)


def test_a_resumed_batch_that_runs_one_variant_does_not_decide_what_is_kept_for_all() -> None:
    model = nn.Sequential(nn.Sequential(Counted(3, 4, 1), nn.Conv2d(4, 4, 1)), nn.Conv2d(4, 2, 1)).eval()
    x = torch.ones(1, 3, 2, 2)
    layers = list(sv.wrap(model, x).layers)
    forward = Forward(model, Disturber(model), replay=True)

    def run() -> list[Any]:
        return [{"outputs": [model(x).numpy()]}]

    def batch(variants: list[sv.Layer]) -> None:
        forward.baseline(run, [{layer: sv.INT4_WEIGHTS} for layer in variants])
        RUNS.clear()
        for layer in variants:
            forward.variant(run, {layer: sv.INT4_WEIGHTS})

    with torch.no_grad():
        batch(layers[2:])  # its prefix is one module: the inner ones are not asked for
        batch(layers)
        batch(layers)
    assert RUNS == ["ran"], "the first layer runs only when it is disturbed itself"


def test_a_model_that_cannot_be_replayed_is_found_before_a_prediction_is_used() -> None:
    class Secretive(nn.Module):
        """Reads a sibling's weight without calling it: nothing that is passed in or out shows it."""

        def __init__(self) -> None:
            super().__init__()
            self.owner, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
            self.thief = Thief([self.owner])

        def forward(self, x: Tensor) -> Tensor:
            stolen = self.thief(x)
            return self.head(self.owner(x)) + stolen

    class Thief(nn.Module):
        def __init__(self, owners: list[nn.Conv2d]) -> None:
            super().__init__()
            self.owners = owners  # a plain list: not a child

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, self.owners[0].weight).sum()

    torch.manual_seed(0)
    model, x = Secretive().eval(), torch.ones(1, 3, 2, 2)
    layers = list(sv.wrap(model, x).layers)
    variants = [{layer: sv.INT4_WEIGHTS} for layer in layers]
    replayed, full = (Forward(model, Disturber(model), replay=replay) for replay in (True, False))

    def run() -> list[Any]:
        return [{"outputs": [model(x).numpy()]}]

    with torch.no_grad():
        for forward in (replayed, full):
            forward.baseline(run, variants)
        assert replayed.notes == [
            f"not replayed, every pass run in full: a replayed pass of {layers[0].name} differs from a full one"
        ]
        for variant in variants:
            assert same(replayed.variant(run, variant), full.variant(run, variant))
