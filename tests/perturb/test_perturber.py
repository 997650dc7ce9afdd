"""Perturbing layers: what is computed inside, and that nothing is left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sensitivity as sv
from sensitivity.errors import CalibrationError, LayerNotFoundError, NotRestoredError
from sensitivity.perturb import perturber as perturber_module
from tests.models import CASES

RECIPES = {"int8": sv.INT8, "int4-weights": sv.INT4_WEIGHTS, "prune": sv.Prune(0.5), "fp8": sv.FP8}


class Net(nn.Module):
    """Convolution, batch norm, activation, depthwise convolution, transposed convolution, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.up_norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)
        self.fail: BaseException | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = self.depthwise(x)
        if self.fail is not None:
            raise self.fail
        x = F.relu(self.up_norm(self.up(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    for norm in (net.norm, net.up_norm):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return net


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def trace_of(model: nn.Module) -> list[object]:
    """Everything that must not change: objects, storage, bytes, versions, modes, hooks, random state."""
    facts: list[object] = [torch.get_rng_state().tolist()]
    for path, module in model.named_modules():
        hooks = [len(getattr(module, name)) for name in vars(module) if name.endswith("hooks")]
        kwargs_hooks = [len(getattr(module, n)) for n in vars(module) if "hooks_with" in n or "hooks_always" in n]
        facts.append((path, module.training, hooks, kwargs_hooks, list(module._parameters), list(module._buffers)))
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
        bits = tensor.detach().contiguous().view(-1).view(torch.uint8).tolist() if tensor.numel() else []
        facts.append((path, id(tensor), tensor.data_ptr(), tensor.requires_grad, tensor.grad, bits))
    return facts


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize(
    "fail", [None, ValueError("broken"), KeyboardInterrupt("broken")], ids=["runs", "raises", "interrupted"]
)
def test_nothing_is_left_behind(net: Net, images: Tensor, recipe: sv.Recipe, fail: BaseException | None) -> None:
    net.train()
    wrapped = sv.wrap(net, images)
    wrapped.calibrate([images], sv.FP8 if recipe == sv.FP8 else sv.INT8)
    before = trace_of(net)
    net.fail = fail
    expected = pytest.raises(type(fail), match="broken") if fail else contextlib.nullcontext()
    with expected, wrapped.quantized(sv.Scheme.all(recipe)) as model:
        model(images)
    net.fail = None
    assert trace_of(net) == before


@pytest.mark.parametrize("name", sorted(CASES))
def test_nothing_is_left_behind_on_awkward_models(name: str) -> None:
    case = CASES[name]
    model = case.build()
    wrapped = sv.wrap(model, case.inputs)
    names = [layer.name for layer in wrapped.layers if "computed-weight" not in layer.flags]
    before = trace_of(model)
    args, kwargs = case.inputs if isinstance(case.inputs, tuple) else (case.inputs,), {}
    if isinstance(case.inputs, dict):
        args, kwargs = (), case.inputs
    with wrapped.quantized(sv.Scheme.only(names, sv.INT4_WEIGHTS)) as inside:
        inside(*args, **kwargs)
    assert trace_of(model) == before


def test_only_weights_and_inputs_of_the_chosen_layers_change(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images)
    wrapped.calibrate([images])
    seen: dict[str, Tensor] = {}

    def remember(name: str) -> object:
        return lambda module, args, output: seen.__setitem__(name, output.clone())

    handles = [m.register_forward_hook(remember(n)) for n, m in net.named_modules() if n]  # type: ignore[arg-type]
    net(images)
    plain = dict(seen)
    with wrapped.quantized(sv.Scheme.only("depthwise", sv.INT8)):
        net(images)
    for handle in handles:
        handle.remove()
    assert torch.equal(plain["conv"], seen["conv"])
    assert torch.equal(plain["norm"], seen["norm"])
    assert not torch.equal(plain["depthwise"], seen["depthwise"])


def test_int8_folds_the_norm_and_quantizes_input_and_weight_as_torch_does(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images)
    wrapped.calibrate([images], sv.INT8_MINMAX)
    with wrapped.quantized(sv.Scheme.only("conv", sv.INT8_MINMAX)):
        simulated = net.norm(net.conv(images))

    scale = net.norm.weight / torch.sqrt(net.norm.running_var + net.norm.eps)
    folded = net.conv.weight * scale[:, None, None, None]
    steps = folded.abs().amax((1, 2, 3)) / 127
    weight = torch.fake_quantize_per_channel_affine(folded, steps, torch.zeros(8, dtype=torch.int32), 0, -127, 127)
    step = float(images.abs().max() / 127)
    inputs = torch.fake_quantize_per_tensor_affine(images, step, 0, -128, 127)
    expected = F.conv2d(inputs, weight, net.norm.bias - net.norm.running_mean * scale, padding=1)
    torch.testing.assert_close(simulated, expected, rtol=1e-5, atol=1e-5)


def test_a_transposed_convolution_is_folded_along_its_own_output_axis(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images)
    x = torch.randn(1, 8, 4, 4)
    with wrapped.quantized(sv.Scheme.only("up", sv.INT8_WEIGHTS)):
        simulated = net.up_norm(net.up(x))
    scale = net.up_norm.weight / torch.sqrt(net.up_norm.running_var + net.up_norm.eps)
    folded = net.up.weight * scale[None, :, None, None]
    steps = folded.abs().amax((0, 2, 3)) / 127
    weight = torch.fake_quantize_per_channel_affine(folded, steps, torch.zeros(6, dtype=torch.int32), 1, -127, 127)
    bias = (net.up.bias - net.up_norm.running_mean) * scale + net.up_norm.bias
    torch.testing.assert_close(simulated, F.conv_transpose2d(x, weight, bias, stride=2), rtol=1e-5, atol=1e-5)


def test_each_call_of_a_shared_layer_has_its_own_range() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.head(x), self.head(100 * x)

    torch.manual_seed(0)
    model, x = Shared().eval(), torch.randn(1, 2, 4, 4)
    wrapped = sv.wrap(model, x)
    assert wrapped.layers["head"].calls == 2
    calibration = wrapped.calibrate([x], sv.INT8_MINMAX)
    small, large = sorted(r.high[0] - r.low[0] for r in calibration.ranges.values())
    assert large == pytest.approx(100 * small, rel=1e-5)
    plain = model(x)[0]
    with wrapped.quantized(sv.Scheme.all(sv.INT8_MINMAX)):
        for _ in range(2):  # the second pass starts again at the first call
            first = model(x)[0]
            assert (first - plain).abs().max() < 0.05 * plain.abs().max()


def test_a_tied_weight_is_perturbed_in_the_chosen_layer_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.first(x), self.second(x)

    torch.manual_seed(0)
    model, x = Tied().eval(), torch.randn(2, 4)
    wrapped = sv.wrap(model, x)
    plain = model(x)
    with wrapped.quantized(sv.Scheme.only("second", sv.INT4_WEIGHTS)):
        inside = model(x)
    assert torch.equal(plain[0], inside[0])
    assert not torch.equal(plain[1], inside[1])


def test_pruning_to_two_of_four_leaves_two_of_four(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images)
    with wrapped.quantized(sv.Scheme.only("head", sv.Prune(0.5))):
        assert int((net.head.weight == 0).sum()) == net.head.weight.numel() // 2
    with wrapped.quantized(sv.Scheme.only("up", sv.Prune("2:4"))):
        nonzero = (net.up.weight != 0).permute(1, 2, 3, 0).reshape(-1, 4).sum(1)
        assert set(nonzero.tolist()) == {2}


def test_activations_without_a_calibration_are_refused_with_the_way_out(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images)
    with (
        pytest.raises(CalibrationError, match=r"no calibration is at hand\. Call wrapped\.calibrate"),
        wrapped.quantized(sv.Scheme.all(sv.INT8)),
    ):
        pass


def test_a_calibration_for_another_observer_is_not_taken_silently(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images)
    wrapped.calibrate([images], sv.INT8)
    percentile = sv.Recipe("p", activations=sv.QuantSpec(observer="percentile"))
    with (
        pytest.raises(CalibrationError, match="only a calibration for another recipe"),
        wrapped.quantized(sv.Scheme.all(percentile)),
    ):
        pass


def test_an_unknown_layer_in_a_scheme_changes_nothing(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images)
    before = trace_of(net)
    with (
        pytest.raises(LayerNotFoundError, match="no layer"),
        wrapped.quantized(sv.Scheme.only("cnov", sv.INT4_WEIGHTS)),
    ):
        pass
    assert trace_of(net) == before


def test_a_buffer_that_the_model_counts_up_is_put_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)
            self.register_buffer("steps", torch.zeros(()))
            self.register_buffer("last", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            self.last = x.flatten()[:1]
            return self.conv(x)

    model = Counting()
    wrapped = sv.wrap(model, torch.ones(1, 1, 2, 2))
    before = trace_of(model)
    with wrapped.quantized(sv.Scheme.all(sv.INT4_WEIGHTS)):
        model(torch.ones(1, 1, 2, 2))
        assert model.steps == 1
    assert trace_of(model) == before


class Overwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.conv.bias.mul_(2)
        return self.conv(x)


def test_weights_that_a_model_overwrites_are_put_back() -> None:
    model = Overwriting()
    wrapped = sv.wrap(model, torch.ones(1, 1, 2, 2))
    before = trace_of(model)
    with wrapped.quantized(sv.Scheme()):
        model(torch.ones(1, 1, 2, 2))
        assert trace_of(model) != before
    assert trace_of(model) == before


def test_overwritten_weights_too_large_to_be_copied_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensitivity.perturb.state.state.COPIED_WEIGHT_BYTES", 0)
    model = Overwriting()
    wrapped = sv.wrap(model, torch.ones(1, 1, 2, 2))
    with (
        pytest.raises(NotRestoredError, match=r"changed what cannot be put back.*conv\.bias"),
        wrapped.quantized(sv.Scheme()),
    ):
        model(torch.ones(1, 1, 2, 2))
    with pytest.raises(NotRestoredError, match=r"change[sd] what cannot be put back.*conv\.bias"):
        wrapped.analyze(sv.FeatureFidelity(torch.ones(2, 1, 2, 2)), sv.INT8_WEIGHTS)


@pytest.mark.parametrize(
    ("images", "message"),
    [([], "no image was given"), ([torch.full((1, 3, 8, 8), float("nan"))], "NaN|finite"), (["a"], "must be tensors")],
)
def test_bad_calibration_images_are_refused(net: Net, images: list[Tensor], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        sv.wrap(net, torch.randn(1, 3, 8, 8)).calibrate(images)


def test_calibration_is_the_same_for_any_batch_size_and_survives_saving(net: Net, images: Tensor, tmp_path) -> None:
    wrapped = sv.wrap(net, images)
    together = wrapped.calibrate([images])
    apart = wrapped.calibrate([images[:1], images[1]])  # a batch of one, and an image without the batch axis
    inputs = [point for point in together.ranges if point.layer == wrapped.layers["conv"].name]
    assert all(together.ranges[point] == apart.ranges[point] for point in inputs)
    together.save(tmp_path / "ranges.safetensors")
    assert sv.Calibration.load(tmp_path / "ranges.safetensors") == together


def test_a_broken_calibration_file_is_refused(tmp_path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_text("{}")
    with pytest.raises(CalibrationError, match="holds no calibration"):
        sv.Calibration.load(path)


def test_a_weight_is_quantized_once_for_recipes_that_differ_in_activations_alone(
    net: Net, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = perturber_module.perturbed_weight

    def counted(model: nn.Module, layer: sv.Layer, recipe: sv.Recipe, inputs: object = None) -> Tensor | None:
        made.append(recipe.name)
        return real(model, layer, recipe, inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(perturber_module, "perturbed_weight", counted)
    wrapped = sv.wrap(net, images)
    weights = sv.QuantSpec("int4", "per-channel")
    recipes = [
        sv.Recipe("first", weights=weights, activations=sv.QuantSpec("int8", observer="minmax")),
        sv.Recipe("second", weights=weights, activations=sv.QuantSpec("uint8", symmetric=False, observer="minmax")),
        sv.Recipe("corrected", weights=weights, bias_correction=True),
        sv.Recipe("rounded", weights=weights, rounding="compensated"),
        sv.Recipe("placed", weights=weights, placement="conv-norm-act"),
    ]
    perturber = perturber_module.Perturber(net, [wrapped.calibrate(images, recipes[:4])])
    layer = wrapped.layers["conv"]
    by_recipe = {}
    for recipe in recipes:
        with perturber.applied({layer: recipe}):
            by_recipe[recipe.name] = net.conv.weight.detach().clone()
    assert made == ["first", "rounded", "placed"]
    assert torch.equal(by_recipe["first"], by_recipe["second"])
    assert not torch.equal(by_recipe["first"], by_recipe["rounded"])
    assert not torch.equal(by_recipe["first"], by_recipe["placed"])
