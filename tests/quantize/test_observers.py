"""Observers against exact answers on all values at once, and their promises on memory, order and batching."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.quantize.fake import fake_quantize
from sensitivity.quantize.observers import make_observer
from sensitivity.quantize.scales import params_from_range
from sensitivity.quantize.search import mse_range
from sensitivity.quantize.weights import quantize_weight
from sensitivity.records import QuantSpec
from sensitivity.records.recipes.observers import observers

OBSERVERS = tuple(kind.name for kind in observers())

ORDER_FREE = tuple(name for name in OBSERVERS if name != "ema")


def images(kind: str = "gaussian", count: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(count, 8, 20, 20, generator=generator)
    return {
        "gaussian": x,
        "rectified": x.relu(),
        "capped": (x * 3).clamp(0, 6),
        "hardswish": torch.nn.functional.hardswish(x * 2),
        "heavy": x**3,
        "shifted": x * 0.1 + 5,
    }[kind]


def observed(x: Tensor, spec: QuantSpec, batch: int = 12) -> tuple[float, float]:
    observer = make_observer(spec)
    for part in torch.split(x, batch) if x.dim() else [x]:
        observer.observe(part)
    low, high = observer.range()
    assert low.dtype == high.dtype == torch.float32
    return float(low), float(high)


# --- what each of them finds -----------------------------------------------------------------------------------------


def test_min_max_is_the_smallest_and_largest_value_of_all() -> None:
    x = images("heavy")
    assert observed(x, QuantSpec(observer="minmax"), batch=5) == (float(x.min()), float(x.max()))


def test_min_max_per_channel_keeps_channels_apart() -> None:
    x = images("heavy")
    observer = make_observer(QuantSpec(granularity="per-channel"))
    for part in torch.split(x, 5):
        observer.observe(part)
    low, high = observer.range()
    assert torch.equal(low, x.amin((0, 2, 3)))
    assert torch.equal(high, x.amax((0, 2, 3)))
    last = make_observer(QuantSpec(granularity="per-channel", axis=-1))
    last.observe(x)
    assert torch.equal(last.range()[1], x.amax((0, 1, 2)))


def test_ema_is_a_moving_average_of_the_extremes_of_single_images() -> None:
    x = images("heavy")
    low, high = float(x[0].min()), float(x[0].max())
    for image in x.numpy()[1:]:
        low, high = 0.99 * low + 0.01 * float(image.min()), 0.99 * high + 0.01 * float(image.max())
    assert observed(x, QuantSpec(observer="ema")) == pytest.approx((low, high), rel=1e-6)


def test_ema_does_not_depend_on_the_batch_size_but_on_the_order_of_images() -> None:
    x, spec = images("heavy"), QuantSpec(observer="ema")
    assert observed(x, spec, batch=1) == observed(x, spec, batch=5) == observed(x, spec, batch=12)
    assert observed(x.flip(0), spec) != observed(x, spec)


def test_mean_min_max_is_the_mean_of_each_images_extremes() -> None:
    x = torch.tensor([[-1.0, 3.0], [0.0, 5.0], [-8.0, 1.0]])  # three images: lows -1, 0, -8; highs 3, 5, 1
    assert observed(x, QuantSpec(observer="mean-minmax")) == (-3.0, 3.0)
    heavy = images("heavy")
    expected = heavy.reshape(12, -1).numpy()
    assert observed(heavy, QuantSpec(observer="mean-minmax"), batch=5) == (
        float(np.float32(expected.min(1).astype(np.float64).mean())),
        float(np.float32(expected.max(1).astype(np.float64).mean())),
    )


def test_mean_min_max_per_channel_takes_the_extremes_of_each_channel_of_each_image() -> None:
    x = torch.tensor([[[1.0, -2.0], [0.0, 4.0]], [[3.0, 5.0], [-6.0, 2.0]]])  # (images, channels, length)
    spec = QuantSpec(granularity="per-channel", observer="mean-minmax")
    half, two, merged = make_observer(spec), make_observer(spec), make_observer(spec)
    half.observe(x[:1])
    two.observe(x[1:])
    merged.merge(two)
    merged.merge(half)
    for observer in (two, merged):
        if observer is two:
            observer.observe(x[:1])
        low, high = observer.range()
        assert low.tolist() == [0.5, -3.0]
        assert high.tolist() == [3.0, 3.0]
    last = make_observer(QuantSpec(granularity="per-channel", observer="mean-minmax", axis=-1))
    last.observe(x)
    assert last.range()[0].tolist() == [-3.0, 0.0]
    first = make_observer(QuantSpec(granularity="per-channel", observer="mean-minmax", axis=0))
    first.observe(x)  # whose first axis is the channels has no axis of images
    assert first.range()[1].tolist() == [4.0, 5.0]


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99])
@pytest.mark.parametrize("kind", ["gaussian", "rectified", "heavy", "shifted", "hardswish"])
def test_a_percentile_is_within_a_1023rd_of_the_range_of_the_exact_one(kind: str, percentile: float) -> None:
    x = images(kind)
    values = x.double().numpy()
    span = max(values.max(), 0) - min(values.min(), 0)
    rest = (100 - percentile) / 2
    low, high = observed(x, QuantSpec(observer="percentile", percentile=percentile, symmetric=False), batch=5)
    assert low == pytest.approx(np.percentile(values, rest), abs=span / 1023)
    assert high == pytest.approx(np.percentile(values, 100 - rest), abs=span / 1023)
    low, high = observed(x, QuantSpec(observer="percentile", percentile=percentile), batch=5)
    bound = np.percentile(np.abs(values), percentile)
    assert max(-low, high) == pytest.approx(bound, abs=np.abs(values).max() / 1023)


@pytest.mark.parametrize(
    "spec",
    [QuantSpec("fp8_e4m3", observer="mse"), QuantSpec("log2", observer="mse")]
    + [QuantSpec(name, observer="mse", symmetric=yes) for name in ("int2", "int4", "int8") for yes in (True, False)],
)
@pytest.mark.parametrize("kind", ["gaussian", "rectified", "capped", "heavy", "hardswish"])
def test_the_mse_range_is_as_good_as_the_exact_search_to_two_percent(kind: str, spec: QuantSpec) -> None:
    x = images(kind)

    def error(low: Tensor, high: Tensor) -> float:
        return float((fake_quantize(x, params_from_range(low, high, spec)) - x).double().square().sum())

    low, high = mse_range(x.reshape(1, -1), x.min()[None], x.max()[None], spec, narrow=False)
    exact = error(low[0], high[0])
    reached = error(*(torch.tensor(bound) for bound in observed(x, spec, batch=5)))
    assert exact <= error(x.min(), x.max())
    assert reached <= exact * 1.02 + 1e-9


@pytest.mark.parametrize("kind", ["gaussian", "rectified", "heavy"])
def test_entropy_clips_tails_and_stays_inside_the_values(kind: str) -> None:
    x = images(kind)
    low, high = observed(x, QuantSpec(observer="entropy"))
    assert float(x.min()) <= low <= 0.0 < high <= float(x.max())
    outlier = torch.cat([x.reshape(-1), x.max()[None] * 20])
    assert observed(outlier, QuantSpec(observer="entropy"))[1] < 0.3 * float(outlier.max())


@pytest.mark.parametrize("name", ["percentile", "mse", "entropy"])
def test_the_settings_of_a_spec_reach_the_observer(name: str) -> None:
    x = images("heavy")
    default = observed(x, QuantSpec(observer=name))
    if name == "percentile":
        assert observed(x, QuantSpec(observer=name, percentile=90.0))[1] < default[1]
    else:
        assert observed(x, QuantSpec("int4", observer=name))[1] < default[1]


@pytest.mark.parametrize("name", ["percentile", "mse", "entropy"])
def test_a_sample_of_the_values_gives_nearly_the_same_range_and_does_not_depend_on_the_batch(name: str) -> None:
    x = torch.randn(6, 16, 40, 40, generator=torch.Generator().manual_seed(3))
    full = observed(x, QuantSpec(observer=name))
    spec = QuantSpec(observer=name, sample_every=8)
    assert observed(x, spec, batch=1) == observed(x, spec, batch=6) == observed(x.flip(0), spec, batch=4)
    assert observed(x, spec) == pytest.approx(full, rel=0.1)
    assert observed(x, spec) != full


def test_sampling_is_refused_where_every_value_is_looked_at_anyway() -> None:
    for observer in ("minmax", "mean-minmax", "ema"):
        with pytest.raises(RecipeError, match=f"with observer '{observer}'.*'percentile', 'mse' or 'entropy'"):
            QuantSpec(observer=observer, sample_every=8)
    with pytest.raises(RecipeError, match="sample_every=0"):
        QuantSpec(observer="mse", sample_every=0)
    with pytest.raises(RecipeError, match="weights are observed in full"):
        quantize_weight(torch.ones(2, 2), QuantSpec(observer="mse", sample_every=2))


# --- what all of them promise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", ORDER_FREE)
def test_batch_size_and_order_do_not_change_a_bit(name: str, symmetric: bool) -> None:
    x, spec = images("heavy"), QuantSpec(observer=name, symmetric=symmetric)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    assert observed(x, spec, batch=1) == observed(x, spec, batch=12) == observed(shuffled, spec, batch=5)


@pytest.mark.parametrize("name", OBSERVERS)
def test_an_observer_never_grows_beyond_20_kb(name: str) -> None:
    observer = make_observer(QuantSpec(observer=name))
    sizes = set()
    for seed in range(5):
        x = torch.randn(4, 16, 30, 30, generator=torch.Generator().manual_seed(seed))
        observer.observe(torch.cat([x, torch.full_like(x[:1], 6.0), torch.full_like(x[:1], -6.0)]))  # same extremes
        sizes.add(len(pickle.dumps(observer)))
    assert max(sizes) < 20_000
    assert max(sizes) - min(sizes) < 100


@pytest.mark.parametrize("name", OBSERVERS)
def test_empty_tensors_are_passed_over_and_nothing_else_is_no_range(name: str) -> None:
    spec = QuantSpec(observer=name)
    observer = make_observer(spec)
    observer.observe(torch.empty(0, 4, 3, 3))
    with pytest.raises(CalibrationError, match=rf"'{name}' has seen no values"):
        observer.range()
    observer.observe(images())
    observer.observe(torch.empty(2, 0))
    assert tuple(map(float, observer.range())) == observed(images(), spec)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", OBSERVERS)
def test_values_that_are_not_finite_are_an_error(name: str, bad: float) -> None:
    observer = make_observer(QuantSpec(observer=name))

    def calibrate() -> None:
        for value in (1.0, bad, 2.0):
            observer.observe(torch.tensor([[0.0, value]]))
        observer.range()

    with pytest.raises(CalibrationError, match="NaN or infinite"):
        calibrate()


@pytest.mark.parametrize("name", OBSERVERS)
def test_constant_scalar_and_half_tensors_are_observed(name: str) -> None:
    assert observed(torch.zeros(3, 4), QuantSpec(observer=name)) == (0.0, 0.0)
    assert observed(torch.tensor(0.5), QuantSpec(observer=name))[1] == pytest.approx(0.5, rel=0.01)
    half = images().half()
    assert observed(half, QuantSpec(observer=name)) == observed(half.float(), QuantSpec(observer=name))


@pytest.mark.parametrize("name", ["minmax", "mean-minmax", "ema"])
def test_the_cheap_observers_never_wait_for_the_device(name: str) -> None:
    class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.seen: list[str] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Calls() as calls:
        observer = make_observer(QuantSpec(observer=name))
        for _ in range(2):
            observer.observe(images())
    assert any("amin" in call for call in calls.seen)
    assert not [call for call in calls.seen if "_local_scalar_dense" in call or "equal" in call]


def test_observing_changes_nothing_and_keeps_no_graph() -> None:
    x = images().requires_grad_()
    before = x.detach().clone()
    for name in OBSERVERS:
        observer = make_observer(QuantSpec(observer=name))
        observer.observe(x * 1.0)
        assert not observer.range()[0].requires_grad
    assert torch.equal(x, before)


def test_what_an_observer_cannot_serve_is_refused_at_once() -> None:
    with pytest.raises(RecipeError, match="'mse' cannot watch activations per-channel, only per-tensor"):
        make_observer(QuantSpec(granularity="per-channel", observer="mse"))
    with pytest.raises(RecipeError, match="cannot watch activations per-group"):
        make_observer(QuantSpec(granularity="per-group", group_size=8))


@pytest.mark.parametrize("name", ["int2", "int8", "fp8_e4m3", "log2"])
@pytest.mark.parametrize("value", [0.7, -0.013, 6.0])
def test_the_mse_range_of_a_constant_holds_it(value: float, name: str) -> None:
    x = torch.full((1000,), value)
    spec = QuantSpec(name, observer="mse")
    low, high = (torch.tensor(bound) for bound in observed(x, spec))
    torch.testing.assert_close(fake_quantize(x, params_from_range(low, high, spec)), x, rtol=1e-6, atol=0.0)
