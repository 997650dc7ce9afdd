"""Verification: it passes where engine and simulation agree, and fails where they do not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import EngineLayer
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine
from sensitivity.errors import DisagreementWarning, EngineBuildError, EngineError, PrecisionNotHonouredError, TaskError
from sensitivity.records.results.verification import Cause
from tests.deploy.nets import SAFE, SAFE_INT8, SharedHead, build, has_amx, images
from tests.deploy.this_cpu import saturates
from tests.models import CASES

INT8 = SAFE


def fidelity(seed: int = 11) -> sv.FeatureFidelity:
    return sv.FeatureFidelity(list(images(4, seed=seed)))


@pytest.fixture(scope="module")
def verification(wrapped: sv.Wrapped) -> sv.Verification:
    return wrapped.verify(wrapped.deploy(INT8), fidelity(), samples=4)


def test_every_layer_of_the_nets_is_verified(verification: sv.Verification) -> None:
    assert {check.status for check in verification.layers} == {"verified"}
    for check in verification.layers:
        assert (check.planned, check.executed) == ("int8", "int8")
        assert check.codes > 0
        assert check.code_steps in (0, 1)
        assert check.code_share is not None
        assert check.code_share <= 2e-4


def test_weights_in_8_bits_are_verified_or_found_to_saturate(wrapped: sv.Wrapped) -> None:
    verification = wrapped.verify(wrapped.deploy(sv.Scheme.all(sv.INT8)), samples=4)
    assert verification.passed != saturates()
    statuses = [check.status for check in verification.layers]
    if saturates():
        assert statuses.count("disagrees") > len(statuses) / 2
        assert max(check.code_steps for check in verification.layers) > 10
        assert verification.outputs_pass is False
    else:
        assert set(statuses) == {"verified"}


def test_outputs_are_nearer_to_the_simulation_than_that_is_to_float(verification: sv.Verification) -> None:
    assert verification.outputs_pass
    assert verification.output_sqnr_db is not None
    assert verification.simulation_sqnr_db is not None
    assert verification.output_sqnr_db > verification.simulation_sqnr_db + 6.0


def test_the_metric_is_told_three_times_with_the_spread_of_roundings(verification: sv.Verification) -> None:
    assert verification.metric == "sqnr_db"
    assert verification.images == 4
    assert verification.metric_fp32 == 150.0  # what equal outputs are given
    assert set(verification.metric_variants) == {"channels last", "reciprocal scale"}
    assert verification.metric_difference is not None
    assert abs(verification.metric_difference) < 1.0
    assert verification.metric_tolerance == 1.0  # dB, and no share of the drop from an exact copy's 150 dB
    assert verification.metric_pass
    assert verification.metric_spread is not None
    assert verification.metric_spread >= 0.0


def test_latencies_are_measured(verification: sv.Verification) -> None:
    assert 0.0 < (verification.latency_int8_s or 0.0) < 1.0
    assert 0.0 < (verification.latency_fp32_s or 0.0) < 1.0
    assert verification.speedup == pytest.approx(
        (verification.latency_fp32_s or 0.0) / (verification.latency_int8_s or 1.0)
    )


def test_without_a_task_the_example_inputs_are_used_and_nothing_is_scored(wrapped: sv.Wrapped) -> None:
    verification = sv.verify(wrapped, wrapped.deploy(INT8))
    assert verification.layers_pass
    assert verification.metric_deployed is None
    assert verification.metric_pass is None
    assert verification.output_sqnr_db is not None


@pytest.mark.skipif(has_amx(), reason="with AMX OpenVINO runs this transposed convolution in int8")
def test_a_layer_in_another_precision_is_found(shared: sv.Wrapped) -> None:
    """OpenVINO runs the transposed convolution in float here, and says so."""
    deployed = shared.deploy(INT8)
    verification = shared.verify(deployed)
    check = next(layer for layer in verification.layers if layer.module == "up")
    assert (check.status, check.planned, check.executed) == ("other precision", "int8", "fp32")
    assert not verification.passed
    assert "NOT as simulated" in repr(verification)
    with pytest.raises(PrecisionNotHonouredError, match=r"openvino runs 1 of 5 layers in another precision.*\(up\)"):
        shared.verify(deployed, strict=True)


def test_a_protected_layer_counts_as_in_float(shared: sv.Wrapped) -> None:
    verification = shared.verify(shared.deploy(INT8.protect("up")), strict=True)
    assert {check.module: check.status for check in verification.layers}["up"] == "in float"
    assert verification.passed


def test_onnxruntime_agrees_in_codes_but_runs_in_float(shared: sv.Wrapped) -> None:
    verification = shared.verify(shared.deploy(INT8, "onnxruntime"))
    assert {check.status for check in verification.layers} == {"agrees in float"}
    for check in verification.layers:
        assert check.codes > 0
        assert check.code_steps in (0, 1)
        assert check.code_share is not None
        assert check.code_share <= 2e-4
    with pytest.raises(PrecisionNotHonouredError, match="onnxruntime runs 5 of 5 layers"):
        shared.verify(shared.deploy(INT8, "onnxruntime"), strict=True)


class Liar(OpenVinoEngine):
    """Claims int8 for everything, and is off by two steps in every hundredth code."""

    name = "liar"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        outputs = super().run(*inputs)
        if outputs[0].dtype == np.int8:
            codes = outputs[0].reshape(-1)
            codes[::100] = np.where(codes[::100] > 0, codes[::100] - 2, codes[::100] + 2)
        return outputs

    def layer_info(self) -> list[EngineLayer]:
        return [EngineLayer(info.name, info.nodes, "int8", info.time_s) for info in super().layer_info()]


def test_wrong_codes_are_found_behind_a_right_precision(shared: sv.Wrapped) -> None:
    verification = shared.verify(shared.deploy(INT8, Liar), strict=True)
    assert {check.status for check in verification.layers} == {"disagrees"}
    assert verification.layers[0].code_steps in (2, 3)
    assert verification.layers[0].code_share == pytest.approx(0.01, rel=0.05)
    assert "codes differ, by up to" in verification.layers[0].reason


class Saturating(Liar):
    """The same, and known to saturate."""

    capabilities = replace(Liar.capabilities, saturates=True)


class Exact(Liar):
    """The same, and known not to saturate."""

    capabilities = replace(Liar.capabilities, saturates=False)


@pytest.mark.filterwarnings("ignore::sensitivity.errors.DisagreementWarning")  # on CPUs without VNNI
def test_saturation_is_named_as_the_cause_where_the_engine_has_it_and_the_weights_are_wide(shared: sv.Wrapped) -> None:
    int7 = replace(sv.INT8, name="int7", weights=sv.QuantSpec("int7", "per-channel"))
    causes = {
        (engine, recipe.name): {check.cause for check in shared.verify(shared.deploy(scheme, engine)).layers}
        for engine in (Saturating, Exact)
        for recipe in (sv.INT8, int7)
        for scheme in [sv.Scheme.only("tower", recipe)]
    }
    assert causes == {
        (Saturating, "int8"): {None, Cause.SATURATION},
        (Saturating, "int7"): {None, Cause.CODES},
        (Exact, "int8"): {None, Cause.CODES},
        (Exact, "int7"): {None, Cause.CODES},
    }


@pytest.mark.filterwarnings("ignore::sensitivity.errors.DisagreementWarning")  # on CPUs without VNNI
def test_the_reason_of_saturation_says_what_to_do(shared: sv.Wrapped) -> None:
    verification = shared.verify(shared.deploy(sv.Scheme.all(sv.INT8), Saturating))
    assert "sums of 8-bit products saturate. Quantize its weights in 7 bits" in verification.layers[0].reason


def test_other_gates_pass_other_engines(shared: sv.Wrapped) -> None:
    gates = sv.Gates(code_steps=3, code_share=0.02)
    verification = shared.verify(shared.deploy(INT8, Liar), gates=gates)
    assert {check.status for check in verification.layers} == {"verified"}


OUTPUTS = 3
"""How many outputs the net with the shared head has."""


class WrongInside(OpenVinoEngine):
    """Right for a layer by itself; in the whole graph one tensor of codes is off."""

    name = "wrong-inside"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        outputs = super().run(*inputs)
        behind_first = outputs[OUTPUTS + 1 : OUTPUTS + 2]  # there only in graphs for looking inside
        for codes in behind_first:
            codes += 7 if codes.dtype == np.int8 else codes.std()
        return outputs


def test_a_layer_that_runs_otherwise_inside_the_graph_is_found(shared: sv.Wrapped) -> None:
    verification = shared.verify(shared.deploy(INT8.protect("up"), WrongInside))
    wrong = [check for check in verification.layers if check.status == "disagrees"]
    assert [check.module for check in wrong] == ["fine.0"]
    assert "by itself it is right, inside the whole graph" in wrong[0].reason
    assert "from the same input codes" in wrong[0].reason


def refusing(*element_types: int) -> type[OpenVinoEngine]:
    """An engine that builds no graph with more outputs than the net has, where one of these types is among them."""

    class Refusing(OpenVinoEngine):
        name = "refusing"

        def __init__(self, model: bytes, **settings: Any) -> None:
            ports = onnx.load_from_string(model).graph.output
            if any(port.type.tensor_type.elem_type in element_types for port in ports[OUTPUTS:]):
                raise EngineBuildError("too many outputs.")
            super().__init__(model, **settings)

    return Refusing


def test_where_codes_cannot_be_outputs_the_numbers_that_they_stand_for_are_compared(shared: sv.Wrapped) -> None:
    verification = shared.verify(shared.deploy(INT8.protect("up"), refusing(onnx.TensorProto.INT8)))
    assert verification.passed
    assert verification.info.not_inside is None


def test_an_engine_that_cannot_be_looked_into_is_verified_layer_by_layer_and_that_is_said(shared: sv.Wrapped) -> None:
    engine = refusing(onnx.TensorProto.INT8, onnx.TensorProto.FLOAT)
    verification = shared.verify(shared.deploy(INT8.protect("up"), engine))
    assert {check.status for check in verification.layers if check.planned == "int8"} == {"verified"}
    assert verification.info.not_inside == ("the model: too many outputs.",)
    assert "not compared inside the graph: the model: too many outputs." in str(verification)
    again = type(verification.info).of(json.loads(json.dumps(verification.info.to_json())))
    assert again == verification.info


class OtherKernelsWhereLookedAt(OpenVinoEngine):
    """As on a CPU without VNNI: codes that are outputs are made by other kernels, and a tie at the input flips."""

    name = "other-kernels"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        outputs = super().run(*inputs)
        for read, written in zip(outputs[OUTPUTS : OUTPUTS + 1], outputs[OUTPUTS + 1 : OUTPUTS + 2], strict=True):
            if written.dtype == np.int8:
                written += written < 120
            else:
                read.flat[0] += np.diff(np.unique(read)).min()
        return outputs


def test_kernels_that_run_only_where_codes_are_looked_at_do_not_decide(shared: sv.Wrapped) -> None:
    verification = shared.verify(shared.deploy(INT8.protect("up"), OtherKernelsWhereLookedAt))
    assert [check.module for check in verification.layers if check.status == "disagrees"] == []


def test_a_convolution_behind_a_concatenation_is_verified() -> None:
    """OpenVINO 2026.4 rounds real numbers there, unless the codes are concatenated."""
    case = CASES["transposed"]
    wrapped = sv.wrap(case.build(), case.inputs)
    wrapped.calibrate([case.inputs], SAFE_INT8)
    verification = wrapped.verify(wrapped.deploy(SAFE))
    assert {check.module: check.status for check in verification.layers} == dict.fromkeys(
        ("encode.conv", "down.conv", "up", "fuse", "up_head"), "verified"
    )
    assert verification.outputs_pass
    assert wrapped.verify(wrapped.deploy(SAFE, "onnxruntime")).outputs_pass


class Queries(nn.Module):
    """As in the first layer of a DETR's decoder: a projection of learned queries, which no input changes."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(4, 16))
        self.q_proj, self.k_proj, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        attention = (self.q_proj(self.queries) @ self.k_proj(x).transpose(-1, -2)).softmax(-1)
        return self.out(attention @ x)


def test_a_layer_that_reads_constants_is_checked_though_the_engine_runs_it_in_no_pass() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, 16)
    wrapped = sv.wrap(Queries().eval(), x)
    wrapped.calibrate([x], SAFE_INT8)
    record = wrapped.verify(wrapped.deploy(SAFE))
    statuses = {check.module: (check.executed, str(check.status)) for check in record.layers}
    assert statuses == {
        "q_proj": (None, "agrees in float"),
        "k_proj": ("int8", "verified"),
        "out": ("int8", "verified"),
    }
    assert "its input is a constant" in next(check.reason for check in record.layers if check.module == "q_proj")
    assert record.passed
    assert wrapped.verify(wrapped.deploy(SAFE), strict=True).passed


class Off(OpenVinoEngine):
    """Multiplies the model's own outputs."""

    name = "off"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        outputs = super().run(*inputs)
        own = [out * 1.5 if out.dtype == np.float32 else out for out in outputs[:OUTPUTS]]
        return (*own, *outputs[OUTPUTS:])


def test_wrong_outputs_are_found_though_every_layer_agrees(shared: sv.Wrapped) -> None:
    with pytest.warns(DisagreementWarning, match="off computes something else than was simulated"):
        deployed = shared.deploy(INT8.protect("up"), Off)
    verification = shared.verify(deployed, fidelity())
    assert verification.layers_pass
    assert verification.outputs_pass is False
    assert verification.metric_pass is False
    assert not verification.passed


class Noisy(OpenVinoEngine):
    """Right layers; noise on the model's outputs, 10 dB below the signal."""

    name = "noisy"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        random = np.random.default_rng(0)
        outputs = super().run(*inputs)
        return tuple(
            out + np.sqrt(0.1) * out.std() * random.standard_normal(out.shape).astype(np.float32)
            if out.dtype == np.float32
            else out
            for out in outputs
        )


def test_a_metric_in_decibels_allows_no_share_of_a_drop_from_an_exact_copy(shared: sv.Wrapped) -> None:
    with pytest.warns(DisagreementWarning, match="noisy computes something else than was simulated"):
        deployed = shared.deploy(INT8.protect("up"), Noisy)
    verification = shared.verify(deployed, fidelity())
    assert verification.metric_difference is not None
    assert verification.metric_difference < -5.0
    assert verification.metric_pass is False
    loose = sv.Gates(metric_db=100.0)
    assert shared.verify(deployed, fidelity(), gates=loose).metric_pass


def test_what_was_not_deployed_is_refused(shared: sv.Wrapped) -> None:
    deployed: Any = shared.deploy(INT8)
    with pytest.raises(EngineError, match=r"takes what wrapped.deploy\(scheme, engine\) returned, not OpenVinoEngine"):
        shared.verify(deployed.engine)


def test_the_deployment_of_other_weights_is_refused(shared: sv.Wrapped) -> None:
    deployed = shared.deploy(INT8, "torch")
    other = sv.wrap(build(SharedHead, seed=1), images(1), name="other")
    with pytest.raises(EngineError, match="was not made of other as it is now"):
        other.verify(deployed)
    model: Any = shared.model
    before = model.score.bias.detach().clone()
    with torch.no_grad():
        model.score.bias.add_(1.0)
        try:
            with pytest.raises(EngineError, match="Deploy again"):
                shared.verify(deployed)
        finally:
            model.score.bias.copy_(before)
    assert shared.verify(deployed).passed


def test_no_samples_are_refused(shared: sv.Wrapped) -> None:
    with pytest.raises(TaskError, match="samples=0: give 1 or more"):
        shared.verify(shared.deploy(INT8, "torch"), samples=0)


def test_roundings_can_be_left_out_and_progress_is_told(shared: sv.Wrapped, capsys: pytest.CaptureFixture[str]) -> None:
    deployed = shared.deploy(INT8, "torch")
    quiet = shared.verify(deployed, fidelity(), roundings=False)
    assert quiet.metric_variants == {}
    assert quiet.metric_spread is None
    assert capsys.readouterr().err == ""
    shared.verify(deployed, fidelity(), roundings=False, progress=True)
    assert "12/12" in capsys.readouterr().err  # fp32, simulated and deployed on 4 images each
    shared.verify(deployed, fidelity(), progress=True)
    assert "20/20" in capsys.readouterr().err


def test_verification_leaves_the_model_as_it_was(shared: sv.Wrapped) -> None:
    before = {name: value.clone() for name, value in shared.model.state_dict().items()}
    shared.verify(shared.deploy(INT8))
    assert all(torch.equal(value, before[name]) for name, value in shared.model.state_dict().items())
    assert not [m for m in shared.model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_a_task_that_never_runs_the_exported_part_is_refused(shared: sv.Wrapped) -> None:
    task = sv.callback_task(lambda model: 1.0)
    with pytest.raises(TaskError, match="never runs the model"):
        shared.verify(shared.deploy(INT8), task)


FAULT = """
import sensitivity as sv
from tests.deploy.nets import NETS, build, images
wrapped = sv.wrap(build(NETS["resnet18"]), images(1))
wrapped.calibrate([images(8, seed=1)])
found = wrapped.verify(wrapped.deploy(sv.Scheme.all(sv.INT8)))
worst = max(found.layers, key=lambda check: check.code_share or 0.0)
print("passed" if found.passed else "failed", worst.status, worst.cause, worst.code_steps, worst.code_share, sep=",")
"""


@pytest.mark.slow
def test_a_cpu_path_that_saturates_trips_the_gate(repository: Path) -> None:
    """Without VNNI, oneDNN adds pairs of products in 16 bits, which saturate."""
    import os

    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FAULT], capture_output=True, text=True, cwd=repository, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    verdict, status, cause, steps, share = done.stdout.strip().split(",")
    assert (verdict, status, cause) == ("failed", "disagrees", "saturation"), done.stdout
    assert int(steps) > 1
    assert float(share) > 2e-4
