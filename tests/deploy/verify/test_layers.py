"""What verification says of layers that are not plainly int8: in float, half quantized, left out, not to be tried."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import EngineLayer
from sensitivity.deploy.deploy import deploy
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.prepare.omission import OmissionKind
from sensitivity.errors import PrecisionNotHonouredError
from sensitivity.records.results.verification import Cause
from tests.deploy.nets import SAFE, Attention

INT8 = SAFE
X = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(0))


def three() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 1)
    )


def ready(make: Any, x: Tensor = X) -> sv.Wrapped:
    torch.manual_seed(0)
    wrapped = sv.wrap(make().eval(), x)
    wrapped.calibrate([x])
    return wrapped


def telling(precision: str) -> type[OpenVinoEngine]:
    """An engine that says it ran this instead of fp32."""

    class Telling(OpenVinoEngine):
        name = "telling"

        def layer_info(self) -> list[EngineLayer]:
            return [
                replace(info, precision=precision if info.precision == "fp32" else info.precision)
                for info in super().layer_info()
            ]

    return Telling


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_protected_layer_in_another_precision_is_found(precision: str) -> None:
    wrapped = ready(three)
    deployed = wrapped.deploy(INT8.protect("2"), telling(precision))
    verification = wrapped.verify(deployed)
    assert {check.module: check.status for check in verification.layers}["2"] == "other precision"
    assert not verification.passed
    with pytest.raises(PrecisionNotHonouredError, match=f"planned in fp32, the engine ran {precision}"):
        wrapped.verify(deployed, strict=True)


class TwoCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = F.relu(self.trunk(x))
        return self.head(z), self.head(F.max_pool2d(z, 2))


class Silent(OpenVinoEngine):
    """Does not tell of the second call."""

    name = "silent"

    def layer_info(self) -> list[EngineLayer]:
        infos = super().layer_info()
        return [replace(info, nodes=tuple(name for name in info.nodes if name != "head#1")) for info in infos]


@pytest.mark.parametrize("scheme", [INT8, INT8.protect("head")], ids=["quantized", "protected"])
def test_a_call_that_the_engine_does_not_tell_of_is_not_checked(scheme: sv.Scheme) -> None:
    wrapped = ready(TwoCalls)
    verification = wrapped.verify(wrapped.deploy(scheme, Silent))
    head = verification.layers[1]
    assert (head.status, head.reason) == ("not checked", "the engine does not tell what it ran for head#1")
    assert not verification.passed


@pytest.mark.parametrize(
    "recipe", [sv.INT8_WEIGHTS, sv.INT4_WEIGHTS, sv.INT8_ACTIVATIONS], ids=lambda recipe: recipe.name
)
def test_half_quantized_layers_are_compared_in_float(recipe: sv.Recipe) -> None:
    wrapped = ready(three)
    verification = wrapped.verify(wrapped.deploy(sv.Scheme.all(recipe)))
    assert {check.status for check in verification.layers} == {"verified"}
    for check in verification.layers:
        assert check.codes == 0
        assert check.output_sqnr_db is not None
        assert check.output_sqnr_db > 100.0
    assert verification.passed


class OffByAPerMille(OpenVinoEngine):
    """Multiplies float outputs of single layers by 1.001: 60 dB."""

    name = "off"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        return tuple(out * np.float32(1.001) if out.dtype == np.float32 else out for out in super().run(*inputs))


def test_half_quantized_layers_that_compute_something_else_are_found() -> None:
    wrapped = ready(three)
    verification = wrapped.verify(wrapped.deploy(sv.Scheme.all(sv.INT8_WEIGHTS), OffByAPerMille))
    assert {check.status for check in verification.layers} == {"disagrees"}
    assert "60.0 dB" in verification.layers[0].reason
    assert verification.layers[0].cause is Cause.FLOAT_OUTPUT
    loose = sv.Gates(float_sqnr_db=50.0)
    again = wrapped.verify(wrapped.deploy(sv.Scheme.all(sv.INT8_WEIGHTS), OffByAPerMille), gates=loose)
    assert {check.status for check in again.layers} == {"verified"}


def test_the_projections_of_attention_are_verified() -> None:
    wrapped = ready(Attention, torch.randn(2, 10, 16))
    verification = wrapped.verify(wrapped.deploy(INT8))
    assert [layer.module for layer in verification.layers] == ["enter", "attend", "attend.out_proj", "leave"]
    assert {layer.status for layer in verification.layers} == {"verified"}
    assert all(layer.codes for layer in verification.layers)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_a_layer_that_pads_in_its_own_way_is_no_crash(mode: str) -> None:
    wrapped = ready(lambda: nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, padding_mode=mode), nn.Conv2d(16, 8, 1)))
    check = wrapped.verify(wrapped.deploy(INT8)).layers[0]
    assert check.status in ("verified", "not checked")
    assert check.status == "verified" or "by itself" in check.reason


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("conv", [nn.Conv1d, nn.Conv2d, nn.Conv3d], ids=lambda kind: kind.__name__)
def test_even_kernels_that_keep_the_size_are_compared_as_a_whole(conv: Any, engine: str) -> None:
    """They pad more behind than in front, in a node of their own: the input of the layer is what that node reads."""
    dimensions = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[conv]
    x = torch.randn(2, 4, *[8] * dimensions, generator=torch.Generator().manual_seed(0))
    wrapped = ready(
        lambda: nn.Sequential(conv(4, 8, 4, padding="same"), nn.ReLU(), conv(8, 4, 2, padding="same", dilation=3)), x
    )
    for scheme in (INT8, sv.Scheme.all(sv.INT8_WEIGHTS)):
        verification = wrapped.verify(wrapped.deploy(scheme, engine))
        assert verification.passed, verification
        assert {check.status for check in verification.layers} <= {"verified", "agrees in float"}


def test_padding_by_a_module_of_its_own_stays_in_front_of_the_quantizer() -> None:
    wrapped = ready(lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(16, 8, 2)))
    deployed = wrapped.deploy(INT8, "onnxruntime")
    kinds = [node.op_type for node in deployed.parts[0].qdq.graph.graph.node]
    assert kinds.index("Pad") < kinds.index("QuantizeLinear")
    assert wrapped.verify(deployed).passed


def test_a_layer_that_placement_rules_leave_out_passes_in_float_with_the_reason() -> None:
    wrapped = ready(
        lambda: nn.Sequential(
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 1, groups=4), nn.ReLU(), nn.Conv2d(32, 16, 1)
        )
    )
    deployed = deploy(wrapped.plan(INT8, target="tensorrt"), "openvino")
    task = sv.FeatureFidelity(list(X))
    verification = wrapped.verify(deployed, task)
    check = {layer.module: layer for layer in verification.layers}["2"]
    assert (check.planned, check.executed, check.status) == ("fp32", "fp32", "left in float")
    assert check.reason == deployed.plan.left_out[check.layer]
    assert verification.passed
    with deployed.plan.simulated() as model:  # what was predicted is this plan, not the scheme
        predicted = sv.wrap(model, X).evaluate(task.with_reference(wrapped.model)).value
    assert verification.metric_simulated == pytest.approx(predicted, abs=1e-3)


def test_what_no_graph_holds_is_simulated_only_and_says_so_once() -> None:
    wrapped = ready(three)
    verification = wrapped.verify(wrapped.deploy(INT8, parts=["0", "2"]))
    check = verification.layers[2]
    assert check.status == "simulated only"
    assert not check.reason.startswith("simulated only")
    assert repr(verification).count("simulated only:") == 1


@pytest.mark.parametrize("kind", list(OmissionKind))
def test_the_kind_of_an_omission_decides_its_status_whatever_its_text_says(kind: OmissionKind) -> None:
    wrapped = ready(three)
    deployed = wrapped.deploy(INT8, "torch")
    name = wrapped.layers["2"].name
    deployed.plan = deployed.plan.without({name: "simulated only: left in float"}, kind)
    check = wrapped.verify(deployed).layers[1]
    assert (check.status, check.reason) == (kind.value, "simulated only: left in float")


class OneFlip(OpenVinoEngine):
    """One code of each layer is off by one step."""

    name = "one-flip"
    flips = 1

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        outputs = super().run(*inputs)
        if len(outputs) == 1 and outputs[0].dtype == np.int8:
            codes = outputs[0].reshape(-1)
            codes[: self.flips] += np.where(codes[: self.flips] > 0, -1, 1).astype(np.int8)
        return outputs


class TwoFlips(OneFlip):
    name, flips = "two-flips", 2


def test_one_flipped_code_of_a_small_layer_is_no_disagreement_but_two_are() -> None:
    x = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(1))
    wrapped = ready(lambda: nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)), x)
    single, two = (wrapped.verify(wrapped.deploy(INT8, engine)) for engine in (OneFlip, TwoFlips))
    assert single.layers[0].code_share == pytest.approx(1 / 128)
    assert {check.status for check in single.layers} == {"verified"}
    assert {check.status for check in two.layers} == {"disagrees"}


def test_a_reference_engine_that_agrees_passes_and_says_that_it_runs_in_float() -> None:
    wrapped = ready(three)
    verification = wrapped.verify(wrapped.deploy(INT8, "onnxruntime"))
    assert {(check.planned, check.executed, check.status) for check in verification.layers} == {
        ("int8", "fp32", "agrees in float")
    }
    assert all(check.codes > 0 for check in verification.layers)
    assert verification.passed
    with pytest.raises(PrecisionNotHonouredError, match="onnxruntime runs 3 of 3 layers"):
        wrapped.verify(wrapped.deploy(INT8, "onnxruntime"), strict=True)


def test_the_simulation_as_an_engine_passes_and_says_what_it_is() -> None:
    wrapped = ready(three)
    verification = wrapped.verify(wrapped.deploy(INT8, "torch"))
    assert {check.status for check in verification.layers} == {"agrees in float"}
    assert {check.codes for check in verification.layers} == {0}
    assert "the simulation itself" in verification.layers[0].reason
    assert verification.output_sqnr_db == float("inf")
    assert verification.passed


class FloatsInSecret(OrtEngine):
    """Computes in float, and does not declare it."""

    name = "floats"
    computes_in_float = False


def test_an_engine_that_does_not_declare_that_it_computes_in_float_does_not_pass() -> None:
    wrapped = ready(three)
    verification = wrapped.verify(wrapped.deploy(INT8, FloatsInSecret))
    assert {check.status for check in verification.layers} == {"other precision"}
    assert not verification.passed
