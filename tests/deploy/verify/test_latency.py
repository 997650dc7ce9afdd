"""Times of single layers on an engine, and what a latency budget buys."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

import sensitivity as sv
from sensitivity.contracts import EngineLayer
from sensitivity.deploy.executed import ExecutedPart
from sensitivity.deploy.verify.cpu_affinity import held_to_cpus
from sensitivity.deploy.verify.latency import _Profile, _protecting, _Variant
from sensitivity.deploy.verify.timing import Timing, by_turns
from sensitivity.errors import EngineError
from sensitivity.records.results.latency import Latency
from tests.deploy.nets import images


@pytest.fixture(scope="module")
def latency(shared: sv.Wrapped) -> Latency:
    return shared.latency(sv.INT8, rounds=2)


def test_every_layer_has_a_time_in_both_precisions(wrapped: sv.Wrapped) -> None:
    latency = wrapped.latency(sv.INT8, rounds=1)
    assert list(latency.layers) == wrapped.layers.names
    assert all(quantized > 0 and in_float > 0 for quantized, in_float in latency.layers.values())
    for number, whole in enumerate((latency.quantized_s, latency.float_s)):
        assert sum(times[number] for times in latency.layers.values()) < 20 * whole, (
            "profiling has a price, no other unit"
        )


def test_how_it_was_measured_is_told(latency: Latency) -> None:
    known = latency.circumstances
    assert known is not None
    assert (known.rounds, known.runs, known.threads) == (2, 20, 1)
    assert min(known.spread_s) >= 0.0
    assert set(known.protecting_s) == set(latency.layers), "every layer was protected in one of three graphs"
    first = next(iter(latency.layers))
    assert set(known.protecting_spread_s) == set(latency.layers)
    assert latency.extra_s(first) == known.protecting_s[first] or first in latency.undetermined
    text = str(latency)
    assert "Medians of 2 rounds by turns, 20 runs of each after a warm-up; threads: 1" in text
    assert "Operations that only change the format of a tensor: " in text


def test_the_input_is_quantized_by_an_operation_of_its_own(latency: Latency) -> None:
    """OpenVINO has nothing to fuse it into: the graph's input is no layer's output."""
    known = latency.circumstances
    assert known is not None
    first = next(iter(latency.layers))
    assert known.changes[first][0] >= 1
    assert latency.to_frame().loc[first, "changes"] == known.changes[first][0]
    assert known.graph_changes[0][0] >= known.changes[first][0]


def test_timers_are_called_by_turns_and_the_median_counts() -> None:
    called: list[str] = []

    def timer(name: str, seconds: list[float]) -> Callable[[], float]:
        def tell() -> float:
            called.append(name)
            return seconds.pop(0)

        return tell

    timings = by_turns([timer("a", [1.0, 9.0, 2.0]), timer("b", [3.0, 8.0, 4.0])], rounds=3)
    assert timings == [Timing(2.0, 4.0), Timing(4.0, 2.5)], "numpy.percentile: 1.5 and 5.5, 3.5 and 6"
    assert called == ["a", "b"] * 3


def test_one_round_has_no_spread() -> None:
    assert by_turns([lambda: 3.0], rounds=1) == [Timing(3.0, 0.0)]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot hold a process to a CPU")
def test_the_process_is_held_to_as_many_cpus_as_threads_and_let_go() -> None:
    before = os.sched_getaffinity(0)
    with held_to_cpus(1) as cpus:
        held = os.sched_getaffinity(0)
    assert os.sched_getaffinity(0) == before
    if len(before) > 1:
        assert held == set(cpus)
        assert len(cpus) == 1
    with held_to_cpus(None) as cpus:
        assert os.sched_getaffinity(0) == before
    assert cpus == ()


def part(*operations: EngineLayer) -> ExecutedPart:
    return ExecutedPart("made", operations, {"a": "a", "b": "b", "c": "c"})


def test_a_change_of_format_belongs_to_the_layers_that_read_it() -> None:
    executed = part(
        EngineLayer("quantize", (), "fp32", 3.0, (), "to int8"),
        EngineLayer("a", ("a",), "int8", 1.0, ("quantize",)),
        EngineLayer("add", (), "fp32", 1.0, ("a",)),
        EngineLayer("codes", (), "fp32", 2.0, ("add",), "to int8"),
        EngineLayer("b", ("b",), "int8", 5.0, ("codes",)),
        EngineLayer("c", ("c",), "int8", 7.0, ("codes",)),
        EngineLayer("out", (), "int8", 11.0, ("c",), "to float"),
    )
    assert executed.seconds() == {"a": 1.0, "b": 5.0, "c": 7.0}
    assert executed.changes() == {"a": (1, 3.0), "b": (1, 1.0), "c": (1, 1.0)}, "what two layers read is shared"
    assert executed.all_changes() == (3, 16.0), "also what no layer reads"
    assert executed.readers() == {"a": {"b", "c"}, "b": frozenset(), "c": frozenset()}


def made_latency(**changes: float) -> Latency:
    values = {"quantized_s": 0.010, "float_s": 0.020} | changes
    return Latency("net", sv.INT8, "made", layers={"a": (0.001, 0.002)}, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("float_s", "words"),
    [
        (0.020, "int8 is 2.00 times as fast"),
        (0.005, "int8 is slower than float here, it takes 2.00 times as long"),
        (0.0101, "these runs do not tell which of the two is faster"),
    ],
)
def test_which_of_the_two_is_faster_is_said_as_far_as_the_runs_tell(
    latency: Latency, float_s: float, words: str
) -> None:
    assert latency.circumstances is not None
    circumstances = replace(latency.circumstances, spread_s=(0.0005, 0.0002))
    assert words in str(replace(made_latency(float_s=float_s), circumstances=circumstances))


def test_one_round_has_no_spread_and_tells_nothing_apart(latency: Latency) -> None:
    assert latency.circumstances is not None
    once = replace(latency.circumstances, rounds=1, runs=10, spread_s=(0.0, 0.0), layer_spread_s={"a": (0.0, 0.0)})
    made = replace(made_latency(), circumstances=once)
    assert not made.is_told_apart
    assert "10 ms in int8, 20 ms in float: these runs do not tell which of the two is faster." in str(made)
    assert "Medians of one round by turns" in str(made)
    assert "One round has no spread." in str(made)
    assert made.to_frame()[["quantized_spread_ms", "float_spread_ms"]].isna().all(axis=None)


def test_a_layer_that_is_dear_to_protect_only_for_changes_of_format_is_named(latency: Latency) -> None:
    assert latency.circumstances is not None
    circumstances = replace(
        latency.circumstances,
        protecting_s={"a": 0.003, "b": 0.003, "c": -0.001},
        protected_changes={"a": (2, 0.004), "b": (1, 0.001), "c": (0, 0.0)},
        layer_spread_s={},
    )
    layers = {"a": (0.002, 0.001), "b": (0.001, 0.003), "c": (0.002, 0.001)}
    made = replace(made_latency(), layers=layers, circumstances=circumstances)
    assert made.dear == ("a",), "b is slower in float itself, and c costs nothing"
    assert "dear to protect for changes of format: a." in str(made)


NOISY = {"protecting_s": {"a": -0.001, "b": 0.001, "c": -0.003}, "protecting_spread_s": dict.fromkeys("abc", 0.002)}
"""What protecting costs is lost in the spread but for c, which is faster in float."""


def noisy(latency: Latency, **changes: object) -> Latency:
    assert latency.circumstances is not None
    circumstances = replace(latency.circumstances, protected_changes={}, **NOISY)  # type: ignore[arg-type]
    layers = dict.fromkeys("abc", (0.002, 0.002))
    return replace(made_latency(), layers=layers, circumstances=replace(circumstances, **changes))  # type: ignore[arg-type]


def test_a_cost_below_zero_by_noise_is_undetermined_and_no_gain(latency: Latency) -> None:
    made = noisy(latency)
    assert made.undetermined == ("a", "b")
    assert [made.extra_s(name) for name in "abc"] == [0.0, 0.001, -0.003]
    assert [made.extra_at_most_s(name) for name in "abc"] == [0.002, 0.002, -0.003]
    frame = made.to_frame()
    assert frame["protecting_undetermined"].tolist() == [True, True, False]
    assert frame["protecting_spread_ms"].tolist() == [2.0, 2.0, 2.0]
    assert "For 2 of 3 layers these runs do not tell whether protecting them costs time: a, b." in str(made)


def test_one_round_determines_no_cost(latency: Latency) -> None:
    made = noisy(latency, rounds=1)
    assert made.undetermined == ("a", "b", "c")
    assert [made.extra_s(name) for name in "abc"] == [0.0, 0.001, 0.0]
    assert [made.extra_at_most_s(name) for name in "abc"] == [0.001, 0.001, 0.003]
    assert made.to_frame()["protecting_spread_ms"].isna().all()


def test_times_of_older_versions_are_told_apart_by_the_spread_of_the_layers(latency: Latency) -> None:
    spreads = dict.fromkeys("abc", (0.0005, 0.001))
    made = noisy(latency, protecting_spread_s={}, layer_spread_s=spreads)
    assert made.undetermined == ("a", "b")
    nobody_told = replace(made, circumstances=None, layers={"a": (0.002, 0.001)})
    assert nobody_told.undetermined == ()
    assert nobody_told.extra_s("a") == nobody_told.extra_at_most_s("a") == -0.001


def test_what_protecting_adds_is_compared_within_each_round() -> None:
    """A round in which the machine is slow slows both graphs, and moves no difference."""
    rounds = [(1.0, 3.0), (11.0, 13.0), (2.0, 4.5)]
    quantized, third = _Variant(frozenset("ab"), []), _Variant(frozenset("b"), [])
    for less, more in rounds:
        quantized.profiles.append(_Profile({"a": less}, {"b": (1, 0.5)}, (1, 0.5), {"a": frozenset("b")}))
        third.profiles.append(_Profile({"a": more}, {"b": (2, 1.5)}, (2, 1.5), {"a": frozenset("b")}))
    told_of = _protecting(["a", "b"], [quantized, quantized, third])
    assert told_of["protecting_s"] == {"a": 3.0}
    assert told_of["protecting_spread_s"] == {"a": 0.25}
    assert told_of["protected_changes"] == {"a": (2, 1.5)}


def test_a_study_with_times_can_be_protected_within_a_latency(shared: sv.Wrapped, latency: Latency) -> None:
    study = shared.analyze(sv.FeatureFidelity(list(images(2, seed=3))), sv.INT8, progress=False)
    study = study.with_latency(latency)
    everything = shared.layers.names
    assert set(study.protect(latency_s=1e3).reasons) <= set(everything)
    figure = sv.pareto(study, against="latency")
    assert figure.axes[0].get_xlabel() == "time of one run (ms)"


def test_an_engine_that_tells_no_times_is_refused(shared: sv.Wrapped) -> None:
    with pytest.raises(EngineError, match="onnxruntime does not tell how long a layer takes"):
        shared.latency(sv.INT8, "onnxruntime", rounds=1)


@pytest.mark.parametrize("argument", ["threads", "rounds"])
def test_a_number_below_one_is_refused(shared: sv.Wrapped, argument: str) -> None:
    with pytest.raises(EngineError, match=f"{argument}=0: give 1 or more"):
        shared.latency(sv.INT8, **{argument: 0})


def test_threads_are_handed_to_the_engine(shared: sv.Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine

    taken: list[int | None] = []
    build = OpenVinoEngine.__init__

    def counted(self: OpenVinoEngine, model: bytes, **settings: int | None) -> None:
        taken.append(settings.get("threads"))
        build(self, model, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(OpenVinoEngine, "__init__", counted)
    shared.latency(sv.INT8, threads=2, rounds=1)
    assert set(taken) == {2}
    taken.clear()
    assert shared.latency(sv.INT8, threads=None, rounds=1).circumstances.cpus == ()  # type: ignore[union-attr]
    assert set(taken) == {None}
