"""The rest in half precision on engines: what is simulated is what runs, or the engine refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from torch import Tensor

import sensitivity as sv
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.prepare.measures import sqnr_of_all_db
from sensitivity.deploy.verify.integer import integer_exact
from sensitivity.errors import EngineBuildError, ExportError, PrecisionNotHonouredError
from tests.deploy.nets import images
from tests.deploy.this_cpu import computes_in_bf16

ABLE = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not computes_in_bf16(), reason="this CPU does not compute in bf16")
needs_no_fp16 = pytest.mark.skipif("FP16" in ABLE, reason="this CPU computes in fp16")

FLOAT = sv.Scheme()
INT8 = sv.Scheme.all(sv.INT8)
SOME = sv.Scheme.only("@exit", sv.INT8)
INPUTS = [images(1, seed=seed) for seed in range(20, 28)]


def outputs(model: Callable[[Tensor], Any]) -> list[Tensor]:
    with torch.no_grad():
        return [model(x).clone() for x in INPUTS]


def simulated(wrapped: sv.Wrapped, scheme: sv.Scheme) -> list[Tensor]:
    with wrapped.plan(scheme).simulated() as model:
        return outputs(model)


@needs_bf16
@pytest.mark.parametrize(("scheme", "gain_db"), [(FLOAT, 5.0), (SOME, 5.0), (INT8, 0.5)], ids=["float", "some", "int8"])
def test_the_simulation_in_bf16_is_nearer_to_the_engine_than_the_one_in_fp32(
    wrapped: sv.Wrapped, scheme: sv.Scheme, gain_db: float
) -> None:
    half = scheme.with_rest("bf16")
    engine = outputs(wrapped.deploy(half))
    fp32, bf16 = (sqnr_of_all_db(simulated(wrapped, variant), engine) for variant in (scheme, half))
    assert bf16 > fp32 + gain_db


@needs_bf16
def test_a_convolution_in_bf16_is_that_of_the_engine() -> None:
    torch.manual_seed(0)
    convs = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3, groups=16))
    wrapped = sv.wrap(convs.eval(), images(1))
    half = FLOAT.with_rest("bf16")
    pairs = zip(simulated(wrapped, half), outputs(wrapped.deploy(half)), strict=True)
    equal = [float((a == b).float().mean()) for a, b in pairs]
    assert min(equal) > 0.999


@needs_bf16
def test_the_engine_tells_bf16_and_verify_reads_it(wrapped: sv.Wrapped) -> None:
    verification = wrapped.verify(wrapped.deploy(SOME.with_rest("bf16")))
    planned = {check.layer: check.planned for check in verification.layers}
    exits = {layer.name for layer in wrapped.layers.select("@exit")}
    assert planned == {name: "int8" if name in exits else "bf16" for name in planned}
    assert {(check.executed, check.status) for check in verification.layers} == {
        ("int8", "verified"),
        ("bf16", "in float"),
    }
    assert verification.gates.output_margin_db == 3.0
    assert verification.outputs_pass


@needs_bf16
def test_all_int8_layers_of_a_rest_in_bf16_are_verified(wrapped: sv.Wrapped) -> None:
    verification = wrapped.verify(wrapped.deploy(INT8.with_rest("bf16")), sv.FeatureFidelity(list(images(4, seed=11))))
    assert {(check.executed, check.status) for check in verification.layers} == {("int8", "verified")}
    assert abs(verification.metric_difference or 9.0) < 1.5  # dB


@needs_bf16
def test_a_layer_of_the_rest_in_another_precision_is_told(wrapped: sv.Wrapped) -> None:
    deployed = wrapped.deploy(SOME)  # in fp32
    deployed.plan = wrapped.plan(SOME.with_rest("bf16"))
    verification = wrapped.verify(deployed)
    wrong = [check for check in verification.layers if check.planned == "bf16"]
    assert {check.status for check in wrong} == {"other precision"}
    assert wrong[0].reason == "planned in bf16, the engine ran fp32"
    with pytest.raises(PrecisionNotHonouredError, match="in another precision than planned"):
        wrapped.verify(deployed, strict=True)


@needs_bf16
def test_latency_is_compared_with_fp32(wrapped: sv.Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    hints: list[str] = []
    compile_ = OpenVinoEngine._compile

    def listening(self: OpenVinoEngine, **settings: Any) -> Any:
        hints.append(self._hint)
        return compile_(self, **settings)

    monkeypatch.setattr(OpenVinoEngine, "_compile", listening)
    wrapped.verify(wrapped.deploy(FLOAT.with_rest("bf16")))
    assert hints == ["bf16", "bf16", "f32"], "deployed, profiled, and the baseline of the latency"


@needs_no_fp16
def test_fp16_is_refused_by_a_cpu_that_would_compute_something_else(wrapped: sv.Wrapped) -> None:
    with pytest.raises(EngineBuildError, match=r"does not compute in fp16 on this CPU.*'torch', the simulation"):
        wrapped.deploy(FLOAT.with_rest("fp16"))


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt", OrtEngine])
def test_engines_that_need_a_graph_in_half_precision_refuse(wrapped: sv.Wrapped, engine: Any) -> None:
    with pytest.raises(ExportError, match=r"rest='bf16' cannot be exported for (onnxruntime|tensorrt|OrtEngine)"):
        wrapped.deploy(INT8.with_rest("bf16"), engine)


def test_openvino_refuses_to_promise_what_it_does_not_keep(wrapped: sv.Wrapped) -> None:
    name = wrapped.layers[1].module
    with pytest.raises(EngineBuildError, match=r"cannot be held to keep_fp32=.*bf16 has the range of fp32"):
        wrapped.deploy(INT8.with_rest("bf16", keep_fp32=name))


def test_the_simulation_behind_an_engine_computes_the_rest_in_half(wrapped: sv.Wrapped) -> None:
    for scheme in (INT8.with_rest("fp16"), INT8.with_rest("bf16", keep_fp32=wrapped.layers[1].module)):
        deployed = wrapped.deploy(scheme, "torch")
        for a, b in zip(outputs(deployed), simulated(wrapped, scheme), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_layer_that_is_kept_is_planned_in_fp32(wrapped: sv.Wrapped) -> None:
    first, *others = wrapped.layers
    plan = wrapped.plan(FLOAT.with_rest("fp16", keep_fp32=first.module))
    assert plan.expected_precision(plan.layers[first.name]) == "fp32"
    assert {plan.expected_precision(layer) for layer in others} == {"fp16"}
    assert {plan.in_fp32().expected_precision(layer) for layer in wrapped.layers} == {"fp32"}


def test_outside_of_the_parts_that_an_engine_runs_nothing_is_rounded(shared: sv.Wrapped) -> None:
    half = FLOAT.with_rest("bf16")
    plan = shared.deploy(half, "torch", parts=["coarse"]).plan
    x = images(1)
    fine = plan.model.get_submodule("fine")
    with torch.no_grad():
        expected = fine(x)
    with plan.simulated():
        assert torch.equal(fine(x), expected)
        coarse = plan.model.get_submodule("coarse")(expected)
        assert torch.equal(coarse, coarse.bfloat16().float())


def test_integers_are_exact_for_a_rest_in_fp32_alone(wrapped: sv.Wrapped) -> None:
    plan = wrapped.plan(INT8.with_rest("bf16"))
    with pytest.raises(ExportError, match=r"exact to the last bit.*plan.in_fp32\(\)"), integer_exact(plan):
        pass
    with integer_exact(plan.in_fp32()) as model:
        model(images(1))
