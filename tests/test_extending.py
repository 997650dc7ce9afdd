"""An engine, an observer and a number format from outside the package: registered by name, they are used like ours."""

from __future__ import annotations

import doctest
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.cli.main import main
from sensitivity.contracts import Engine, EngineCapabilities, EngineLayer, Observer
from sensitivity.deploy.doctor.machine import examine
from sensitivity.deploy.doctor.saturation import capabilities_here
from sensitivity.deploy.engines import registry
from sensitivity.deploy.engines.inputs import checked_inputs, median_time_s
from sensitivity.errors import (
    EngineBuildError,
    EngineError,
    ExportError,
    RecipeError,
)
from sensitivity.records import Layer
from sensitivity.records.recipes import formats, observers
from sensitivity.tasks.connectors import registry as families
from sensitivity.testing.engines import EngineSuite, GraphCase
from sensitivity.testing.observers import Make, ObserverSuite
from tests.testing.plain_observer import Plain

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Reference(Engine):
    """The reference evaluator of the package onnx, which computes each operator as the standard defines it."""

    name = "reference"
    version = onnx.__version__
    computes_in_float = True
    capabilities = EngineCapabilities(activation_formats=("int8",), affine_activations=False, saturates=False)

    def __init__(self, model: bytes) -> None:
        proto = onnx.load_from_string(model)
        proto.opset_import[0].version = 21  # the same operators; the evaluator's Q/DQ start at 19
        self._graph = proto.graph
        self._evaluator = ReferenceEvaluator(proto)
        ports = [port.type.tensor_type for port in self._graph.input]
        self._shapes = [[size.dim_value for size in port.shape.dim] for port in ports]
        self._types = [onnx.helper.tensor_dtype_to_np_dtype(port.elem_type) for port in ports]

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        arrays = checked_inputs(self.name, inputs, self._shapes, self._types)
        names = [port.name for port in self._graph.input]
        return tuple(np.array(out) for out in self._evaluator.run(None, dict(zip(names, arrays, strict=True))))

    def layer_info(self) -> list[EngineLayer]:
        return [EngineLayer(node.name, (node.name,), "fp32") for node in self._graph.node]

    def latency_s(self, *inputs: Any, repeats: int = 20) -> float:
        return median_time_s(lambda: self.run(*inputs), repeats)


class Least:
    """An engine with the least only: it inherits nothing, and says neither a version nor what it can run."""

    def __init__(self, model: bytes) -> None:
        self.name = "least"
        self._engine = Reference(model)
        self.run, self.layer_info, self.latency_s = (
            self._engine.run,
            self._engine.layer_info,
            self._engine.latency_s,
        )


def refuses_heads(layer: Layer) -> str | None:
    return "it has ten output channels" if layer.out_channels == 10 else None


class HalfRange(Plain, Observer):
    """Half of the range of all values: the outer ones are clipped. It can be computed by hand."""

    def __init__(self, spec: sv.QuantSpec) -> None:
        super().__init__()
        self.spec = spec

    def range(self) -> tuple[Tensor, Tensor]:
        low, high = super().range()
        return low / 2, high / 2


class TestTheirObserver(ObserverSuite):
    """An observer from outside passes the suite."""

    @pytest.fixture
    def make(self) -> Make:
        return lambda: HalfRange(sv.QuantSpec())


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    for known in (formats._FORMATS, observers._OBSERVERS, families._FAMILIES):
        monkeypatch.setattr(known, "_values", dict(known._values))


@pytest.fixture
def _registered(_bare: None) -> None:
    sv.register_engine("reference", Reference, package="onnx", refuses_layer=refuses_heads)
    sv.register_engine("least", Least)


def own_recipe() -> sv.Recipe:
    """A recipe with a format and an observer that are registered here. The codes of 6 bits saturate on no CPU."""
    sv.register_format(sv.NumberFormat("six", "integer", 6, -31, 31, "int8"))
    sv.register_observer("half", HalfRange)
    return sv.Recipe("theirs", sv.QuantSpec("six", "per-channel"), sv.QuantSpec("int8", observer="half"))


@pytest.fixture(scope="module")
def wrapped() -> sv.Wrapped:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(512, 10))
    made = sv.wrap(net.eval(), X, name="small")
    made.calibrate([X])
    return made


@pytest.fixture(scope="module")
def graph_case(wrapped: sv.Wrapped) -> GraphCase:
    with wrapped.quantized(sv.Scheme.all(sv.INT8)) as model, torch.no_grad():
        expected = model(X).numpy()
    return GraphCase((X.numpy(),), (expected,), frozenset({"0", "2", "4"}), tolerance=1e-5)


@pytest.fixture(scope="module", params=[Reference, Least])
def engine(wrapped: sv.Wrapped, request: pytest.FixtureRequest) -> Engine:
    return wrapped.deploy(sv.Scheme.all(sv.INT8), request.param).engine


class TestTheirEngines(EngineSuite):
    """Engines from outside pass the suite, also one that takes every default of the contract."""


@pytest.mark.usefixtures("_registered")
def test_an_engine_from_outside_is_swept_for_deployed_verified_and_reported(wrapped: sv.Wrapped) -> None:
    task = sv.FeatureFidelity(list(X))
    study = wrapped.analyze(task, sv.INT8, progress=False)
    deployed = wrapped.deploy(sv.Scheme.all(sv.INT8), "reference")
    assert deployed.name == "reference"
    assert list(deployed.plan.left_out.values()) == ["it has ten output channels"]
    verification = wrapped.verify(deployed, task)
    assert verification.passed
    assert [check.status for check in verification.layers] == ["agrees in float", "agrees in float", "left in float"]
    assert verification.info.engine_version == onnx.__version__
    assert "small on reference: as simulated" in repr(verification)
    assert "reference" in verification.to_html()
    again = wrapped.verify_study(study, task, engine="reference")
    assert all("deployed_drop" in row.signals for row in again.measurements)


@pytest.mark.usefixtures("_registered")
def test_what_it_can_run_is_respected_and_told(wrapped: sv.Wrapped) -> None:
    affine = sv.Recipe("affine", sv.INT8.weights, sv.QuantSpec("uint8", symmetric=False))
    with pytest.raises(ExportError, match="reference knows symmetric int8 with zero point 0 only"):
        wrapped.plan(sv.Scheme.all(affine), target="reference")
    with pytest.raises(ExportError, match=r"rest='bf16' cannot be exported for reference: .* 'openvino' or 'torch'"):
        wrapped.deploy(sv.Scheme().with_rest("bf16"), "reference")
    assert capabilities_here("reference").saturates is False
    assert capabilities_here("least").saturates is False, "it says nothing, and a trial tells"


@pytest.mark.usefixtures("_registered")
def test_the_doctor_tries_it_and_the_command_line_knows_it(capsys: pytest.CaptureFixture[str]) -> None:
    (finding,) = [finding for finding in examine() if finding.name == "reference"]
    assert finding.works
    assert finding.version == onnx.__version__
    assert finding.note == "runs int8 layers in fp32, sums exact (checked on one convolution)"
    assert main(["doctor", "reference"]) == 0
    assert "works  reference" in capsys.readouterr().out


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reference", "'reference' is registered already"),
        ("openvino", "'openvino' is registered already"),
        ("Mine", "cannot be called 'Mine': give a name in lower case"),
        ("", "cannot be called ''"),
        ("any", "cannot be called 'any'"),
    ],
)
def test_a_name_that_is_taken_or_no_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        sv.register_engine(name, Reference)


def test_what_is_no_engine_is_refused_by_name(wrapped: sv.Wrapped) -> None:
    def forgetful(model: bytes) -> Any:
        return object()

    with pytest.raises(EngineBuildError, match="object is no engine: it has no name, run, layer_info, latency_s"):
        wrapped.deploy(sv.Scheme(), forgetful)


def test_the_engines_of_the_library_say_the_same_in_the_registry_and_when_built(wrapped: sv.Wrapped) -> None:
    for name in ("openvino", "onnxruntime", "torch"):
        kind = registry.kind_of(name)
        engine = wrapped.deploy(sv.Scheme(), name).engine
        assert (engine.name, engine.capabilities, engine.is_simulation) == (
            name,
            kind.capabilities,
            kind.is_simulation,
        )
        assert engine.version


def test_the_command_line_knows_an_engine_that_the_module_of_the_model_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model_with_engine.py").write_text(
        "import sensitivity as sv, torch\n"
        "from tests.test_extending import Reference, X\n"
        "sv.register_engine('brought', Reference)\n"
        "def make():\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1)), X\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sv.Scheme().save(tmp_path / "scheme.json")
    words = ["deploy", "model_with_engine:make", str(tmp_path / "scheme.json"), "--engine", "brought", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["engine"] == "reference"


@pytest.fixture
def line() -> sv.Wrapped:
    """One layer, whose perturbed outputs torch computes from the definition of a quantizer."""
    torch.manual_seed(1)
    return sv.wrap(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False)), X, name="line")


def by_hand(weight: Tensor) -> Tensor:
    """The outputs with six-bit weights and the half range of int8 activations, by torch's own quantizers."""
    scales = weight.abs().amax((1, 2, 3)) / 31
    rounded = torch.fake_quantize_per_channel_affine(weight, scales, torch.zeros(4, dtype=torch.int32), 0, -31, 31)
    rest = float(X.abs().max()) / 2 / 127
    return nn.functional.conv2d(torch.fake_quantize_per_tensor_affine(X, rest, 0, -128, 127), rounded)


def test_a_format_and_an_observer_from_outside_are_swept_and_reported(line: sv.Wrapped, tmp_path: Path) -> None:
    recipe = own_recipe()
    line.calibrate([X], recipe)
    study = line.analyze(sv.FeatureFidelity(list(X)), [recipe, sv.INT4_WEIGHTS], progress=False)
    expected, outputs = line.model(X).detach(), by_hand(line.model[0].weight.detach())
    decibels = 10 * math.log10(float(expected.square().sum() / (expected - outputs).square().sum()))
    (row,) = study.of_recipe("theirs")
    assert row.score == pytest.approx(decibels, abs=1e-3)
    assert "theirs" in study.to_markdown()
    assert "six" in repr(study.recipes["theirs"])
    assert list(study.table(recipe="theirs")["status"]) == ["measured"]
    study.save(tmp_path / "study.json")
    assert sv.Study.load(tmp_path / "study.json").recipes["theirs"] == recipe


def test_a_format_and_an_observer_from_outside_are_deployed_and_verified(line: sv.Wrapped) -> None:
    recipe = own_recipe()
    task = sv.FeatureFidelity(list(X))
    calibration = line.calibrate([X], recipe)
    deployed = line.deploy(sv.Scheme.all(recipe), "openvino", calibration=calibration)
    codes = [onnx.numpy_helper.to_array(tensor) for tensor in deployed.parts[0].qdq.graph.graph.initializer]
    (weight,) = [array for array in codes if array.dtype == np.int8 and array.ndim == 4]
    assert np.abs(weight).max() == 31
    verification = line.verify(deployed, task)
    assert verification.passed
    assert [check.status for check in verification.layers] == ["verified"]
    torch.testing.assert_close(deployed(X), by_hand(line.model[0].weight.detach()), rtol=0, atol=2e-2)


@pytest.mark.usefixtures("_registered")
def test_all_three_from_outside_work_together(line: sv.Wrapped) -> None:
    recipe = own_recipe()
    calibration = line.calibrate([X], recipe)
    task = sv.FeatureFidelity(list(X))
    deployed = line.deploy(sv.Scheme.all(recipe), "reference", calibration=calibration)
    torch.testing.assert_close(deployed(X), by_hand(line.model[0].weight.detach()), rtol=0, atol=1e-5)
    assert line.verify(deployed, task).passed
    study = line.verify_study(line.analyze(task, recipe, progress=False), task, engine="reference")
    (row,) = study.measurements
    assert row.signals["deployed_drop"] == pytest.approx(row.drop, abs=1e-3)


def test_what_is_read_from_a_file_must_be_registered_first(line: sv.Wrapped, tmp_path: Path) -> None:
    plain = json.loads(json.dumps(sv.Scheme.all(own_recipe()).to_json()))
    assert sv.Scheme.from_json(plain).recipes == (own_recipe(),)
    del formats._FORMATS._values["six"]
    with pytest.raises(RecipeError, match=r"number format 'six' is not known.* after sv\.register_format\("):
        sv.Scheme.from_json(plain)
    own_recipe()
    del observers._OBSERVERS._values["half"]
    with pytest.raises(RecipeError, match=r"observer 'half' is not known.* after sv\.register_observer\(name"):
        sv.Scheme.from_json(plain)


def test_a_digest_knows_the_codes_of_a_format_and_the_version_of_an_observer() -> None:
    first = own_recipe()
    digests = {first.digest}
    sv.register_format(sv.NumberFormat("six", "integer", 6, -32, 31, "int8"), replace=True)
    digests.add(first.digest)
    sv.register_observer("half", HalfRange, version="2", replace=True)
    digests.add(first.digest)
    sv.register_observer("half", HalfRange, version="3", replace=True)
    digests.add(first.digest)
    assert len(digests) == 4
    assert first.renamed("other").digest == first.digest
    theirs_is_not_in_it = sv.INT8.digest
    sv.register_observer("minmax_too", HalfRange, version="1")
    assert sv.INT8.digest == theirs_is_not_in_it


def test_a_store_does_not_mix_two_versions_of_an_observer(line: sv.Wrapped, tmp_path: Path) -> None:
    """Under one name, the results of the old code are not those of the new code."""
    sv.register_observer("half", HalfRange, version="1")
    recipe = sv.Recipe("halved", weights=sv.QuantSpec("int4", "per-channel", observer="half"))
    task, store = sv.FeatureFidelity(list(X)), tmp_path / "store.jsonl"
    before = line.analyze(task, recipe, store=store, progress=False).measurements[0].score

    class Full(HalfRange):
        def range(self) -> tuple[Tensor, Tensor]:
            low, high = super().range()
            return low * 2, high * 2

    sv.register_observer("half", Full, version="2", replace=True)
    after = line.analyze(task, recipe, store=store, progress=False).measurements[0].score
    assert before is not None
    assert after is not None
    assert after > before + 3, "the range that clips nothing is better here, and it was measured anew"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"observer": 3}, "observer=3 is no observer. Give a class, or a reference to one"),
        ({"observer": "module.Class"}, "observer='module.Class' is no observer"),
        ({"granularities": ["per-image"]}, "granularities has 'per-image'. Choose from: per-tensor, per-channel"),
        ({"depends_on": ["weather"]}, "depends_on has 'weather'. Choose from: format, symmetric"),
        ({"name": ""}, "'' is no name for a observer"),
        ({"name": "mse", "replace": True}, "observer 'mse' is one of this library's own"),
    ],
)
def test_what_is_no_observer_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        sv.register_observer(**({"name": "mine", "observer": HalfRange} | settings))


def test_an_observer_is_replaced_only_on_purpose() -> None:
    sv.register_observer("half", HalfRange)
    sv.register_observer("half", HalfRange)  # an equal one changes nothing
    with pytest.raises(RecipeError, match="another observer is registered as 'half'"):
        sv.register_observer("half", HalfRange, samples=True)
    sv.register_observer("half", HalfRange, samples=True, replace=True)
    assert sv.QuantSpec(observer="half", sample_every=4).sample_every == 4


def test_what_an_observer_declares_is_respected(line: sv.Wrapped) -> None:
    sv.register_observer("half", HalfRange, weights=False, integers_only=True)
    with pytest.raises(RecipeError, match="'half' chooses the range of activations and is not defined for weights"):
        sv.Recipe("theirs", weights=sv.QuantSpec(observer="half"))
    with pytest.raises(RecipeError, match="observer 'half' is defined for integer formats, not for 'fp8_e4m3'"):
        sv.QuantSpec("fp8_e4m3", observer="half")
    with pytest.raises(RecipeError, match="sample_every=4 with observer 'half'"):
        sv.QuantSpec(observer="half", sample_every=4)
    by_channel = sv.Recipe("theirs", activations=sv.QuantSpec(granularity="per-channel", observer="half"))
    with pytest.raises(RecipeError, match="half"):
        line.calibrate([X], by_channel)


def test_specs_share_ranges_in_what_an_observer_does_not_depend_on(line: sv.Wrapped) -> None:
    sv.register_observer("half", HalfRange, depends_on=())
    spec = sv.QuantSpec(observer="half")
    affine = sv.Recipe("affine", activations=replace(spec, format="uint8", symmetric=False))
    calibration = line.calibrate([X], sv.Recipe("symmetric", activations=spec))
    assert calibration.fits(affine)
    sv.register_observer("half", HalfRange, replace=True)
    assert not calibration.fits(affine), "by default its ranges may depend on both"


def test_an_observer_can_be_named_by_where_it_stands(line: sv.Wrapped) -> None:
    sv.register_observer("half", f"{__name__}:HalfRange")
    calibration = line.calibrate([X], sv.Recipe("theirs", activations=sv.QuantSpec(observer="half")))
    (bounds,) = calibration.ranges.values()
    assert bounds.high == (float(X.max()) / 2,)


def test_the_page_shows_what_works(repository: Path) -> None:
    failed, attempted = doctest.testfile(str(repository / "docs" / "howto" / "extend.md"), module_relative=False)
    assert attempted > 10
    assert failed == 0
