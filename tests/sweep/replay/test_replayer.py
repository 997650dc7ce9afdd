"""A replayed sweep gives every bit of a full one, on every awkward model, and does less."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sensitivity as sv
from sensitivity.layers.trace.inputs import unchanged_inputs
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.sweep.passes.forward import FEWEST_REPLAYED, Forward
from sensitivity.sweep.passes.predictions import same
from sensitivity.sweep.plan import Variant
from sensitivity.sweep.replay.replayer import Replayer
from tests.models import CASES
from tests.sweep.recording_task import RecordingTask


@pytest.fixture(params=["operators pay", "operators do not pay"])
def operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Small models are too quick to decide by the clock whether looking operators up pays: it is free, or dear."""
    pays = bool(request.param == "operators pay")
    monkeypatch.setattr("sensitivity.sweep.replay.foresight.OPERATOR_SECONDS", 0.0 if pays else 1.0)
    return pays


def predictions(wrapped: sv.Wrapped, task: RecordingTask, *, replay: bool) -> tuple[list[Any], Forward]:
    """Baseline and every layer's predictions at int4 weights, for every batch."""
    layers = [layer for layer in wrapped.layers if "computed-weight" not in layer.flags]
    predicted: list[Any] = []
    with untouched(wrapped.model), torch.no_grad():
        forward = Forward(wrapped.model, Perturber(wrapped.model), replay=replay)
        for batch in task.batches():
            run = unchanged_inputs(partial(task.predict, wrapped.model, batch), batch)
            predicted.append(forward.baseline(run, [Variant.alone(layer, sv.INT4_WEIGHTS) for layer in layers]))
            for layer in layers:
                predicted.append(forward.variant(run, Variant.alone(layer, sv.INT4_WEIGHTS)))
    return predicted, forward


@pytest.mark.parametrize("name", sorted(CASES))
def test_replay_equals_a_full_pass_bit_for_bit(name: str, operators: bool) -> None:
    case = CASES[name]
    wrapped = sv.wrap(case.build(), case.inputs)
    task = RecordingTask([case.inputs, case.inputs, case.inputs])
    full, _ = predictions(wrapped, task, replay=False)
    replayed, forward = predictions(wrapped, task, replay=True)
    assert all(map(same, full, replayed))
    if forward.replayer is None:
        assert forward.notes, "falling back is said"


def test_most_awkward_models_are_replayed_and_those_that_are_not_say_why() -> None:
    reasons = {}
    for name, case in CASES.items():
        wrapped = sv.wrap(case.build(), case.inputs)
        _, forward = predictions(wrapped, RecordingTask([case.inputs]), replay=True)
        if forward.replayer is None:
            reasons[name] = forward.notes[0]
    assert all("run in full" in reason for reason in reasons.values())
    assert len(reasons) <= len(CASES) // 10, reasons


class Chain(nn.Module):
    """Blocks that count how often they run."""

    def __init__(self, depth: int = 6, *, inplace: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(depth))
        self.side = nn.Conv2d(4, 4, 1)
        self.inplace = inplace
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        side = self.side(x)
        for block in self.blocks:
            x = block(x)
            x = F.relu_(x) if self.inplace else F.relu(x)
            x += 1
        return x + side


@pytest.mark.parametrize("inplace", [False, True])
def test_replay_runs_only_what_comes_after_the_perturbed_layer(inplace: bool, operators: bool) -> None:
    torch.manual_seed(0)
    model = Chain(inplace=inplace).eval()
    x = torch.randn(1, 4, 8, 8)
    wrapped = sv.wrap(model, x)
    counted = {"runs": 0}
    original = nn.Conv2d._conv_forward

    def counting(self: nn.Conv2d, *args: Any) -> Tensor:
        counted["runs"] += 1
        return original(self, *args)

    task = RecordingTask([x, 2 * x, 3 * x])
    full, _ = predictions(wrapped, task, replay=False)
    nn.Conv2d._conv_forward = counting  # type: ignore[method-assign]
    try:
        replayed, forward = predictions(wrapped, task, replay=True)
    finally:
        nn.Conv2d._conv_forward = original  # type: ignore[method-assign]
    assert all(map(same, full, replayed))
    assert not forward.notes
    # the recorded pass; a suffix for each block; the side branch and the blocks behind the first functional relu, whose
    # output is written to, so that its identity shows nothing
    each_batch = 7 + sum(range(1, 7)) + 6
    # the pass surveyed; four variants checked: replayed and in full
    first_batch = 7 + (6 + 5 + 3 + 1) + 4 * 7
    reused = 6 + 5 + 3 + 1  # what the checks replayed is not replayed again
    assert counted["runs"] == 3 * each_batch + first_batch - reused


def test_a_clean_branch_behind_the_perturbed_layer_is_not_run_again() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Conv2d(3, 4, 3)
            self.left, self.right = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
            self.left_head, self.right_head = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.trunk(x)
            left, right = self.left(x), self.right(x)
            return {"left": self.left_head(left), "right": self.right_head(right)}

    torch.manual_seed(0)
    model, x = Branches().eval(), torch.randn(1, 3, 8, 8)
    wrapped = sv.wrap(model, x)
    with torch.no_grad():
        forward = Forward(model, Perturber(model), replay=True)
        variant = Variant.alone(wrapped.layers["left"], sv.INT4_WEIGHTS)
        forward.baseline(lambda: [model(x)["left"].numpy()], [variant])
        assert forward.replayer is not None
        counts = forward.replayer.counts
        forward.variant(lambda: [model(x)["left"].numpy()], variant)
    assert counts.reused == 3  # by the check, which need not run again: trunk before it; right and its head behind it


def test_a_model_that_draws_random_numbers_is_run_in_full_and_draws_the_same_ones() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x) + torch.randn(1, 4, 1, 1))

    torch.manual_seed(0)
    model, x = Noisy().eval(), torch.randn(1, 3, 4, 4)
    study = sv.wrap(model, x).analyze(RecordingTask([x] * FEWEST_REPLAYED), sv.Prune(0.0), progress=False)
    assert study.notes == ("not replayed, every pass run in full: the model draws random numbers",)
    assert [m.drop for m in study.measurements] == [0.0, 0.0]


def test_a_module_that_keeps_state_is_never_answered_from_the_record() -> None:
    class Remembers(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = x.mean()
            return x * 2

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.conv = Remembers(), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.memory(x)) + self.memory.seen

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(1, 3, 4, 4)
    wrapped = sv.wrap(model, x)
    task = RecordingTask([x, x + 1, x + 2])
    full, _ = predictions(wrapped, task, replay=False)
    replayed, _ = predictions(wrapped, task, replay=True)
    assert all(map(same, full, replayed))


def test_hooks_that_the_user_registered_still_run() -> None:
    torch.manual_seed(0)
    model, x = Chain(3).eval(), torch.randn(1, 4, 4, 4)
    wrapped = sv.wrap(model, x)
    ran = []
    handle = model.side.register_forward_hook(lambda *_: ran.append(1))
    try:
        predictions(wrapped, RecordingTask([x]), replay=True)
        replayed = len(ran)
        ran.clear()
        predictions(wrapped, RecordingTask([x]), replay=False)
        assert replayed >= len(ran) > 0
    finally:
        handle.remove()


def test_the_modules_are_called_as_before_after_an_interrupt() -> None:
    model, x = Chain(2).eval(), torch.randn(1, 4, 4, 4)
    wrapped = sv.wrap(model, x)
    task = RecordingTask([x])
    calls = []

    def interrupt(outputs: list[Any]) -> bool:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return False

    task.fail_on = interrupt
    original = nn.Module.__call__
    with pytest.raises(KeyboardInterrupt):
        wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)
    assert nn.Module.__call__ is original


def test_where_the_pass_behind_the_surveyed_one_goes_another_way_nothing_is_recorded() -> None:
    class Alternating(nn.Module):
        """Leaves two of its modules out in every second pass."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))
            self.passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return self.third(self.second(self.first(x))) if self.passes % 2 else self.first(x)

    torch.manual_seed(0)
    model, x = Alternating().eval(), torch.randn(1, 3, 4, 4)
    replayer = Replayer(model)
    with torch.no_grad():
        short = replayer.record(lambda: model(x), [{model.second}])
        assert torch.equal(short, model.first(x))
        assert replayer.kept_bytes == 0
        with replayer.replaying({model.second}):
            long = model(x)
        assert torch.equal(long, model.third(model.second(model.first(x))))
