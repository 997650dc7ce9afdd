"""The recipe that an engine runs exactly on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

import sensitivity as sv
from sensitivity.contracts import EngineCapabilities
from sensitivity.deploy.engines import registry
from sensitivity.deploy.engines.ort_engine import OrtEngine
from sensitivity.errors import EngineError, RecipeError
from tests.deploy.nets import SAFE_INT8, Resnet, build, images
from tests.deploy.this_cpu import saturates


def register(monkeypatch: pytest.MonkeyPatch, **able: object) -> None:
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    sv.register_engine("mine", OrtEngine, capabilities=EngineCapabilities(**able))  # type: ignore[arg-type]


def test_engines_with_zero_points_get_affine_activations_and_tensorrt_symmetric_ones() -> None:
    assert sv.recipe_for("onnxruntime") == sv.INT8_AFFINE
    assert sv.recipe_for("torch") == sv.INT8_AFFINE
    assert sv.recipe_for("tensorrt") == sv.INT8
    assert sv.recipe_for(OrtEngine).activations == sv.INT8_AFFINE.activations


def test_weights_have_seven_bits_exactly_where_openvinos_sums_saturate() -> None:
    recipe = sv.recipe_for("openvino")
    assert recipe.weights is not None
    assert recipe.weights.format == ("int7" if saturates() else "int8")
    assert recipe.activations == sv.INT8_AFFINE.activations


@pytest.mark.parametrize(("able", "expected"), [({}, "int8-affine"), ({"affine_activations": False}, "int8")])
def test_where_sums_saturate_only_the_weights_bits_change(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, object], expected: str
) -> None:
    register(monkeypatch, saturates=True, **able)
    recipe = sv.recipe_for("mine")
    assert recipe.name == f"{expected}-7bit-weights"
    preset = {"int8": sv.INT8, "int8-affine": sv.INT8_AFFINE}[expected]
    assert recipe.activations == preset.activations
    assert recipe.weights is not None
    assert preset.weights is not None
    assert recipe.weights.format == "int7"
    assert recipe.weights.observer == preset.weights.observer


@pytest.mark.slow
def test_a_cpu_without_vnni_is_given_seven_bits() -> None:
    code = "import sensitivity as sv; print(sv.recipe_for('openvino').weights.format)"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["int7"]


def test_an_engine_that_runs_no_int8_is_told_with_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, weight_formats=("int4",), saturates=False)
    with pytest.raises(RecipeError, match=r"mine runs no int8 recipe.*int8-affine: weights in int8.*int8: weights in"):
        sv.recipe_for("mine")
    with pytest.raises(EngineError, match="no engine is called 'tensorflow'"):
        sv.recipe_for("tensorflow")
    with pytest.raises(EngineError, match="engine=5"):
        sv.recipe_for(5)  # type: ignore[arg-type]


def test_a_recipe_that_no_engine_runs_is_refused_before_an_image_is_looked_at() -> None:
    wrapped = sv.wrap(build(Resnet), images(1))
    unread = iter([images(1)])
    recipe = sv.Recipe("mine", sv.QuantSpec("int8", "per-channel"), sv.QuantSpec("int4"))
    with pytest.raises(sv.SensitivityError, match="recipe 'mine' of stem:0:0 cannot be deployed: activations in int4"):
        wrapped.deploy(sv.Scheme.all(recipe), "onnxruntime", calibration=unread)
    with pytest.raises(sv.SensitivityError, match=r"TensorRT knows symmetric int8 with zero point 0 only"):
        wrapped.plan(sv.Scheme.all(sv.INT8_AFFINE), target="tensorrt", calibration=unread)
    assert len(list(unread)) == 1
    assert wrapped.calibrations == []


@pytest.mark.parametrize(("cuts_off", "bits"), [(True, 8), (True, 7), (False, 8)])
def test_deploying_warns_of_layers_that_saturate_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, cuts_off: bool, bits: int
) -> None:
    register(monkeypatch, saturates=cuts_off)
    recipe = sv.INT8 if bits == 8 else SAFE_INT8
    wrapped = sv.wrap(build(Resnet), images(1))
    wrapped.calibrate([images(2)], recipe)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        deployed = wrapped.deploy(sv.Scheme.all(recipe).protect("@stem"), "mine")
    warned = [str(warning.message) for warning in caught if "saturate" in str(warning.message)]
    if not cuts_off or bits == 7:
        assert (deployed.saturating, warned) == ((), [])
        return
    assert deployed.saturating == tuple(layer.name for layer in wrapped.layers if "stem" not in layer.flags)
    assert len(warned) == 1
    assert "13 of 14 layers can compute something else" in warned[0]
    assert warned[0] in repr(deployed)
