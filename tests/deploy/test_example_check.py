"""An engine that computes something else than was simulated is told when it is deployed."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.cli.output import warnings_as_lines
from sensitivity.deploy.engines.openvino_engine import OpenVinoEngine
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.deploy.example_check import disagreement
from sensitivity.errors import DisagreementWarning, EngineError
from sensitivity.records.results.verification import OutputCheck
from tests.deploy.nets import SAFE, SAFE_INT8, Attention, Resnet, build, images
from tests.deploy.this_cpu import saturates

NONE, BF16 = sv.Scheme(), sv.Scheme().with_rest("bf16")


class Garbage(OrtEngine):
    """Returns what it computes backwards."""

    name = "garbage"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        return tuple(output[..., ::-1].copy() for output in super().run(*inputs))


class Broken(OrtEngine):
    """One of its numbers is NaN."""

    name = "broken"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        outputs = super().run(*inputs)
        for output in outputs:
            output.flat[0] = math.nan
        return outputs


class Constant(OrtEngine):
    """Right for zeros, whatever it is given."""

    name = "constant"

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        return super().run(*(0 * array for array in inputs))


@pytest.fixture(scope="module")
def resnet() -> sv.Wrapped:
    made = sv.wrap(build(Resnet), images(1))
    made.calibrate([images(4, seed=1)], [sv.INT8, SAFE_INT8])
    return made


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "onnxruntime-int8"])
def test_nothing_is_said_of_an_engine_that_computes_what_is_simulated(wrapped: sv.Wrapped, engine: str) -> None:
    deployed = wrapped.deploy(SAFE, engine)  # a warning would be an error
    (check,) = deployed.on_example
    assert check.sqnr_db is not None
    assert check.simulation_sqnr_db is not None
    assert check.sqnr_db > check.simulation_sqnr_db > 10.0
    assert deployed.disagreement is None


def test_the_simulation_is_not_compared_with_itself(resnet: sv.Wrapped) -> None:
    assert resnet.deploy(SAFE, "torch").on_example == ()


def test_garbage_is_told_with_both_distances_and_what_to_do(
    resnet: sv.Wrapped, capsys: pytest.CaptureFixture[str]
) -> None:
    message = r"garbage computes something else than was simulated\. For the example inputs the output agrees with the "
    with pytest.warns(DisagreementWarning, match=message) as warned:
        deployed = resnet.deploy(SAFE, Garbage)
    check = deployed.disagreement
    assert check is not None
    text = str(warned[0].message)
    assert f"to {check.sqnr_db:.1f} dB, and the simulation with float to {check.simulation_sqnr_db:.1f} dB" in text
    assert text.endswith("before you know why: wrapped.verify(deployed) names the layers that disagree.")
    assert text in repr(deployed)
    with warnings_as_lines():
        warnings.simplefilter("always")
        resnet.deploy(SAFE, Garbage)
    assert "know why: `sensitivity verify` names the layers that disagree.\n" in capsys.readouterr().err


def test_an_engine_that_returns_nan_is_refused(resnet: sv.Wrapped) -> None:
    with pytest.raises(EngineError, match=r"broken returns NaN or infinity .*, in 1 of 10 numbers of the output"):
        resnet.deploy(SAFE, Broken)


def test_an_example_of_one_number_is_no_place_to_hide() -> None:
    made = sv.wrap(build(Resnet), torch.zeros(1, 3, 64, 64))
    made.calibrate([images(4, seed=1)], SAFE_INT8)
    with pytest.warns(DisagreementWarning, match="constant computes something else"):
        made.deploy(SAFE, Constant)


class Cut(Garbage):
    """The same, and known to saturate."""

    name = "cut"
    capabilities = replace(OrtEngine.capabilities, saturates=True)


class OfPositiveNumbers(nn.Module):
    """Refuses what is no image of its kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_tracing() and not torch.compiler.is_exporting() and bool((x < 0).any()):
            raise ValueError("pixels are not negative")
        out: torch.Tensor = self.conv(x)
        return out


def test_a_model_that_refuses_noise_is_compared_on_its_own_example() -> None:
    made = sv.wrap(OfPositiveNumbers().eval(), torch.zeros(1, 3, 16, 16))
    made.calibrate([torch.rand(4, 3, 16, 16)], SAFE_INT8)
    (check,) = made.deploy(SAFE, "onnxruntime").on_example
    assert check.sqnr_db is not None


def test_saturation_is_named_once_with_what_it_costs(resnet: sv.Wrapped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensitivity.deploy.engines.registry._KINDS", {})
    sv.register_engine("cut", Cut)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resnet.deploy(sv.Scheme.all(sv.INT8), "cut")
    (warning,) = caught
    assert str(warning.message).startswith("on this machine large sums of 8-bit products saturate in cut: 14 of 14")
    assert "For the example inputs the output agrees with the simulation to" in str(warning.message)
    assert str(warning.message).endswith("Quantize with weights in 7 bits: sv.recipe_for('cut').")


@pytest.mark.skipif(not saturates(), reason="sums of 8-bit products are exact on this CPU")
def test_on_this_cpu_saturation_is_found_by_the_outputs(wrapped: sv.Wrapped) -> None:
    assert wrapped.deploy(sv.Scheme.all(sv.INT8), "openvino").disagreement is not None


def test_a_layer_that_is_computed_with_other_weights_is_found(resnet: sv.Wrapped) -> None:
    class Doubled(OpenVinoEngine):
        """OpenVINO's own fault: it scaled twice what the next layer read."""

        name = "doubled"

        def __init__(self, model: bytes, **settings: Any) -> None:
            import onnx

            graph = onnx.load_from_string(model)
            (scale,) = [t for t in graph.graph.initializer if t.name == "blocks.2.first.0.weight.scale"]
            numbers = 2 * onnx.numpy_helper.to_array(scale)
            scale.CopyFrom(onnx.numpy_helper.from_array(numbers, scale.name))
            super().__init__(graph.SerializeToString(), **settings)

    with pytest.warns(DisagreementWarning, match="doubled computes something else"):
        resnet.deploy(SAFE, Doubled)


@pytest.mark.parametrize(
    ("sqnr_db", "simulation_sqnr_db", "elements", "scheme", "is_told"),
    [
        (28.0, 30.0, 10_000, NONE, False),  # two independent noises of one size
        (26.0, 30.0, 10_000, NONE, True),
        (20.0, 30.0, 4, NONE, False),  # few numbers say little
        (61.0, math.inf, 10_000, NONE, False),  # rounding in float
        (59.0, math.inf, 10_000, NONE, True),
        (41.0, 50.0, 10_000, BF16, False),
        (39.0, 50.0, 10_000, BF16, True),
        (math.inf, 30.0, 10_000, NONE, False),
        (-math.inf, 30.0, 10_000, NONE, False),  # a zero that is not met
    ],
)
def test_an_engine_may_be_3_db_further_from_the_simulation_than_that_is_from_float(
    sqnr_db: float, simulation_sqnr_db: float, elements: int, scheme: sv.Scheme, is_told: bool
) -> None:
    check = OutputCheck("", elements, sqnr_db, simulation_sqnr_db)
    assert (disagreement([check], scheme) == check) is is_told


def test_integers_and_tensors_of_other_shapes_are_left_to_verify() -> None:
    integers = OutputCheck("", 100, share=0.9, simulation_share=0.1)
    shapes = OutputCheck("", 100, 1.0, 30.0, reason="shapes differ")
    assert disagreement([integers, shapes], NONE) is None


def test_of_several_outputs_the_worst_is_told(shared: sv.Wrapped) -> None:
    class LastWrong(OrtEngine):
        name = "last-wrong"

        def run(self, *inputs: Any) -> tuple[Any, ...]:
            *others, last = super().run(*inputs)
            return (*others, -last)

    with pytest.warns(DisagreementWarning, match=r"For the example inputs output \['up'\]\[0\] agrees"):
        deployed = shared.deploy(SAFE.protect("up"), LastWrong)
    assert len(deployed.on_example) == 3


def test_a_model_without_quantized_layers_is_compared_as_well() -> None:
    made = sv.wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), images(1))
    with pytest.warns(DisagreementWarning, match=r"the simulation with float to inf dB"):
        made.deploy(NONE, Garbage)


def test_an_attention_with_a_rest_in_fp16_agrees_on_onnx_runtime() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(9, 12, 16)
    made = sv.wrap(Attention().eval(), tokens[:1])
    made.calibrate(tokens[1:], SAFE_INT8)
    (check,) = made.deploy(SAFE.with_rest("fp16"), "onnxruntime").on_example
    assert check.sqnr_db is not None
    assert check.simulation_sqnr_db is not None
    assert check.sqnr_db > check.simulation_sqnr_db + 6.0
