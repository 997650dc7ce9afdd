"""What every observer must do, as a class of tests to inherit.

Give the test file the fixture ``make``, which makes fresh observers, and name the subclass ``Test...``; pytest runs the
rest::

    @pytest.fixture
    def make(): return lambda: MyObserver(sv.QuantSpec(observer="mine"))

    class TestMyObserver(ObserverSuite):
        ...
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sensitivity.contracts import Observer
from sensitivity.errors import CalibrationError

Make = Callable[[], Observer]
CHANNELS = 3
LARGEST_STATE = 64 * 1024
"""Bytes of a pickled state: far more than any histogram needs, far less than the images of a calibration."""


class ObserverSuite:
    """The tests; the file of the subclass gives the fixture ``make``.

    Attributes:
        depends_on_order: Whether the range may depend on the order of the images, as a moving average does.
        tolerance: Largest relative difference of two ranges of the same images, where they were merged.
    """

    depends_on_order = False
    tolerance = 1e-5

    def test_it_fits_the_contract(self, make: Make) -> None:
        """It has the methods of ``Observer``."""
        assert isinstance(make(), Observer)

    def test_a_range_is_two_float32_tensors_around_values_that_were_seen(self, make: Make) -> None:
        """Lower bounds are not above upper bounds, and neither is beyond the values and zero."""
        images = _images()
        low, high = _range(make, images)
        for bound in (low, high):
            assert isinstance(bound, Tensor)
            assert bound.dtype == torch.float32
            assert bound.shape in {(), (CHANNELS,)}, f"a bound is () or (C,), not {tuple(bound.shape)}"
            assert not bound.requires_grad
        assert low.shape == high.shape
        assert bool((low <= high).all())
        slack = 0.01 * float(images.abs().max())
        assert float(low.min()) >= min(0.0, float(images.min())) - slack
        assert float(high.max()) <= max(0.0, float(images.max())) + slack

    def test_a_range_follows_the_values(self, make: Make) -> None:
        """Images that are ten times as bright have a range about ten times as wide."""
        (low, high), (low_ten, high_ten) = _range(make, _images()), _range(make, _images() * 10)
        torch.testing.assert_close(high_ten - low_ten, (high - low) * 10, rtol=0.2, atol=0.0)

    def test_the_division_into_batches_makes_no_difference(self, make: Make) -> None:
        """One by one, in unequal batches and all at once: the same bits."""
        images = _images()
        expected = _range(make, images)
        for sizes in ([1] * len(images), [5, len(images) - 5]):
            _assert_equal(_range(make, *torch.split(images, sizes)), expected)

    def test_the_order_of_images_makes_no_difference(self, make: Make) -> None:
        """To no bit; set ``depends_on_order`` where it does by definition."""
        if not self.depends_on_order:
            _assert_equal(_range(make, _images().flip(0)), _range(make, _images()))

    def test_its_memory_does_not_grow(self, make: Make) -> None:
        """Neither with the number of images nor with their size."""
        few, many, large = make(), make(), make()
        few.observe(_images(2))
        large.observe(_images(2, side=96))
        for seed in range(8):
            many.observe(_images(16, seed=seed))
        for observer in (few, many, large):
            size = max(len(pickle.dumps(observer.state())), len(pickle.dumps(observer)))
            assert size < LARGEST_STATE, f"an observer of {size} bytes keeps what it saw"

    def test_what_it_observes_is_not_changed(self, make: Make) -> None:
        """Not in place, also where the tensor is a view."""
        images = _images()
        before = images.clone()
        make().observe(images)
        make().observe(images.transpose(2, 3))
        assert torch.equal(images, before)

    def test_what_it_observed_may_be_overwritten(self, make: Make) -> None:
        """The next layer may work in place on the same memory."""
        images = _images()
        expected = _range(make, images)
        observer = make()
        buffer = images.clone()
        observer.observe(buffer)
        buffer.fill_(1000.0)
        _assert_equal(observer.range(), expected)

    def test_asking_for_the_range_changes_nothing(self, make: Make) -> None:
        """It can be asked in between and again."""
        images = _images()
        observer = make()
        for part in torch.split(images, 4):
            observer.observe(part)
            observer.range()
        _assert_equal(observer.range(), _range(make, images))

    def test_observers_do_not_know_each_other(self, make: Make) -> None:
        """What one has seen is not seen by another."""
        make().observe(_images() * 1000)
        _assert_equal(_range(make, _images()), _range(make, _images()))
        assert float(_range(make, _images())[1].max()) < 100.0

    def test_nothing_observed_is_an_error(self, make: Make) -> None:
        """A range that nobody measured must not be used."""
        observer = make()
        _refused(observer.range)
        observer.observe(torch.empty(0, CHANNELS, 4, 4))
        _refused(observer.range)

    def test_empty_tensors_are_passed_over(self, make: Make) -> None:
        """A detector's head meets them in images without detections."""
        observer = make()
        for part in (torch.empty(0, CHANNELS, 4, 4), _images(), torch.empty(0, CHANNELS, 4, 4)):
            observer.observe(part)
        _assert_equal(observer.range(), _range(make, _images()))

    def test_values_that_are_not_finite_are_an_error(self, make: Make) -> None:
        """At once or when the range is asked for, also when finite images follow."""
        for value in (torch.nan, torch.inf, -torch.inf):
            images = _images()
            images[1, 0, 0, 0] = value
            _refused(partial(_range, make, images, _images()))

    def test_half_precision_is_observed(self, make: Make) -> None:
        """Like the same values in float32."""
        half = _images().half()
        low, high = _range(make, half)
        assert low.dtype == high.dtype == torch.float32
        _assert_near(_range(make, half), _range(make, half.float()), 1e-3)

    def test_merging_is_observing_what_the_other_saw_last(self, make: Make) -> None:
        """And the other observer stays as it was; one that has seen nothing adds nothing."""
        first, second = torch.split(_images() * torch.linspace(0.1, 3.0, 12).reshape(-1, 1, 1, 1), [4, 8])
        for parts in ((first, second), (second, first)):
            whole, other = make(), make()
            whole.observe(parts[0])
            other.observe(parts[1])
            before = other.range()
            whole.merge(other)
            _assert_near(whole.range(), _range(make, *parts), self.tolerance)
            _assert_equal(other.range(), before)
        untouched = make()
        untouched.observe(first)
        untouched.merge(make())
        _assert_equal(untouched.range(), _range(make, first))
        fresh, observed = make(), make()
        observed.observe(first)
        fresh.merge(observed)
        _assert_equal(fresh.range(), _range(make, first))

    def test_a_state_brings_everything_back(self, make: Make) -> None:
        """After which observing and merging go on as they would have; what was known before is forgotten."""
        first, second = torch.split(_images(), [5, 7])
        saved = make()
        saved.observe(first)
        state = pickle.loads(pickle.dumps(saved.state()))
        restored, forgetful = make(), make()
        restored.load_state(state)
        forgetful.observe(second * 100)
        forgetful.load_state(state)
        for observer in (restored, forgetful):
            _assert_equal(observer.range(), _range(make, first))
            observer.observe(second)
            _assert_equal(observer.range(), _range(make, first, second))
        emptied = make()
        emptied.observe(first)
        emptied.load_state(make().state())
        _refused(emptied.range)

    def test_a_state_is_data_and_a_snapshot(self, make: Make) -> None:
        """A tree that a store keeps, which later images do not change."""
        observer = make()
        observer.observe(_images())
        state = observer.state()
        before = pickle.dumps(state)
        observer.observe(_images() * 7)
        assert pickle.dumps(state) == before
        _assert_data(state)


def _images(count: int = 12, *, side: int = 10, seed: int = 0) -> Tensor:
    """Float32 (N, C, side, side): more above zero than below, and not the same in each image."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, CHANNELS, side, side, generator=generator)
    return (images + 0.3) * torch.linspace(0.5, 1.5, count).reshape(-1, 1, 1, 1)


def _range(make: Make, *parts: Tensor) -> tuple[Tensor, Tensor]:
    observer = make()
    for part in parts:
        observer.observe(part)
    return observer.range()


def _assert_equal(bounds: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert all(torch.equal(bound, wanted) for bound, wanted in zip(bounds, expected, strict=True)), (
        f"the range is {bounds}, not {expected}"
    )


def _assert_near(bounds: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float) -> None:
    for bound, wanted in zip(bounds, expected, strict=True):
        torch.testing.assert_close(bound, wanted, rtol=tolerance, atol=0.0)


def _assert_data(tree: Any) -> None:
    if isinstance(tree, dict):
        for value in tree.values():
            _assert_data(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            _assert_data(value)
    else:
        kind = type(tree)
        assert tree is None or kind.__module__ in {"numpy", "builtins"}, f"a store cannot keep a {kind.__name__}"


def _refused(call: Callable[[], object]) -> None:
    """A call must raise a ``CalibrationError``."""
    try:
        call()
    except CalibrationError:
        return
    raise AssertionError("a CalibrationError was expected, and nothing was raised")
