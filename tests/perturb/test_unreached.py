"""A layer that no calibration image reaches has no range and says so; all others are calibrated, swept and deployed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import CalibrationError, NotReachedWarning
from sensitivity.quantize.calibration import Point
from sensitivity.records import NoteKind, Status
from sensitivity.records.results.verification import LayerStatus
from tests.deploy.nets import SAFE_INT8
from tests.models import branching


class Detector(nn.Module):
    """A trunk and a head that sees the rows that were detected, which may be none."""

    def __init__(self, *, skips: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.head, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        self.skips, self.detects = skips, True

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x).relu()
        if self.detects:
            x = x + self.head(x)
        elif not self.skips:
            self.head(x[:0])
        return self.last(x)


def images() -> Tensor:
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[False, True], ids=["head sees no rows", "head is not called"])
def net(request: pytest.FixtureRequest) -> sv.Wrapped:
    model = Detector(skips=request.param).eval()
    wrapped = sv.wrap(model, images()[:1])
    model.detects = False
    return wrapped


REASON = "none of the 4 calibration images gave head:0:0 any values"


def test_the_others_are_calibrated(net: sv.Wrapped) -> None:
    calibration = net.calibrate(images(), sv.INT8)
    assert set(calibration.ranges) == {Point("trunk:0:0", "input", 0), Point("last:0:0", "input", 0)}
    with pytest.raises(CalibrationError, match=f"{REASON}.*protect"):
        calibration.range_of(Point("head:0:0", "input", 0))


def test_a_layer_that_is_reached_later_is_calibrated_with_its_true_size(net: sv.Wrapped) -> None:
    class Late(Detector):
        def forward(self, x: Tensor) -> Tensor:
            self.detects = bool(x.max() > 100)
            return super().forward(x)

    late = sv.wrap(Late(skips=False).eval(), images()[:1] + 200)
    ranges = late.calibrate([images(), images() + 200]).ranges
    assert ranges[Point("head:0:0", "input", 0)].elements == 4 * 5 * 5


def test_sweeping_it_gives_a_row_with_the_reason(net: sv.Wrapped) -> None:
    study = net.analyze(sv.FeatureFidelity(images()), sv.INT8, calibration=images(), progress=False)
    rows = {row.layer: row for row in study.measurements}
    assert {name: str(row.status) for name, row in rows.items()} == {
        "trunk:0:0": "measured",
        "head:0:0": "skipped",
        "last:0:0": "measured",
    }
    assert REASON in rows["head:0:0"].reason


def test_deploying_leaves_it_in_float_with_the_reason(net: sv.Wrapped) -> None:
    pytest.importorskip("onnxruntime")
    net.calibrate(images(), sv.INT8)
    plan = net.plan(sv.Scheme.all(sv.INT8))
    assert {layer.name for layer in plan.quantized} == {"trunk:0:0", "last:0:0"}
    assert set(plan.left_out) == {"head:0:0"}
    assert REASON in plan.left_out["head:0:0"]
    deployed = net.deploy(sv.Scheme.all(sv.INT8), "onnxruntime")
    with plan.simulated() as simulated:
        expected = simulated(images())
    np.testing.assert_allclose(deployed(images()).numpy(), expected.numpy(), atol=1e-5)


def test_a_simulated_scheme_leaves_it_in_float_as_the_deployed_one_does_and_warns(net: sv.Wrapped) -> None:
    net.calibrate(images(), sv.INT8)
    reached = sv.Scheme.only(["trunk:0:0", "last:0:0"], sv.INT8)
    with torch.no_grad(), net.quantized(reached) as model:
        expected = model(images())
    with pytest.warns(NotReachedWarning, match=f"^head:0:0 stays in float: .*{REASON}"):
        scored = net.evaluate(sv.FeatureFidelity(images()), sv.Scheme.all(sv.INT8))
    assert scored.value == net.evaluate(sv.FeatureFidelity(images()), reached).value
    with (
        pytest.warns(NotReachedWarning, match="^head:0:0 stays in float") as warned,
        torch.no_grad(),
        net.quantized(sv.Scheme.all(sv.INT8)) as model,
    ):
        assert torch.equal(model(images()), expected)
    assert [warning.filename for warning in warned] == [__file__]


def test_a_scheme_of_nothing_else_is_refused_with_the_reason(net: sv.Wrapped) -> None:
    net.calibrate(images(), sv.INT8)
    with (
        pytest.raises(CalibrationError, match=f"{REASON}.*protect"),
        net.quantized(sv.Scheme.only("head:0:0", sv.INT8)),
    ):
        pass


@pytest.mark.parametrize("recipe", [sv.INT8, sv.INT8_WEIGHTS], ids=lambda recipe: recipe.name)
def test_a_weight_that_is_not_finite_is_an_error_that_names_its_layer_and_no_layer_out_of_reach(
    recipe: sv.Recipe,
) -> None:
    class Bounded(Detector):
        """What the head gives is never NaN, so that the scores are numbers."""

        def forward(self, x: Tensor) -> Tensor:
            x = self.trunk(x)
            return self.last(x + self.head(x).nan_to_num(0.0).clamp(-1, 1))

    model = Bounded(skips=False).eval()
    wrapped = sv.wrap(model, images()[:1])
    with torch.no_grad():
        model.head.weight.view(-1)[0] = math.nan
    wrapped.calibrate(images(), sv.INT8)
    task = sv.FeatureFidelity(images())
    with pytest.raises(CalibrationError, match=r"^head:0:0: its weight .* is not finite"):
        wrapped.evaluate(task, sv.Scheme.all(recipe))
    rows = {row.name: row.status for row in wrapped.analyze(task, recipe, intervals=False).table().itertuples()}
    assert rows == {"trunk:0:0": "measured", "head:0:0": "failed", "last:0:0": "measured"}


def test_a_search_over_the_whole_network_goes_on_without_it(net: sv.Wrapped) -> None:
    tuned = net.tune(sv.FeatureFidelity(images()), max_drop=60, calibration=images(), progress=False)
    assert tuned.score.value > 20


def test_all_layers_but_one_are_perturbed_without_those_that_no_image_reached(net: sv.Wrapped) -> None:
    net.calibrate(images(), sv.INT8)
    task = sv.FeatureFidelity(images())
    study = net.analyze(task, sv.INT8, direction="all-but-one", progress=False)
    rows = {row.layer: row for row in study.measurements}
    assert {name: str(row.status) for name, row in rows.items()} == {
        "trunk:0:0": "measured",
        "head:0:0": "skipped",
        "last:0:0": "measured",
    }
    assert REASON in rows["head:0:0"].reason
    assert rows["trunk:0:0"].score == net.evaluate(task, sv.Scheme.only("last:0:0", sv.INT8)).value


def test_where_no_layer_is_reached_there_is_nothing_to_calibrate() -> None:
    net = sv.wrap(nn.Sequential(nn.Linear(3, 2)).eval(), torch.randn(1, 4, 3))
    with pytest.raises(CalibrationError, match="none of the model's layers"):
        net.calibrate([torch.empty(1, 0, 3)])


def dark() -> Tensor:
    return torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(2))


BRANCHING: list[Callable[[], nn.Module]] = [branching.Conditional, branching.EarlyExit, branching.Experts]
every_branching = pytest.mark.parametrize("make", BRANCHING)


def branching_net(make: Callable[[], nn.Module], example: Tensor) -> sv.Wrapped:
    torch.manual_seed(0)
    return sv.wrap(make().eval(), example)


@every_branching
def test_a_layer_that_no_image_of_the_task_reaches_is_skipped_with_the_reason(make: Callable[[], nn.Module]) -> None:
    net = branching_net(
        make, torch.cat([dark()[:1], dark()[:1] + 10]) if make is branching.Experts else dark()[:1] + 10
    )
    calibration = torch.cat([dark(), dark() + 10]) if make is branching.Experts else dark() + 10
    study = net.analyze(sv.FeatureFidelity(dark()), sv.INT8, calibration=list(calibration.split(1)), progress=False)
    rows = {row.layer: row for row in study.measurements}
    bright = next(layer.name for layer in net.layers if layer.module == "bright")
    assert rows[bright].status is Status.SKIPPED
    assert rows[bright].reason == "none of the 4 images of output fidelity reached it"
    assert rows[bright].drop is None
    assert [note.kind for note in study.notes if bright in note] == [NoteKind.NOT_REACHED]
    assert rows["trunk:0:0"].status is Status.MEASURED
    assert bright in str(study.protect(top=1))


def test_a_layer_whose_quantization_changes_nothing_was_reached_and_is_measured() -> None:
    net = branching_net(branching.Conditional, dark()[:1])
    with torch.no_grad():
        net.model.last.weight.zero_()
    study = net.analyze(sv.FeatureFidelity(dark()), sv.INT8_WEIGHTS, progress=False)
    assert [(row.status, row.drop) for row in study.measurements] == [(Status.MEASURED, 0.0)] * 2
    assert study.notes == ()


def test_the_pass_that_asks_whether_a_layer_was_reached_ends_there() -> None:
    calls: list[nn.Module] = []
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        model[2].weight.zero_()
    net = sv.wrap(model, dark()[:1])
    with torch.no_grad():
        model[1].register_forward_hook(lambda module, *_: calls.append(module))
    study = net.analyze(sv.FeatureFidelity(dark()), sv.INT8_WEIGHTS, layers="1", replay=False, progress=False)
    assert [(row.status, row.drop) for row in study.measurements] == [(Status.MEASURED, 0.0)]
    assert len(calls) == 1 + 2, "the reference, the unperturbed pass, the variant, and none after it"


@pytest.mark.parametrize("make", [*BRANCHING[:2], branching.TrainingHead])
def test_a_branch_that_the_example_did_not_reach_is_a_row_of_the_table(make: Callable[[], nn.Module]) -> None:
    net = branching_net(make, dark()[:1])
    table = net.analyze(sv.FeatureFidelity(dark()), sv.INT8_WEIGHTS, progress=False).table().set_index("module")
    assert table.loc["bright", "status"] == "skipped"
    assert table.loc["bright", "reason"] == "never called with the example inputs"
    assert table.loc["trunk", "status"] == "measured"


def test_verifying_checks_on_the_example_inputs_what_the_task_does_not_run() -> None:
    pytest.importorskip("onnxruntime")
    net = branching_net(branching.EarlyExit, dark()[:1] + 10)
    net.calibrate(dark() + 10, sv.INT8)
    verification = net.verify(net.deploy(sv.Scheme.all(sv.INT8), "onnxruntime"), sv.FeatureFidelity(dark()))
    assert {check.layer: str(check.status) for check in verification.layers} == {
        layer.name: "agrees in float" for layer in net.layers
    }
    assert set(verification.info.not_reached) == {"bright", "last"}


class Pyramid(nn.Module):
    """A head shared by two levels, of which the second is looked at where something was detected."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.head, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1)
        self.detects = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x).relu()
        near = self.head(x).mean((2, 3), keepdim=True)
        far = self.head(4 * x).mean((2, 3), keepdim=True) if self.detects else near
        return self.last(near + far)


LATER_CALL = r"no range for head:0:0 input #1: the calibration images gave values to head:0:0 input #0 only.*protect"


@pytest.fixture
def pyramid() -> sv.Wrapped:
    model = Pyramid().eval()
    wrapped = sv.wrap(model, images()[:1])
    model.detects = False
    wrapped.calibrate(images(), SAFE_INT8)
    return wrapped


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("detects", [False, True])
def test_a_layer_that_is_reached_at_its_first_call_alone_stays_in_float_simulated_and_deployed(
    pyramid: sv.Wrapped, engine: str, detects: bool
) -> None:
    pytest.importorskip(engine)
    pyramid.model.detects = detects
    task = sv.FeatureFidelity(images())
    scheme = sv.Scheme.all(SAFE_INT8)
    with pytest.warns(NotReachedWarning, match=f"^head:0:0 stays in float: {LATER_CALL}"):
        score = pyramid.evaluate(task, scheme)
    assert score.value == pyramid.evaluate(task, sv.Scheme.only(["trunk:0:0", "last:0:0"], SAFE_INT8)).value
    assert list(pyramid.plan(scheme).left_out) == ["head:0:0"]
    pyramid.model.detects = True
    verification = pyramid.verify(pyramid.deploy(scheme, engine), task)
    unverified = {check.layer for check in verification.layers if check.status is not LayerStatus.VERIFIED}
    assert "head:0:0" in unverified
    assert verification.outputs_pass
    if engine == "openvino":
        assert unverified == {"head:0:0"}


def test_the_row_of_a_layer_that_is_reached_at_its_first_call_alone_says_so(pyramid: sv.Wrapped) -> None:
    study = pyramid.analyze(sv.FeatureFidelity(images()), sv.INT8, progress=False)
    rows = {row.layer: row for row in study.measurements}
    assert {name: str(row.status) for name, row in rows.items()} == {
        "trunk:0:0": "measured",
        "head:0:0": "skipped",
        "last:0:0": "measured",
    }
    assert "head:0:0 input #1" in rows["head:0:0"].reason


@pytest.mark.filterwarnings("ignore:head.0.0 stays in float")
def test_a_search_measures_a_layer_that_is_reached_at_its_first_call_alone_in_float(pyramid: sv.Wrapped) -> None:
    task = sv.FeatureFidelity(images())
    tuned = pyramid.tune(task, max_drop=60, progress=False)
    assert tuned.score.value == pyramid.evaluate(task, tuned.scheme).value
