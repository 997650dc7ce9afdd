"""What every engine must do, as a class of tests to inherit.

Give the test file the fixtures ``engine`` and ``graph_case`` and name the subclass ``Test...``; pytest runs the rest::

    @pytest.fixture(scope="module")
    def graph_case(): return GraphCase(inputs, outputs, nodes)

    @pytest.fixture(scope="module")
    def engine(): return MyEngine(onnx_bytes)

    class TestMyEngine(EngineSuite):
        ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sensitivity.contracts import Engine, EngineCapabilities, EngineLayer
from sensitivity.errors import EngineError
from sensitivity.records.recipes.formats import formats as known_formats


@dataclass(frozen=True, eq=False)
class GraphCase:
    """What an engine is tried on.

    Attributes:
        inputs: Arrays for one run; the first is float32 with at least two elements along its last axis.
        outputs: What the graph computes from them, found by other means.
        nodes: Names of nodes that ``layer_info`` must account for.
        tolerance: Largest absolute difference of an output.
    """

    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    nodes: frozenset[str]
    tolerance: float = 1e-4


class EngineSuite:
    """The tests; the file of the subclass gives the fixtures ``engine`` and ``graph_case``."""

    def test_it_fits_the_contract(self, engine: Engine) -> None:
        """It has the attributes and methods of ``Engine``."""
        assert isinstance(engine, Engine)
        assert engine.name
        assert engine.name == engine.name.strip().lower()

    def test_it_says_what_it_is_and_what_it_can_run(self, engine: Engine) -> None:
        """Version, traits and capabilities are of the types and words of the contract."""
        assert engine.version is None or (isinstance(engine.version, str) and engine.version)
        assert isinstance(engine.computes_in_float, bool)
        assert isinstance(engine.is_simulation, bool)
        able = engine.capabilities
        assert isinstance(able, EngineCapabilities)
        for formats in (able.weight_formats, able.activation_formats):
            assert formats is None or set(formats) <= {number_format.name for number_format in known_formats()}
        assert set(able.weight_granularities) <= {"per-tensor", "per-channel"}
        assert "fp32" in able.rests
        assert able.saturates in (True, False, None)
        assert engine.saturates in (True, False, None)
        assert able.saturates is None or engine.saturates in (None, able.saturates)

    def test_an_engine_that_computes_in_float_does_not_claim_int8(self, engine: Engine, graph_case: GraphCase) -> None:
        """What is declared a float reference says so of every layer, too."""
        engine.run(*graph_case.inputs)
        computed = {layer.precision for layer in engine.layer_info() if graph_case.nodes & set(layer.nodes)}
        assert not engine.computes_in_float or "int8" not in computed

    def test_an_engine_that_times_layers_tells_all_their_times(self, engine: Engine, graph_case: GraphCase) -> None:
        """Where ``capabilities.times_layers``, no node that was asked for is without a time once it has run."""
        engine.run(*graph_case.inputs)
        layers = [layer for layer in engine.layer_info() if graph_case.nodes & set(layer.nodes)]
        assert not engine.capabilities.times_layers or all(layer.time_s is not None for layer in layers)

    def test_outputs_are_right_and_in_order(self, engine: Engine, graph_case: GraphCase) -> None:
        """Every output equals what was found by other means."""
        outputs = engine.run(*graph_case.inputs)
        assert isinstance(outputs, tuple)
        assert len(outputs) == len(graph_case.outputs)
        for have, want in zip(outputs, graph_case.outputs, strict=True):
            assert isinstance(have, np.ndarray)
            np.testing.assert_allclose(have, want, atol=graph_case.tolerance, rtol=0)

    def test_the_same_inputs_give_the_same_outputs(self, engine: Engine, graph_case: GraphCase) -> None:
        """Bit for bit, run after run."""
        for first, second in zip(engine.run(*graph_case.inputs), engine.run(*graph_case.inputs), strict=True):
            np.testing.assert_array_equal(first, second)

    def test_outputs_stay_as_they_are_when_it_runs_again(self, engine: Engine, graph_case: GraphCase) -> None:
        """What was returned is the caller's own."""
        first = engine.run(*graph_case.inputs)
        copies = [array.copy() for array in first]
        engine.run(*[array * 0 for array in graph_case.inputs])
        for have, want in zip(first, copies, strict=True):
            np.testing.assert_array_equal(have, want)

    def test_inputs_are_not_changed(self, engine: Engine, graph_case: GraphCase) -> None:
        """Nothing is written to the caller's arrays."""
        inputs = [array.copy() for array in graph_case.inputs]
        engine.run(*inputs)
        for have, want in zip(inputs, graph_case.inputs, strict=True):
            np.testing.assert_array_equal(have, want)

    def test_inputs_need_not_be_contiguous(self, engine: Engine, graph_case: GraphCase) -> None:
        """A view with strides of its own gives the same outputs."""
        views = [np.repeat(array, 2, axis=-1)[..., ::2] for array in graph_case.inputs]
        for from_views, from_arrays in zip(engine.run(*views), engine.run(*graph_case.inputs), strict=True):
            np.testing.assert_array_equal(from_views, from_arrays)

    def test_a_wrong_shape_is_refused(self, engine: Engine, graph_case: GraphCase) -> None:
        """The message tells both shapes."""
        first, *others = graph_case.inputs
        message = _refused(lambda: engine.run(first[..., :-1], *others))
        assert str(first.shape[-1]) in message
        assert str(first.shape[-1] - 1) in message

    def test_a_wrong_number_of_inputs_is_refused(self, engine: Engine, graph_case: GraphCase) -> None:
        """One too many and one too few."""
        assert "input" in _refused(lambda: engine.run(*graph_case.inputs, graph_case.inputs[0]))
        assert "input" in _refused(lambda: engine.run(*graph_case.inputs[:-1]))

    def test_a_wrong_dtype_is_refused(self, engine: Engine, graph_case: GraphCase) -> None:
        """Nothing is cast in silence."""
        first, *others = graph_case.inputs
        assert "float64" in _refused(lambda: engine.run(first.astype(np.float64), *others))

    def test_every_node_is_accounted_for(self, engine: Engine, graph_case: GraphCase) -> None:
        """Each node that was asked for is in exactly one operation, which has a precision."""
        engine.run(*graph_case.inputs)
        layers = engine.layer_info()
        assert all(isinstance(layer, EngineLayer) and layer.name and layer.precision for layer in layers)
        for node in graph_case.nodes:
            assert len([layer for layer in layers if node in layer.nodes]) == 1, f"{node}: {layers}"

    def test_times_are_seconds_or_none(self, engine: Engine, graph_case: GraphCase) -> None:
        """A time is no negative number, and no layer takes a minute."""
        engine.run(*graph_case.inputs)
        times = [layer.time_s for layer in engine.layer_info() if layer.time_s is not None]
        assert all(0.0 <= time < 60.0 for time in times)

    def test_latency_is_a_positive_number_of_seconds(self, engine: Engine, graph_case: GraphCase) -> None:
        """And nothing to repeat is refused."""
        assert 0.0 < engine.latency_s(*graph_case.inputs, repeats=3) < 60.0
        assert "repeats" in _refused(lambda: engine.latency_s(*graph_case.inputs, repeats=0))


def _refused(call: Callable[[], object]) -> str:
    """The message of the ``EngineError`` that a call must raise."""
    try:
        call()
    except EngineError as error:
        return str(error)
    raise AssertionError("an EngineError was expected, and nothing was raised")
