"""Signals against hand-written numpy, on a net small enough to compute by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sensitivity as sv
from sensitivity.errors import CalibrationError, LayerNotFoundError, ModelError, TaskError
from sensitivity.zoo import efficientvit_sam
from tests.models import CASES
from tests.tasks.made_scenes import ANNOTATIONS, SIZES, write_scenes


class Net(nn.Module):
    """Convolution, norm, activation, depthwise convolution, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.act = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.head = nn.Linear(8, 4)
        nn.init.uniform_(self.norm.weight, 0.5, 2)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.depthwise(self.act(self.norm(self.conv(x))))
        return {"map": x, "scores": self.head(x.mean((2, 3)))}


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def sqnr(reference: np.ndarray, perturbed: np.ndarray) -> float:
    reference, perturbed = reference.astype(np.float64), perturbed.astype(np.float64)
    return float(10 * np.log10((reference**2).sum() / ((reference - perturbed) ** 2).sum()))


def cosine(first: np.ndarray, other: np.ndarray) -> float:
    first, other = first.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    return float(first @ other / np.linalg.norm(first) / np.linalg.norm(other))


def int4_per_channel(weight: np.ndarray) -> np.ndarray:
    step = np.abs(weight.reshape(len(weight), -1)).max(1) / 7
    step = step.reshape(-1, *[1] * (weight.ndim - 1))
    return np.round(weight / step) * step


def flat(outputs: dict[str, Tensor]) -> np.ndarray:
    return np.concatenate([output.numpy().ravel() for output in outputs.values()])


@torch.no_grad()
def test_weight_layer_and_output_signals_are_those_of_numpy(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    signals = wrapped.signals([images[:4], images[4:]], sv.INT4_WEIGHTS)
    weight = net.depthwise.weight.numpy()
    perturbed = int4_per_channel(weight)
    inputs = net.act(net.norm(net.conv(images)))
    own = net.depthwise(inputs).numpy()
    own_perturbed = F.conv2d(inputs, torch.from_numpy(perturbed).float(), net.depthwise.bias, groups=8)
    expected = net(images)
    # the order of the outputs' elements does not count, so both batches at once are as good as one after the other
    outputs = {"map": own_perturbed, "scores": net.head(own_perturbed.mean((2, 3)))}
    [depthwise] = [layer.name for layer in wrapped.layers if layer.module == "depthwise"]
    assert signals[depthwise]["weight_sqnr_db"] == pytest.approx(sqnr(weight, perturbed), rel=1e-5)
    assert signals[depthwise]["layer_sqnr_db"] == pytest.approx(sqnr(own, own_perturbed.numpy()), rel=1e-5)
    assert signals[depthwise]["layer_cosine"] == pytest.approx(cosine(own, own_perturbed.numpy()), rel=1e-6)
    assert signals[depthwise]["output_sqnr_db"] == pytest.approx(sqnr(flat(expected), flat(outputs)), rel=1e-5)
    assert signals[depthwise]["output_cosine"] == pytest.approx(cosine(flat(expected), flat(outputs)), rel=1e-6)
    assert signals.images == 6
    assert list(signals) == wrapped.layers.names


@torch.no_grad()
def test_the_input_is_quantized_where_the_recipe_does_and_the_folded_weight_is_compared_unfolded(
    net: Net, images: Tensor
) -> None:
    wrapped = sv.wrap(net, images[:1])
    signals = wrapped.signals(images, sv.INT8_MINMAX, calibration=images, layers="conv")
    gamma = (net.norm.weight / torch.sqrt(net.norm.running_var + net.norm.eps)).numpy().reshape(-1, 1, 1, 1)
    weight = net.conv.weight.numpy()
    folded = weight * gamma
    step = np.abs(folded.reshape(8, -1)).max(1).reshape(-1, 1, 1, 1) / 127
    perturbed = np.round(folded / step) * step / gamma
    scale = float(images.abs().max()) / 127
    quantized = torch.round(images / scale).clamp(-128, 127) * scale
    own = F.conv2d(images, net.conv.weight).numpy()
    own_perturbed = F.conv2d(quantized, torch.from_numpy(perturbed).float()).numpy()
    [measured] = signals.values()
    assert measured["weight_sqnr_db"] == pytest.approx(sqnr(weight, perturbed), rel=1e-4)
    assert measured["layer_sqnr_db"] == pytest.approx(sqnr(own, own_perturbed), rel=1e-4)


def test_the_batch_size_makes_no_difference(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    wrapped.calibrate([images])
    single, all_at_once = wrapped.signals(images, sv.INT8), wrapped.signals([images], sv.INT8)
    for name in wrapped.layers.names:
        assert single[name] == pytest.approx(all_at_once[name], rel=1e-5)


def test_a_task_gives_its_inputs(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    from_task = wrapped.signals(sv.FeatureFidelity(images, batch_size=3), sv.INT4_WEIGHTS)
    from_images = wrapped.signals([images[:3], images[3:]], sv.INT4_WEIGHTS)
    assert from_task.of_layer == from_images.of_layer


def test_a_task_without_inputs_calls_the_model_itself_and_its_outputs_are_looked_at(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    seen: list[float] = []

    def twice(model: nn.Module) -> float:
        for part in (images[:3], images[3:]):
            seen.append(model(part)["scores"].relu_().numpy().sum())  # writes to what it got
        return 0.0

    from_task = wrapped.signals(sv.callback_task(twice), sv.INT4_WEIGHTS)
    from_images = wrapped.signals([images[:3], images[3:]], sv.INT4_WEIGHTS)
    assert from_task.images == 1
    for layer, signals_of_layer in from_images.items():
        assert from_task[layer] == pytest.approx(signals_of_layer, rel=1e-6)
    assert len(seen) > 4


def test_a_task_that_calls_parts_of_the_model_alone_is_refused_with_the_way_out(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    task = sv.callback_task(lambda model: float(model.conv(images).sum()), name="my metric")
    for look in (wrapped.signals, wrapped.screen):
        with pytest.raises(TaskError, match=r"my metric never calls the Net as a whole.*Give preprocessed images"):
            look(task, sv.INT4_WEIGHTS)


def test_a_sam_prompted_by_its_methods_is_refused_with_the_way_out(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path, SIZES, ANNOTATIONS)
    sam = efficientvit_sam.build("tiny")
    inputs = torch.randn(1, 3, 64, 64), torch.tensor([[[4.0, 4.0, 60.0, 60.0]]])
    wrapped = sv.wrap(sam, inputs)
    task = sv.PromptedMasks(scenes.images, scenes.annotations, limit=1)
    with pytest.raises(TaskError, match="never calls the EfficientViTSam as a whole, only parts or methods of it"):
        wrapped.signals(task, sv.INT4_WEIGHTS)
    assert set(wrapped.signals([inputs], sv.INT4_WEIGHTS, layers="stage0:*:*").names) > {"output_sqnr_db"}


def test_what_changes_nothing_has_the_ceiling_and_activations_alone_have_no_weight_signal(
    net: Net, images: Tensor
) -> None:
    wrapped = sv.wrap(net, images[:1])
    unpruned = wrapped.signals(images, sv.Prune(0.0), layers="head")
    [measured] = unpruned.values()
    assert dict(measured) | {"channel_ratio": 0} == {
        "weight_sqnr_db": 150.0,
        "layer_sqnr_db": 150.0,
        "layer_cosine": pytest.approx(1.0),
        "output_sqnr_db": 150.0,
        "output_cosine": pytest.approx(1.0),
        "channel_ratio": 0,
    }
    activations = wrapped.signals(images, sv.INT8_ACTIVATIONS, calibration=images, layers="conv")
    assert "weight_sqnr_db" not in activations.names
    assert activations["conv:0:0"]["layer_sqnr_db"] < 60


def test_dead_channels_are_those_that_never_vary_behind_the_activation(net: Net, images: Tensor) -> None:
    with torch.no_grad():
        net.norm.bias.fill_(3.0)
        net.norm.bias[:3] = -100.0  # three of eight never get past the ReLU
    signals = sv.wrap(net, images[:1]).signals(images, sv.INT4_WEIGHTS)
    assert signals["conv:0:0"]["dead_share"] == 3 / 8
    assert signals["depthwise:0:0"]["dead_share"] == 3 / 8  # its input is constant there: so is its output
    assert signals["head:0:0"].get("dead_share") is None  # six values of each are too few to call any constant


def test_clipped_values_are_counted_against_the_calibrated_range(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    calibration = wrapped.calibrate(images, sv.INT8_MINMAX)
    assert wrapped.signals(images, sv.INT8_MINMAX, layers="conv")["conv:0:0"]["clipped_share"] == 0.0
    step = float(images.abs().max()) / 127
    larger = images * 1.3
    beyond = (larger > 127.5 * step) | (larger < -128.5 * step)
    signals = wrapped.signals(larger, sv.INT8_MINMAX, calibration=calibration, layers="conv")
    assert signals["conv:0:0"]["clipped_share"] == pytest.approx(float(beyond.double().mean()), abs=1e-12)
    assert float(beyond.double().mean()) > 0


def test_an_affine_format_whose_ends_moved_by_less_than_half_a_step_clips_nothing(net: Net, images: Tensor) -> None:
    affine = sv.Recipe("affine", activations=sv.QuantSpec("uint8", symmetric=False))
    capped = images.clamp(-1.0, 1.3)  # many values at either end
    wrapped = sv.wrap(net, images[:1])
    signals = wrapped.signals(capped, affine, calibration=capped, layers="conv")
    assert signals["conv:0:0"]["clipped_share"] == 0.0


def test_the_channel_ratio_is_the_largest_over_the_median_channel(net: Net, images: Tensor) -> None:
    scaled = images * torch.tensor([1.0, 30.0, 2.0])[:, None, None]
    signals = sv.wrap(net, images[:1]).signals(scaled, sv.INT4_WEIGHTS, layers="conv")
    magnitudes = scaled.abs().amax((0, 2, 3)).sort().values
    assert signals["conv:0:0"]["channel_ratio"] == pytest.approx(float(magnitudes[2] / magnitudes[1]), rel=1e-6)


def test_a_layer_that_the_recipe_does_not_fit_is_reported_and_the_rest_goes_on(net: Net, images: Tensor) -> None:
    signals = sv.wrap(net, images[:1]).signals(images, sv.Prune("2:4"))
    assert list(signals) == ["head:0:0"]
    assert set(signals.failed) == {"conv:0:0", "depthwise:0:0"}
    assert "reads 3" in signals.failed["conv:0:0"]
    assert "reads 3" in repr(signals)


@pytest.mark.parametrize("measure", ["signals", "screen"])
def test_of_several_images_the_one_that_is_wrong_is_named(measure: str, net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    with pytest.raises(CalibrationError, match="images: item 2 is a str"):
        getattr(wrapped, measure)([images, images, "missing"], sv.INT8_WEIGHTS)
    with pytest.raises(CalibrationError, match="images is a dict with the keys 'x', not several batches"):
        getattr(wrapped, measure)({"x": images}, sv.INT8_WEIGHTS)


def test_bad_input_is_refused(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    with pytest.raises(CalibrationError, match="no image was given"):
        wrapped.signals([], sv.INT4_WEIGHTS)
    with pytest.raises(CalibrationError, match="no calibration is at hand"):
        wrapped.signals(images, sv.INT8)
    with pytest.raises(LayerNotFoundError, match="nowhere"):
        wrapped.signals(images, sv.INT4_WEIGHTS, layers="nowhere")
    with pytest.raises(CalibrationError, match="not the path"):
        wrapped.signals("images/", sv.INT4_WEIGHTS)

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).argmax(1)

    with pytest.raises(ModelError, match="no floating-point tensor"):
        sv.wrap(Counts().eval(), images[:1]).signals(images, sv.INT4_WEIGHTS)


@pytest.mark.parametrize("name", sorted(CASES))
def test_awkward_models_have_signals_and_are_left_as_they_were(name: str) -> None:
    case = CASES[name]
    model = case.build()
    wrapped = sv.wrap(model, case.inputs)
    before = trace_of(model)
    one_batch = (case.inputs,) if isinstance(case.inputs, list) else case.inputs  # a list would be many arguments
    signals = wrapped.signals([one_batch], sv.INT4_WEIGHTS)
    assert trace_of(model) == before
    assert set(signals) | set(signals.failed) == set(wrapped.layers.names)
    for layer, of_layer in signals.items():
        assert "output_sqnr_db" in of_layer, layer


def trace_of(model: nn.Module) -> list[object]:
    facts: list[object] = [torch.get_rng_state().tolist()]
    for path, module in model.named_modules():
        hooks = [len(getattr(module, name)) for name in vars(module) if name.endswith("hooks")]
        facts.append((path, module.training, hooks, list(module._parameters)))
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
        facts.append((path, id(tensor), tensor.requires_grad, tensor.grad, tensor.detach().flatten().tolist()))
    return facts
