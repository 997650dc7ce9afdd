"""The gradient estimates: its numbers by hand and by finite differences, and no trace of it in the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import CalibrationError, ModelError
from tests.models import CASES
from tests.sweep.signals.test_measured import trace_of

INT4 = sv.INT4_WEIGHTS


class Net(nn.Module):
    """Convolution with batch norm, convolution, linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, 1)
        self.head = nn.Linear(5, 3)
        self.fail: BaseException | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.second(torch.tanh(self.norm(self.first(x)))))
        if self.fail is not None:
            raise self.fail
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def square(outputs: Tensor, _: Any) -> Tensor:
    return outputs.square().sum()


def move_of(wrapped: sv.Wrapped, module: str, recipe: sv.Recipe) -> Tensor:
    weight = wrapped.model.get_submodule(module).weight.detach().clone()
    with wrapped.quantized(sv.Scheme.only(module, recipe)) as model:
        return model.get_submodule(module).weight.detach() - weight


def test_weight_terms_are_those_of_plain_autograd(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    estimates = wrapped.screen(images, INT4, loss=square)
    for module, layer in (("first", "first:0:0"), ("second", "second:0:0"), ("head", "head:0:0")):
        move = move_of(wrapped, module, INT4).double()
        first, second = [], []
        for image in images:
            [gradient] = torch.autograd.grad(square(net(image[None]), None), [net.get_submodule(module).weight])
            products = gradient.double() * move
            first.append(abs(float(products.sum())))
            second.append(float(products.square().sum()) / 2)
        assert estimates[layer]["estimate_first_order"] == pytest.approx(sum(first) / 3, rel=1e-5)
        assert estimates[layer]["estimate_second_order"] == pytest.approx(sum(second) / 3, rel=1e-5)


def test_the_first_order_term_is_how_the_loss_moves_with_a_small_change_of_weight_and_input(
    net: Net, images: Tensor
) -> None:
    recipe = sv.Recipe("a8w8", weights=sv.QuantSpec("int8"), activations=sv.QuantSpec("int8"))
    net, images = net.double(), images.double()
    wrapped = sv.wrap(net, images[:1])
    wrapped.calibrate(images, recipe)
    estimates = wrapped.screen(images[:1], recipe, loss=square, layers="second")
    with torch.no_grad(), wrapped.quantized(sv.Scheme.only("second", recipe)):
        moved = square(net(images[:1]), None)
    with torch.no_grad():
        change = float(moved - square(net(images[:1]), None))
    assert estimates["second:0:0"]["estimate_first_order"] == pytest.approx(abs(change), rel=0.1)


def test_without_a_loss_the_square_of_the_estimate_is_the_output_error_on_average(net: Net) -> None:
    # many images: independent signs for each, so that the mean square of the first order comes close to the real error
    images = torch.randn(400, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    wrapped = sv.wrap(net, images[:1])
    weight, move = net.head.weight.detach(), move_of(wrapped, "head", INT4)
    features = torch.tanh(net.second(torch.tanh(net.norm(net.first(images))))).mean((2, 3)).detach()
    error = float((features @ move.T).square().mean())  # the head is linear: its error is known exactly
    estimates = wrapped.screen([images], INT4, layers="head")
    assert estimates["head:0:0"]["estimate_output_mse"] == pytest.approx(error, rel=1e-4)
    assert weight.equal(net.head.weight)
    singles = [wrapped.screen(image[None], INT4, layers="head")["head:0:0"] for image in images[:40]]
    per_image = [(features[i] @ move.T).square().mean().item() for i in range(40)]
    ratio = sum(single["estimate_first_order"] ** 2 for single in singles) / sum(per_image)
    assert 0.3 < ratio < 3.0  # the same signs for every image, so far from independent


def test_a_task_without_inputs_is_differentiated_through_what_the_model_returned(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    task = sv.callback_task(lambda model: float(model(images).numpy().mean()))  # no tensor with gradients has numpy()
    from_task, from_images = wrapped.screen(task, INT4, loss=square), wrapped.screen([images], INT4, loss=square)
    for layer, estimate in from_images.items():
        assert from_task[layer] == pytest.approx(estimate, rel=1e-6)


def test_the_output_error_is_that_of_the_first_batch(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    estimates = wrapped.screen(images, INT4)
    with torch.no_grad():
        expected = net(images[:1])
        with wrapped.quantized(sv.Scheme.only("first", INT4)):
            error = float((net(images[:1]) - expected).square().mean())
    assert estimates["first:0:0"]["estimate_output_mse"] == pytest.approx(error, rel=1e-5)
    assert estimates.images == 3


def test_activations_count(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    wrapped.calibrate(images)
    weights = wrapped.screen(images[:1], sv.INT8_WEIGHTS, layers="first")["first:0:0"]
    both = wrapped.screen(images[:1], sv.INT8, layers="first")["first:0:0"]
    alone = wrapped.screen(images[:1], sv.INT8_ACTIVATIONS, layers="first")["first:0:0"]
    assert both["estimate_second_order"] == pytest.approx(
        weights["estimate_second_order"] + alone["estimate_second_order"], rel=1e-6
    )
    assert alone["estimate_second_order"] > 0


def test_a_loss_gets_the_batch_as_it_was_given(net: Net, images: Tensor) -> None:
    seen: list[Any] = []

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        seen.append(batch)
        return nn.functional.cross_entropy(outputs, batch[1])

    pairs = [(images[:2], torch.tensor([0, 2])), (images[2:], torch.tensor([1]))]
    sv.wrap(net, images[:1]).screen(pairs, INT4, loss=loss)
    assert [batch[1].tolist() for batch in seen] == [[0, 2], [1]]
    task = sv.FeatureFidelity(images, batch_size=2)
    sv.wrap(net, images[:1]).screen(task, INT4, loss=lambda outputs, batch: seen.append(batch) or outputs.sum())
    assert [batch.images for batch in seen[2:]] == [(0, 1), (2,)]


@pytest.mark.parametrize(
    "fail", [None, ValueError("broken"), KeyboardInterrupt("broken")], ids=["runs", "raises", "interrupted"]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_is_left_behind(net: Net, images: Tensor, frozen: bool, fail: BaseException | None) -> None:
    net.train()
    net.requires_grad_(not frozen)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    wrapped = sv.wrap(net, images[:1])
    wrapped.calibrate(images)
    before = [*trace_of(net), net.head.weight.grad.tolist(), torch.is_grad_enabled()]

    def loss(outputs: Tensor, _: Any) -> Tensor:
        torch.rand(3)  # draws from the caller's generator
        if fail is not None:
            raise fail
        return outputs.sum()

    if fail is None:
        assert len(wrapped.screen(images, sv.INT8, loss=loss)) == 3
    else:
        with pytest.raises(type(fail), match="broken"):
            wrapped.screen(images, sv.INT8, loss=loss)
    assert [*trace_of(net), net.head.weight.grad.tolist(), torch.is_grad_enabled()] == before


def test_it_works_where_the_caller_has_gradients_off(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    expected = wrapped.screen(images, INT4)
    with torch.no_grad():
        assert wrapped.screen(images, INT4).of_layer == expected.of_layer


@pytest.mark.parametrize("name", sorted(CASES))
def test_awkward_models_are_screened_or_say_why_not_and_are_left_as_they_were(name: str) -> None:
    case = CASES[name]
    model = case.build()
    wrapped = sv.wrap(model, case.inputs)
    before = trace_of(model)
    one_batch = (case.inputs,) if isinstance(case.inputs, list) else case.inputs
    if name == "own_modes":  # runs without gradients whatever the caller wants
        with pytest.raises(ModelError, match="no gradient flows"):
            wrapped.screen([one_batch], INT4)
        assert trace_of(model) == before
        return
    estimates = wrapped.screen([one_batch], INT4)
    assert trace_of(model) == before
    assert set(estimates) | set(estimates.failed) == set(wrapped.layers.names)
    assert not set(estimates) & set(estimates.failed)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda outputs, _: outputs, r"must return a scalar tensor, not \(1, 3\)"),
        (lambda outputs, _: 1.0, "must return a scalar tensor, not float"),
        (lambda outputs, _: outputs.detach().sum(), "no gradient flows from the model's outputs"),
    ],
)
def test_a_loss_that_cannot_be_differentiated_is_refused(
    net: Net, images: Tensor, loss: Callable[..., Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        sv.wrap(net, images[:1]).screen(images, INT4, loss=loss)


def test_a_layer_that_the_loss_does_not_reach_is_reported(images: Tensor) -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.other = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.one(x), self.other(x)

    estimates = sv.wrap(TwoHeads().eval(), images[:1]).screen(images, INT4, loss=lambda outputs, _: outputs[0].sum())
    assert list(estimates) == ["one:0:0"]
    assert "does not depend on this layer" in estimates.failed["other:0:0"]


def test_no_images_and_no_ranges_are_refused(net: Net, images: Tensor) -> None:
    wrapped = sv.wrap(net, images[:1])
    with pytest.raises(CalibrationError, match="no image was given to estimate with"):
        wrapped.screen([], INT4)
    with pytest.raises(CalibrationError, match="no calibration is at hand"):
        wrapped.screen(images, sv.INT8)


def test_it_says_that_it_estimates(net: Net, images: Tensor) -> None:
    estimates = sv.wrap(net, images[:1]).screen(images, INT4)
    assert all(name.startswith("estimate_") for name in estimates.names)
    assert "ESTIMATES of how much a layer matters, not measured drops" in repr(estimates)
