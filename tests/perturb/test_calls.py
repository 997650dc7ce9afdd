"""Which call of a shared layer is running: no pass shifts a later one, and no scale is guessed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import CalibrationError


class Pyramid(nn.Module):
    """One head on two levels a hundredfold apart; the second one only where the image asks for it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(2, 2, 1)
        self.head = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False))
        self.levels = 2
        self.fail: Exception | None = None

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = []
        for level in range(self.levels if x[0, 0, 0, 0] > 0 else 1):
            if level == 1 and self.fail is not None:
                raise self.fail
            levels.append(self.head(x * 100**level))
        return [self.body(x), *levels]


def image(seed: int, *, levels: int = 2) -> Tensor:
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    x[0, 0, 0, 0] = 1.0 if levels == 2 else -1.0
    return x


@pytest.fixture
def model() -> Pyramid:
    return Pyramid().eval()


@pytest.fixture
def wrapped(model: Pyramid) -> sv.Wrapped:
    return sv.wrap(model, image(0))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


ACTIVATIONS = sv.Recipe("activations", activations=sv.QuantSpec())
HEAD = sv.Scheme.only("head", ACTIVATIONS)


def expected(model: Pyramid, x: Tensor, highest: list[float]) -> list[Tensor]:
    """The head on each level, its input quantized by torch with that level's own largest value."""
    levels = [x * 100**level for level in range(len(highest))]
    quantized = [
        torch.fake_quantize_per_tensor_affine(level, high / 127, 0, -128, 127)
        for level, high in zip(levels, highest, strict=True)
    ]
    return [model.head(level) for level in quantized]


def test_a_pass_with_fewer_calls_does_not_shift_the_next_one(wrapped: sv.Wrapped, model: Pyramid) -> None:
    x = image(0)
    wrapped.calibrate([x], ACTIVATIONS)
    high = float(x.abs().max())
    with wrapped.quantized(HEAD):
        first = model(x)
        model(image(1, levels=1))
        second = model(x)
    for before, after in zip(first, second, strict=True):
        assert torch.equal(before, after)
    for output, truth in zip(second[1:], expected(model, x, [high, 100 * high]), strict=True):
        torch.testing.assert_close(output, truth)


def test_the_order_of_the_calibration_images_does_not_swap_the_calls(wrapped: sv.Wrapped) -> None:
    images = [image(0), image(1, levels=1), image(2), image(3, levels=1), image(4, levels=1)]
    ranges = wrapped.calibrate(images, sv.INT8_MINMAX).ranges
    assert ranges == wrapped.calibrate(images[::-1], sv.INT8_MINMAX).ranges
    highest = {point.call: observed.high[0] for point, observed in ranges.items() if point.layer.startswith("head")}
    both = torch.cat([images[0], images[2]])
    assert highest == {0: float(torch.cat(images).max()), 1: pytest.approx(100 * float(both.max()))}


def test_an_exception_in_the_middle_of_a_pass_does_not_shift_the_next_one(wrapped: sv.Wrapped, model: Pyramid) -> None:
    x = image(0)
    wrapped.calibrate([x], sv.INT8_MINMAX)
    with wrapped.quantized(HEAD):
        before = model(x)
        model.fail = ValueError("out of memory")
        with pytest.raises(ValueError, match="out of memory"):
            model(x)
        model.fail = None
        for output, other in zip(before, model(x), strict=True):
            assert torch.equal(output, other)


def test_a_traced_call_that_was_never_calibrated_is_refused(wrapped: sv.Wrapped) -> None:
    wrapped.calibrate([image(0, levels=1)], sv.INT8_MINMAX)
    refused = pytest.raises(CalibrationError, match=r"no range for head:0:0 input #1.* head:0:0 input #0 only")
    with refused, wrapped.quantized(HEAD):
        pass


def test_a_call_beyond_those_traced_is_refused_where_it_was_never_calibrated(
    wrapped: sv.Wrapped, model: Pyramid
) -> None:
    wrapped.calibrate([image(0)], sv.INT8_MINMAX)
    model.levels = 3
    with (
        wrapped.quantized(HEAD),
        pytest.raises(CalibrationError, match=r"call #2 of head:0:0 in one pass was never calibrated, only #0, #1"),
    ):
        model(image(0))


def test_a_call_beyond_those_traced_has_a_range_where_the_calibration_saw_it(
    wrapped: sv.Wrapped, model: Pyramid
) -> None:
    model.levels = 3
    x = image(0)
    wrapped.calibrate([x], sv.INT8_MINMAX)
    high = float(x.abs().max())
    with wrapped.quantized(HEAD):
        outputs = model(x)[1:]
    for output, truth in zip(outputs, expected(model, x, [high, 100 * high, 10_000 * high]), strict=True):
        torch.testing.assert_close(output, truth)


def test_a_layer_that_ran_once_when_it_was_traced_has_one_range_however_often_it_runs(model: Pyramid) -> None:
    wrapped = sv.wrap(model, image(0, levels=1))
    x = image(0)
    calibration = wrapped.calibrate([x], sv.INT8_MINMAX)
    [observed] = [observed for point, observed in calibration.ranges.items() if point.layer == "head:0:0"]
    assert observed.high[0] == pytest.approx(100 * float(x.max()))
    with wrapped.quantized(HEAD):
        model(x)


def test_a_head_called_by_itself_is_refused_since_which_call_it_is_cannot_be_known(
    wrapped: sv.Wrapped, model: Pyramid
) -> None:
    wrapped.calibrate([image(0)], sv.INT8_MINMAX)
    with (
        wrapped.quantized(HEAD),
        pytest.raises(CalibrationError, match=r"head:0:0 ran 1 time\(s\) in a call of a Sequential from outside"),
    ):
        model.head(image(0))


def test_a_part_called_from_outside_is_a_pass_of_its_own() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Pyramid()

        def forward(self, x: Tensor) -> list[Tensor]:
            return self.part(x)

    model, x = Whole().eval(), image(0)
    wrapped = sv.wrap(model, x)
    wrapped.calibrate([x], sv.INT8_MINMAX)
    with wrapped.quantized(sv.Scheme.only("part.head", sv.INT8_MINMAX)):
        inside = model(x)
        for _ in range(2):
            for output, other in zip(model.part(x), inside, strict=True):
                assert torch.equal(output, other)


def test_a_sweep_gives_a_shared_head_what_a_single_evaluation_does(wrapped: sv.Wrapped) -> None:
    images = torch.cat([image(0), image(1, levels=1), image(2)])
    task = sv.callback_task(lambda model: sum(float(output.sum()) for x in images for output in model(x[None])))
    wrapped.calibrate(images, sv.INT8_MINMAX)
    study = wrapped.analyze(task, sv.INT8_MINMAX, progress=False)
    for row in study.measurements:
        alone = wrapped.evaluate(task, sv.Scheme.only(row.layer, sv.INT8_MINMAX))
        assert row.score == alone.value


def test_an_activation_that_serves_two_layers_forgets_a_pass_that_broke() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.act = nn.ReLU()
            self.conv = nn.Conv2d(2, 2, 1)
            self.fail: Exception | None = None

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(1000 * x)  # not behind the convolution
            x = self.conv(x)
            if self.fail is not None:
                raise self.fail
            return self.act(x)

    model, x = Net().eval(), image(0)
    wrapped = sv.wrap(model, x)
    wrapped.calibrate([x], sv.THESIS)
    with wrapped.quantized(sv.Scheme.all(sv.THESIS)):
        before = model(x)
        model.fail = ValueError("broken")
        with pytest.raises(ValueError, match="broken"):
            model(x)
        model.fail = None
        assert torch.equal(model(x), before)
    ranges = wrapped.calibrate([x], sv.THESIS).ranges
    conv = model.conv(model.act(1000 * x))
    [observed] = [observed for point, observed in ranges.items() if point.place == "activation"]
    assert observed.high[0] == pytest.approx(float(conv.relu().max()))


def test_no_hook_is_left_on_what_holds_a_shared_layer(wrapped: sv.Wrapped, model: Pyramid) -> None:
    wrapped.calibrate([image(0)], sv.INT8_MINMAX)
    for fail in (None, ValueError("broken"), KeyboardInterrupt("broken")):
        model.fail = fail
        try:
            with wrapped.quantized(HEAD):
                model(image(0))
        except (ValueError, KeyboardInterrupt):
            pass
        for module in model.modules():
            for name in [name for name in vars(module) if "hooks" in name]:
                assert not vars(module)[name]


def test_signals_of_a_shared_head_use_the_range_of_each_call(wrapped: sv.Wrapped, model: Pyramid) -> None:
    x = image(0)
    wrapped.calibrate([x], ACTIVATIONS)
    measured = wrapped.signals([image(1, levels=1), x], ACTIVATIONS, layers="head")["head:0:0"]
    high = float(x.abs().max())
    inputs = [(image(1, levels=1), high), (x, high), (100 * x, 100 * high)]
    signal = noise = 0.0
    for head_input, largest in inputs:
        own = model.head(head_input).double()
        other = model.head(torch.fake_quantize_per_tensor_affine(head_input, largest / 127, 0, -128, 127)).double()
        signal, noise = signal + float(own.square().sum()), noise + float((own - other).square().sum())
    assert measured["layer_sqnr_db"] == pytest.approx(10 * torch.tensor(signal / noise).log10().item(), rel=1e-4)
