"""Our observers pass the suite that an outsider's has to pass, and the suite finds what is wrong with an observer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from sensitivity.errors import CalibrationError
from sensitivity.quantize.observers import make_observer
from sensitivity.records import QuantSpec
from sensitivity.testing.observers import Make, ObserverSuite
from tests.testing.plain_observer import Plain

ORDER_FREE = [
    QuantSpec(),
    QuantSpec(granularity="per-channel"),
    QuantSpec(observer="percentile", percentile=99.0),
    QuantSpec(observer="percentile", percentile=99.0, symmetric=False),
    QuantSpec(observer="percentile", percentile=99.0, sample_every=8),
    QuantSpec("int4", observer="mse"),
    QuantSpec(observer="mse", symmetric=False),
    QuantSpec(observer="entropy"),
]


class TestOurs(ObserverSuite):
    @pytest.fixture(params=ORDER_FREE, ids=repr)
    def make(self, request: pytest.FixtureRequest) -> Make:
        return lambda: make_observer(request.param)


class TestMovingAverage(ObserverSuite):
    depends_on_order = True

    @pytest.fixture
    def make(self) -> Make:
        return lambda: make_observer(QuantSpec(observer="ema"))


class TestPlain(ObserverSuite):
    @pytest.fixture
    def make(self) -> Make:
        return Plain


class KeepsEverything(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def observe(self, x: Tensor) -> None:
        super().observe(x)
        self.tensors.append(x.clone())


class AveragesBatches(Plain):
    batches = 0

    def observe(self, x: Tensor) -> None:
        if x.numel():
            before, self.batches = self.batches, self.batches + 1
            low, high = (0.0, 0.0) if not before else (self.low, self.high)
            self.low = (low * before + float(x.min())) / self.batches
            self.high = (high * before + float(x.max())) / self.batches


class FirstImageOnly(Plain):
    def observe(self, x: Tensor) -> None:
        super().observe(x[:1])


class LastImageWins(Plain):
    def observe(self, x: Tensor) -> None:
        if x.numel():
            self.low, self.high = float(x[-1].min()), float(x[-1].max())


class ChangesInput(Plain):
    def observe(self, x: Tensor) -> None:
        super().observe(x)
        x.mul_(0.5)


class KeepsAView(Plain):
    last: Tensor | None = None

    def observe(self, x: Tensor) -> None:
        super().observe(x)
        self.last = x

    def range(self) -> tuple[Tensor, Tensor]:
        low, high = super().range()
        return low, torch.maximum(high, high if self.last is None or not self.last.numel() else self.last.max())


class ForgetsWhenAsked(Plain):
    def range(self) -> tuple[Tensor, Tensor]:
        bounds = super().range()
        self.__init__()  # type: ignore[misc]
        return bounds


class Shared(Plain):
    bounds: dict[str, float] = {"low": torch.inf, "high": -torch.inf}  # noqa: RUF012 - the fault

    def __init__(self) -> None:
        self.low, self.high = self.bounds["low"], self.bounds["high"]

    def observe(self, x: Tensor) -> None:
        super().observe(x)
        self.bounds.update(low=self.low, high=self.high)


class InventsARange(Plain):
    def range(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(min(self.low, 0.0)), torch.tensor(max(self.high, 0.0))


class FailsOnEmpty(Plain):
    def observe(self, x: Tensor) -> None:
        super().observe(x.reshape(-1)[:1])
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))


class IgnoresNaN(Plain):
    def observe(self, x: Tensor) -> None:
        super().observe(x.nan_to_num(0.0, 0.0, 0.0))


class DoublePrecision(Plain):
    def range(self) -> tuple[Tensor, Tensor]:
        low, high = super().range()
        return low.double(), high.double()


class UpsideDown(Plain):
    def range(self) -> tuple[Tensor, Tensor]:
        low, high = super().range()
        return high, low


class Constant(Plain):
    def range(self) -> tuple[Tensor, Tensor]:
        super().range()
        return torch.tensor(-1.0), torch.tensor(1.0)


class MergesNothing(Plain):
    def merge(self, other: Plain) -> None:
        pass


class SavesHalf(Plain):
    def load_state(self, state: Mapping[str, Any]) -> None:
        self.high = state["high"]


class AddsState(Plain):
    def load_state(self, state: Mapping[str, Any]) -> None:
        self.low, self.high = min(self.low, state["low"]), max(self.high, state["high"])


class SavesTensors(Plain):
    def state(self) -> dict[str, Any]:
        return {"low": torch.tensor(self.low), "high": torch.tensor(self.high)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.low, self.high = float(state["low"]), float(state["high"])


class HasNoRange:
    observe = merge = state = load_state = Plain.observe


BROKEN: dict[type, str] = {
    HasNoRange: "it_fits_the_contract",
    DoublePrecision: "a_range_is_two_float32_tensors_around_values_that_were_seen",
    UpsideDown: "a_range_is_two_float32_tensors_around_values_that_were_seen",
    Constant: "a_range_follows_the_values",
    AveragesBatches: "the_division_into_batches_makes_no_difference",
    FirstImageOnly: "the_division_into_batches_makes_no_difference",
    LastImageWins: "the_order_of_images_makes_no_difference",
    KeepsEverything: "its_memory_does_not_grow",
    ChangesInput: "what_it_observes_is_not_changed",
    KeepsAView: "what_it_observed_may_be_overwritten",
    ForgetsWhenAsked: "asking_for_the_range_changes_nothing",
    Shared: "observers_do_not_know_each_other",
    InventsARange: "nothing_observed_is_an_error",
    FailsOnEmpty: "empty_tensors_are_passed_over",
    IgnoresNaN: "values_that_are_not_finite_are_an_error",
    MergesNothing: "merging_is_observing_what_the_other_saw_last",
    SavesHalf: "a_state_brings_everything_back",
    AddsState: "a_state_brings_everything_back",
    SavesTensors: "a_state_is_data_and_a_snapshot",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_the_suite_finds_what_is_wrong(broken: type) -> None:
    check = getattr(ObserverSuite(), f"test_{BROKEN[broken]}")
    with pytest.raises((AssertionError, RuntimeError, IndexError, CalibrationError)):
        check(broken)
    check(Plain)


def test_every_test_of_the_suite_finds_a_broken_observer() -> None:
    tests = {name.removeprefix("test_") for name in vars(ObserverSuite) if name.startswith("test_")}
    assert tests - set(BROKEN.values()) == {"half_precision_is_observed"}


def test_half_precision_that_overflows_is_found() -> None:
    class Squares(Plain):
        def observe(self, x: Tensor) -> None:
            super().observe((x * 1000) ** 2 / 1e6)

    with pytest.raises(CalibrationError, match="NaN or infinite"):
        ObserverSuite().test_half_precision_is_observed(Squares)


def test_observers_of_other_specs_are_not_merged() -> None:
    with pytest.raises(CalibrationError, match="cannot be merged with a MinMaxObserver for QuantSpec"):
        make_observer(QuantSpec()).merge(make_observer(QuantSpec("int4")))
