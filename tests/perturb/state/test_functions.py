"""What the functions of a forward pass keep beside the model starts anew in every pass, and is put back."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import NotRestoredError
from sensitivity.perturb.state.functions import entries, is_looked_at, kept_by, named_functions
from sensitivity.zoo import mpvit

Step = Callable[[Tensor], float]

passes = 0
means: list[float] = []
counts = np.zeros(1)
total = torch.zeros(())


class Steps:
    """A class that counts in an attribute of its own."""

    taken = 0


def in_a_global(_: Tensor) -> float:
    global passes
    passes += 1
    return passes


def in_a_list(x: Tensor) -> float:
    means.append(float(x.mean()))
    return len(means)


def in_an_array(_: Tensor) -> float:
    counts[0] += 1
    return float(counts[0])


def in_a_tensor(_: Tensor) -> float:
    return float(total.add_(1))


def in_a_default(_: Tensor, seen: list[int] = []) -> float:  # noqa: B006 - what is tested
    seen.append(1)
    return len(seen)


def in_an_attribute_of_the_function(_: Tensor) -> float:
    in_an_attribute_of_the_function.__dict__["calls"] = getattr(in_an_attribute_of_the_function, "calls", 0) + 1
    return float(in_an_attribute_of_the_function.__dict__["calls"])


def in_an_attribute_of_a_class(_: Tensor) -> float:
    Steps.taken += 1
    return Steps.taken


def in_a_closure() -> Step:
    count = 0

    def step(_: Tensor) -> float:
        nonlocal count
        count += 1
        return count

    return step


STEPS: dict[str, Step] = {
    function.__name__: function
    for function in (
        in_a_global,
        in_a_list,
        in_an_array,
        in_a_tensor,
        in_a_default,
        in_an_attribute_of_the_function,
        in_an_attribute_of_a_class,
    )
} | {"in_a_closure": in_a_closure()}


class Held(nn.Module):
    """Two convolutions, and between them a step that an attribute holds."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.steps = {"one": [step]}

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) + self.steps["one"][0](x))


def enclosed(step: Step) -> nn.Module:
    """The same, where the class's method holds the step in its closure and calls it in another method."""

    class Enclosed(Held):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(self._shifted(self.first(x)))

        def _shifted(self, x: Tensor) -> Tensor:
            return x + step(x)

    return Enclosed(abs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "make", "replay"),
    [(kind, (Held, enclosed)[number % 2], number % 4 < 2) for number, kind in enumerate(STEPS)]
    + [("in_a_global", enclosed, False), ("in_a_closure", Held, True)],
)
def test_every_variant_starts_from_the_same_state_and_it_is_there_again(
    kind: str, make: Callable[[Step], nn.Module], replay: bool
) -> None:
    step = STEPS[kind]
    torch.manual_seed(0)
    model, x = make(step).eval(), torch.randn(3, 3, 4, 4)
    before = step(x)
    task = sv.FeatureFidelity(x, batch_size=1)
    wrapped = sv.wrap(model, x[:1])
    study = wrapped.analyze(task, sv.INT8_WEIGHTS, progress=False, settings=sv.Sweep(replay=replay, workers=None))
    for row in study.measurements:
        alone = wrapped.evaluate(task, sv.Scheme.only([row.layer], sv.INT8_WEIGHTS)).value
        assert row.score == pytest.approx(alone, abs=1e-9)
    assert step(x) == before + 1


def test_an_iterator_of_a_closure_that_a_pass_has_moved_is_refused() -> None:
    numbers = itertools.count()
    model = enclosed(lambda _: float(next(numbers))).eval()
    x = torch.randn(2, 3, 4, 4)
    wrapped = sv.wrap(model, x[:1])
    with pytest.raises(NotRestoredError, match="closure numbers"):
        wrapped.analyze(sv.FeatureFidelity(x), sv.INT8_WEIGHTS, progress=False)


def test_functions_of_torch_and_numpy_are_not_looked_into() -> None:
    assert list(entries([nn.Conv2d(1, 1, 1)])) == []
    [(_, forward)] = entries([Held(abs)])  # type: ignore[arg-type]
    assert named_functions(forward, [Held]) == []
    holders: list[Any] = kept_by(in_a_tensor, "in_a_tensor")
    assert "total" in holders[0].content
    assert "float" not in holders[0].content


@pytest.mark.parametrize("most", [1, 4000])
def test_a_model_that_leads_into_more_functions_than_are_looked_at_has_a_note(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("attributes", "state"):
        monkeypatch.setattr(f"sensitivity.perturb.state.{module}.MOST_FUNCTIONS", most)
    wrapped = sv.wrap(Held(in_a_list).eval(), torch.ones(1, 3, 4, 4))
    study = wrapped.analyze(
        sv.FeatureFidelity(torch.ones(2, 3, 4, 4)), sv.INT8_WEIGHTS, settings=sv.Sweep(workers=None)
    )
    remarks = [note for note in study.notes if "may call more than" in note]
    assert len(remarks) == (most == 1)


def test_of_this_library_only_the_models_that_it_ships_are_looked_into() -> None:
    assert not is_looked_at(sv.wrap)  # type: ignore[arg-type]
    assert list(entries([mpvit.build("tiny", classes=2)]))
