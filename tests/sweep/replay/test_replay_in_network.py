"""Inside a quantized network a replayed pass gives every bit of a full one, and runs less."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import SensitivityError
from sensitivity.layers.trace.inputs import unchanged_inputs
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.sweep.passes.forward import Forward
from sensitivity.sweep.passes.predictions import same
from sensitivity.sweep.plan import Perturbation
from tests.models import CASES
from tests.sweep.recording_task import RecordingTask


def networks(wrapped: sv.Wrapped, inputs: Any) -> tuple[Perturber, dict[sv.Layer, sv.Recipe], list[Perturbation]]:
    """All layers that int8 fits; up to four schemes that leave one of them in float or give it other weights."""
    perturber = Perturber(wrapped.model, [wrapped.calibrate(RecordingTask([inputs]), sv.INT8_MINMAX)])
    network = {}
    for layer in wrapped.layers:
        try:
            perturber.touched({layer: sv.INT8_MINMAX})
        except SensitivityError:
            continue
        network[layer] = sv.INT8_MINMAX
    names = list(network)
    protected = [{layer: recipe for layer, recipe in network.items() if layer is not free} for free in names[::3]]
    cured = [network | {layer: sv.INT8_WEIGHTS} for layer in names[1::3]]
    return perturber, network, [Perturbation(scheme) for scheme in (*protected[:2], *cured[-2:]) if scheme]


def predictions(
    wrapped: sv.Wrapped,
    inputs: Any,
    *,
    replay: bool,
    networks: tuple[Perturber, dict[sv.Layer, sv.Recipe], list[Perturbation]],
) -> tuple[list[Any], Forward]:
    """Of the network and of each scheme, on three batches."""
    perturber, network, schemes = networks
    task = RecordingTask([inputs, inputs, inputs])
    predicted: list[Any] = []
    with untouched(wrapped.model), torch.no_grad():
        forward = Forward(wrapped.model, perturber, replay=replay, network=network)
        for batch in task.batches():
            run = unchanged_inputs(partial(task.predict, wrapped.model, batch), batch)
            predicted.append(forward.baseline(run, schemes))
            predicted += [forward.variant(run, scheme) for scheme in schemes]
    return predicted, forward


@pytest.mark.parametrize("name", sorted(CASES))
def test_replay_inside_a_quantized_network_equals_a_full_pass_bit_for_bit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensitivity.sweep.replay.foresight.OPERATOR_SECONDS", 0.0)
    monkeypatch.setattr("sensitivity.sweep.passes.forward.SHORTEST_TIMED_S", 1e9)  # small models: whether it pays aside
    case = CASES[name]
    wrapped = sv.wrap(case.build(), case.inputs)
    schemes = networks(wrapped, case.inputs)
    full, _ = predictions(wrapped, case.inputs, replay=False, networks=schemes)
    replayed, forward = predictions(wrapped, case.inputs, replay=True, networks=schemes)
    assert all(map(same, full, replayed))
    if forward.replayer is None:
        assert forward.notes, "falling back is said"


COUNTED = threading.local()  # written in C: it is not taken for something that the model remembers


class Counted(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        COUNTED.runs += 1
        return super().forward(x)


class Shared(nn.Module):
    """Runs one layer twice, each call with its own range; between them a layer that can be left in float."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.middle = Counted(2, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(100.0 * self.middle(self.shared(x)))


def runs_inside(model: nn.Module, x: Tensor, free: str) -> int:
    """How often ``Counted`` runs on a second batch, where all layers but one are in int8; the bits are compared."""
    COUNTED.runs = 0
    wrapped = sv.wrap(model.eval(), x)
    perturber = Perturber(wrapped.model, [wrapped.calibrate([x], sv.INT8)])
    network = dict.fromkeys(wrapped.layers, sv.INT8)
    scheme = Perturbation({layer: sv.INT8 for layer in wrapped.layers if layer.module != free})
    forward = Forward(wrapped.model, perturber, replay=True, network=network)

    def run() -> list[Any]:
        return [{"outputs": [wrapped.model(x).numpy()]}]

    with torch.no_grad():
        forward.baseline(run, [scheme])
        forward.baseline(run, [scheme])
        COUNTED.runs = 0
        replayed = forward.variant(run, scheme)
        count = COUNTED.runs
        with perturber.applied(scheme.recipes):
            assert same(run()[0], replayed[0])
    assert not forward.notes, "no check has found a difference"
    return count


def test_layers_in_front_of_the_one_that_differs_do_not_run_again() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(Counted(3, 4, 1), nn.ReLU(), Counted(4, 4, 1)), nn.Conv2d(4, 2, 1))
    assert runs_inside(model, torch.linspace(-1.0, 1.0, 12).reshape(1, 3, 2, 2), free="1") == 0


def test_a_layer_whose_calls_have_ranges_of_their_own_runs_in_every_call() -> None:
    torch.manual_seed(0)
    assert runs_inside(Shared(), torch.linspace(-1.0, 1.0, 8).reshape(1, 2, 2, 2), free="middle") == 2
