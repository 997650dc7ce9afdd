"""What replay keeps from batch to batch."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.perturb.perturber import Perturber
from sensitivity.sweep.passes.forward import Forward
from sensitivity.sweep.passes.predictions import same
from sensitivity.sweep.plan import Variant

RUNS: list[str] = []


class Counted(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        RUNS.append("ran")
        return super().forward(x)


def test_a_resumed_batch_that_runs_one_variant_does_not_decide_what_is_kept_for_all() -> None:
    model = nn.Sequential(nn.Sequential(Counted(3, 4, 1), nn.Conv2d(4, 4, 1)), nn.Conv2d(4, 2, 1)).eval()
    x = torch.ones(1, 3, 2, 2)
    layers = list(sv.wrap(model, x).layers)
    forward = Forward(model, Perturber(model), replay=True)

    def run() -> list[Any]:
        return [{"outputs": [model(x).numpy()]}]

    def batch(variants: list[sv.Layer]) -> None:
        forward.baseline(run, [Variant.alone(layer, sv.INT4_WEIGHTS) for layer in variants])
        RUNS.clear()
        for layer in variants:
            forward.variant(run, Variant.alone(layer, sv.INT4_WEIGHTS))

    with torch.no_grad():
        batch(layers[2:])  # its prefix is one module: the inner ones are not asked for
        batch(layers)
        batch(layers)
    assert RUNS == ["ran"], "the first layer runs only when it is perturbed itself"


class Thief(nn.Module):
    """Reads a sibling's weight without calling it: nothing that is passed in or out shows it."""

    def __init__(self, owners: list[nn.Conv2d]) -> None:
        super().__init__()
        self.owners = owners  # a plain list: not a child

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.owners[0].weight).sum()


class Robbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.owner, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
        self.thief = Thief([self.owner])

    def forward(self, x: Tensor) -> Tensor:
        stolen = self.thief(x)
        return self.head(self.owner(x)) + stolen


def passes(model: nn.Module, *, replay: bool, batches: int = 2) -> tuple[list[Any], Forward]:
    """Predictions of all passes of a sweep of all layers."""
    x = torch.ones(1, 3, 2, 2)
    variants = [Variant.alone(layer, sv.INT4_WEIGHTS) for layer in sv.wrap(model, x).layers]
    forward = Forward(model, Perturber(model), replay=replay)
    outputs = []
    with torch.no_grad():
        for number in range(batches):

            def run(x: Tensor = x * (number + 1)) -> list[Any]:
                return [{"outputs": [model(x).numpy()]}]

            outputs.append(forward.baseline(run, variants))
            outputs += [forward.variant(run, variant) for variant in variants]
    return outputs, forward


NOTED = threading.local()  # written in C: what it holds is not seen
NOTED.largest = 1.0


class Remembering(nn.Module):
    """One module reads what the model noted of another's output in a global variable."""

    class Scale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * NOTED.largest

    def __init__(self) -> None:
        super().__init__()
        self.side, self.first, self.head = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
        self.scale = self.Scale()

    def forward(self, x: Tensor) -> Tensor:
        side, x = self.side(x), self.first(x)
        NOTED.largest = float(x.abs().max())
        return self.head(x) + self.scale(side)


def test_where_modules_are_no_functions_of_their_inputs_operators_are_replayed() -> None:
    torch.manual_seed(0)
    model = Remembering().eval()
    replayed, forward = passes(model, replay=True)
    full, _ = passes(model, replay=False)
    assert forward.replayer is not None
    assert not forward.replayer.modules
    assert forward.replayer.counts.reused > 0
    assert forward.notes == [
        "replayed by torch functions alone, which saves less: a pass replayed by modules differs from a full one"
    ]
    assert all(map(same, replayed, full))


def test_a_module_that_reads_a_weight_of_another_is_run_again_when_that_one_is_perturbed() -> None:
    torch.manual_seed(0)
    model = Robbed().eval()
    replayed, forward = passes(model, replay=True)
    full, _ = passes(model, replay=False)
    assert forward.replayer is not None
    assert forward.replayer.modules
    assert not forward.notes
    assert all(map(same, replayed, full))


def test_a_model_that_predicts_something_else_each_time_is_found_before_a_prediction_is_used() -> None:
    runs = threading.local()  # written in C: what it holds is not seen
    runs.count = 0

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            runs.count += 1
            return self.head(self.conv(x)) + runs.count

    torch.manual_seed(0)
    _, forward = passes(Counting().eval(), replay=True)
    assert forward.notes == ["not replayed, every pass run in full: the model predicts something else each time"]
    assert forward.replayer is None


def test_a_model_that_cannot_be_replayed_is_found_before_a_prediction_is_used() -> None:
    class Stealthy(nn.Module):
        """Multiplies by a number that another module left in a place that nobody looks into."""

        def __init__(self) -> None:
            super().__init__()
            self.leave, self.middle, self.head = Leave(), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
            self.use = Use(self.leave)

        def forward(self, x: Tensor) -> Tensor:
            x = self.leave(x)
            out: Tensor = self.head(self.use(x) + self.middle(x))
            return out

    torch.manual_seed(0)
    model = Stealthy().eval()
    replayed, forward = passes(model, replay=True)
    full, _ = passes(model, replay=False)
    assert forward.notes == [
        "replayed by torch functions alone, which saves less: a pass replayed by modules differs from a full one"
    ]
    assert all(map(same, replayed, full))


class Leave(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.place = nn.Conv2d(3, 3, 1), ([],)  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> Tensor:
        self.place[0].append(float(x.sum()))
        out: Tensor = self.conv(x)
        return out


class Use(nn.Module):
    """Takes the number away: a pass in which the other module did not run fails here."""

    def __init__(self, leave: Leave) -> None:
        super().__init__()
        self.conv, self.leave = nn.Conv2d(3, 3, 1), (leave,)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x) * self.leave[0].place[0].pop()
        return out


def test_a_model_that_writes_to_what_an_earlier_pass_returned_is_run_in_full() -> None:
    runs = threading.local()  # written in C: what it holds is not seen
    runs.count = 0

    class Late(nn.Module):
        """Writes to a tensor of its own, but only after many passes."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.left, self.right = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            runs.count += 1
            x = self.first(x)
            left = self.left(x)
            right = self.right(x)
            if runs.count > 12:
                left += 1
            return left + right

    torch.manual_seed(0)
    _, forward = passes(Late().eval(), replay=True)
    assert forward.notes == [
        "not replayed, every pass run in full: the model writes to tensors that an earlier pass returned"
    ]


def test_the_random_state_of_every_pass_is_that_of_the_first() -> None:
    states = []

    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            states.append(torch.get_rng_state())
            return self.conv(x) + torch.randn(1)

    torch.manual_seed(0)
    replayed, forward = passes(Peeking().eval(), replay=True)
    assert forward.notes == ["not replayed, every pass run in full: the model draws random numbers"]
    assert all(torch.equal(state, states[-1]) for state in states[1:])  # the first one was of sv.wrap
    torch.manual_seed(0)
    full, _ = passes(Peeking().eval(), replay=False)
    assert all(map(same, replayed, full))
