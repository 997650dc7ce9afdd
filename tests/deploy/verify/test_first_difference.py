"""Correct layers that give a wrong whole: verify names the node at which the tensors part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx
import openvino
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import Engine, EngineLayer
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.engines import openvino_engine
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.graph.qdq import QdqGraph, insert_qdq
from sensitivity.errors import DisagreementWarning, StudyError
from sensitivity.records.results.first_difference import FirstDifference, Origin
from sensitivity.records.results.verification import VerificationRecord
from tests.deploy.engines.openvino_workarounds.test_concatenation import Joined
from tests.deploy.nets import SAFE, SAFE_INT8, has_amx


class Shortcut(nn.Module):
    """Two convolutions around an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        entered = self.enter(x)
        return self.leave(entered + self.middle(entered).relu())


def with_subtractions(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with additions turned into subtractions: another function that no layer by itself shows."""
    for node in graph.graph.node:
        node.op_type = "Sub" if node.op_type == "Add" else node.op_type
    return graph


class Subtracting(Engine):
    """An engine that is wrong between layers."""

    name = "subtracting"
    computes_in_float = True

    def __init__(self, model: bytes) -> None:
        graph = onnx.load_from_string(model)
        self._engine = OrtEngine((with_subtractions(graph) if self.is_wrong_for(graph) else graph).SerializeToString())

    def is_wrong_for(self, graph: onnx.ModelProto) -> bool:
        return True

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        return self._engine.run(*inputs)

    def layer_info(self) -> list[EngineLayer]:
        return self._engine.layer_info()

    def latency_s(self, *inputs: Any, repeats: int = 20) -> float:
        return self._engine.latency_s(*inputs, repeats=repeats)


class SubtractingUnseen(Subtracting):
    """The same, and looking at more than the output makes it right: what fuses only where nothing else is read."""

    def is_wrong_for(self, graph: onnx.ModelProto) -> bool:
        return len(graph.graph.output) == 1


def wrapped_of(make: Callable[[], nn.Module]) -> tuple[sv.Wrapped, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 12, 12)
    wrapped = sv.wrap(make().eval(), images[:1])
    wrapped.calibrate(images, SAFE_INT8)
    return wrapped, images


def only_difference(verification: VerificationRecord) -> FirstDifference:
    assert verification.layers_pass
    assert verification.outputs_pass is False
    (difference,) = verification.first_differences
    return difference


def told_to_be_wrong(wrapped: sv.Wrapped, engine: Any, **settings: Any) -> Deployed:
    """Deployed with the warning that its outputs are not what is simulated."""
    with pytest.warns(DisagreementWarning, match="computes something else than was simulated"):
        return wrapped.deploy(SAFE, engine, **settings)


def test_an_engine_that_is_wrong_between_layers_is_named_with_its_node() -> None:
    wrapped, _ = wrapped_of(Shortcut)
    verification = wrapped.verify(told_to_be_wrong(wrapped, Subtracting))
    difference = only_difference(verification)
    assert difference.layer == wrapped.layers[2].name
    assert difference.behind == tuple(layer.name for layer in list(wrapped.layers)[:2])
    assert difference.operators == ("Add", "QuantizeLinear", "DequantizeLinear", "Conv")
    assert difference.origin is Origin.ENGINE
    assert f"begins at node {difference.node} (Add): the engine computes" in repr(verification)


def test_a_graph_that_holds_another_model_is_told_from_a_wrong_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def insert_wrongly(*args: Any) -> QdqGraph:
        qdq = insert_qdq(*args)
        return replace(qdq, graph=with_subtractions(qdq.graph))

    wrapped, _ = wrapped_of(Shortcut)
    monkeypatch.setattr("sensitivity.deploy.deploy.insert_qdq", insert_wrongly)
    verification = wrapped.verify(told_to_be_wrong(wrapped, "onnxruntime"))
    difference = only_difference(verification)
    assert (difference.layer, difference.origin) == (wrapped.layers[2].name, Origin.GRAPH)
    assert "Sub" in difference.operators
    assert "the exported graph is wrong, not the engine" in repr(verification)


def test_a_fault_that_looking_hides_is_found_in_a_piece_by_itself() -> None:
    wrapped, _ = wrapped_of(Shortcut)
    difference = only_difference(wrapped.verify(told_to_be_wrong(wrapped, SubtractingUnseen)))
    assert (difference.layer, difference.tensor) == ("", "output0")
    assert difference.operators == ("Add", "QuantizeLinear", "DequantizeLinear", "Conv", "Identity")
    assert difference.behind == tuple(layer.name for layer in list(wrapped.layers)[:2])


@pytest.mark.skipif(not openvino.__version__.startswith("2026.4"), reason="a defect of OpenVINO 2026.4")
@pytest.mark.skipif(has_amx(), reason="with AMX OpenVINO computes it right")
def test_the_concatenation_that_openvino_computes_wrongly_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped, images = wrapped_of(Joined)
    monkeypatch.setattr(openvino_engine, "with_concatenated_codes", lambda model: 0)
    deployed = told_to_be_wrong(wrapped, "openvino", threads=1)
    verification = wrapped.verify(deployed, sv.FeatureFidelity(images), roundings=False)
    difference = only_difference(verification)
    assert difference.operators == ("Concat", "QuantizeLinear", "DequantizeLinear", "Conv")
    assert (difference.layer, difference.origin) == ("dense:0:0", Origin.ENGINE)
    assert difference.behind == ("left:0:0", "right:0:0")


def test_nothing_is_named_where_the_outputs_agree() -> None:
    wrapped, _ = wrapped_of(Shortcut)
    assert wrapped.verify(wrapped.deploy(SAFE, "onnxruntime")).first_differences == ()


def test_a_difference_is_saved_with_the_verification_and_damage_is_refused() -> None:
    nodes = ("cat", "codes"), ("Concat", "QuantizeLinear")
    difference = FirstDifference("", "t", "a:0:0", 5.0, 30.0, ("b:0:0",), *nodes, Origin.ENGINE)
    record = VerificationRecord("net", "openvino", (), first_differences=(difference,))
    assert VerificationRecord.from_json(record.to_json()) == record
    assert difference.reason in repr(sv.Verification.of(record))
    assert difference.reason.partition(" (SQNR")[0] in sv.Verification.of(record).to_html()
    plain = record.to_json()
    plain["first_differences"][0]["origin"] = "weather"
    with pytest.raises(StudyError, match="first_differences holds no difference: 'weather' is not a valid Origin"):
        VerificationRecord.from_json(plain)


def test_a_long_piece_is_shortened_in_the_sentence_and_an_unknown_one_says_so() -> None:
    names = tuple(f"n{number}" for number in range(20))
    long = FirstDifference("", "t", "a", 5.0, None, (), names, ("Add",) * 20, Origin.UNKNOWN)
    assert "n6 (Add), 12 more, n19 (Add)" in long.reason
    unknown = FirstDifference("", "output0", "", 5.0)
    assert unknown.reason.startswith("the tensors part first at the output output0 (SQNR 5.0 dB to the simulation). No")
    assert unknown.node == ""
