"""Times of single layers on an engine, and what a latency budget buys."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import sensitivity as sv
from sensitivity.deploy.verify.latency import by_turns
from sensitivity.errors import EngineError
from tests.deploy.nets import images


def test_every_layer_has_a_time_in_both_precisions(wrapped: sv.Wrapped) -> None:
    latency = wrapped.latency(sv.INT8)
    assert list(latency.layers) == wrapped.layers.names
    assert all(quantized > 0 and in_float > 0 for quantized, in_float in latency.layers.values())
    for number, whole in enumerate((latency.quantized_s, latency.float_s)):
        assert sum(times[number] for times in latency.layers.values()) < 20 * whole, (
            "profiling has a price, no other unit"
        )


def test_timers_are_called_by_turns_and_the_median_counts() -> None:
    said: list[str] = []

    def timer(name: str, seconds: list[float]) -> Callable[[], float]:
        def tell() -> float:
            said.append(name)
            return seconds.pop(0)

        return tell

    assert by_turns([timer("a", [1.0, 9.0, 2.0]), timer("b", [3.0, 8.0, 4.0])], rounds=3) == [2.0, 4.0]
    assert said == ["a", "b"] * 3


def test_a_study_with_times_can_be_protected_within_a_latency(shared: sv.Wrapped) -> None:
    study = shared.analyze(sv.FeatureFidelity(list(images(2, seed=3))), sv.INT8, progress=False)
    latency = shared.latency(sv.INT8)
    study = study.with_latency(latency)
    everything = shared.layers.names
    assert set(study.protect(latency_s=1e3).reasons) <= set(everything)
    figure = sv.pareto(study, against="latency")
    assert figure.axes[0].get_xlabel() == "time of one run (ms)"


def test_an_engine_that_tells_no_times_is_refused(shared: sv.Wrapped) -> None:
    with pytest.raises(EngineError, match="onnxruntime does not tell how long a layer takes"):
        shared.latency(sv.INT8, "onnxruntime")
