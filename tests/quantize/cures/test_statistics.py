"""Statistics of inputs do not grow with the images, do not depend on batches, and are saved to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sensitivity as sv
from sensitivity.errors import CalibrationError
from sensitivity.quantize.calibration import Calibration
from sensitivity.quantize.cures.patches import Geometry
from sensitivity.quantize.cures.statistics import InputStatistics, StatisticKind, Statistics, statistics_for
from sensitivity.quantize.cures.sums import KEPT_IMAGES, KEPT_POSITIONS, InputSums
from sensitivity.quantize.recipes import INT4_WEIGHTS, INT8
from tests.quantize.cures.test_patches import made

ALL: frozenset[StatisticKind] = frozenset({"means", "shifts", "moments"})
BOTH = INT8.cured(bias_correction=True, rounding="compensated")


def test_a_recipe_says_what_its_cures_need() -> None:
    assert statistics_for(INT8) == frozenset()
    assert statistics_for(INT8.cured(bias_correction=True)) == {"means", "shifts"}
    assert statistics_for(INT4_WEIGHTS.cured(bias_correction=True)) == {"means"}
    assert statistics_for(INT4_WEIGHTS.cured(rounding="compensated")) == {"moments"}
    assert statistics_for(BOTH) == ALL


@pytest.mark.parametrize("name", ["strided", "transposed", "linear over tokens"])
def test_they_are_the_same_for_every_batch_size(name: str) -> None:
    _, geometry, _, x = made(name)
    together, singly = InputSums(geometry, ALL), InputSums(geometry, ALL)
    together.observe(0, x)
    for image in x:
        singly.observe(0, image[None])
    assert together.statistics(lambda _: torch.round, ALL) == singly.statistics(lambda _: torch.round, ALL)


def test_values_are_kept_of_a_bounded_number_of_images_spread_over_all() -> None:
    sums = InputSums(Geometry(), frozenset({"shifts"}))
    for number in range(200):
        sums.observe(0, torch.full((1, 100, 2), float(number)))
    (samples,) = sums._samples.values()
    numbers = [int(values[0, 0]) for _, values in samples.taken]
    assert len(numbers) <= KEPT_IMAGES
    assert numbers == list(range(0, 200, 8))
    assert all(len(values) <= KEPT_POSITIONS for _, values in samples.taken)


def calibrated() -> Calibration:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)).eval()
    return sv.wrap(net, torch.randn(1, 3, 6, 6)).calibrate(torch.randn(3, 3, 6, 6), BOTH)


def test_a_calibration_with_statistics_survives_its_file(tmp_path: Path) -> None:
    calibration = calibrated()
    assert calibration.statistics is not None
    calibration.save(tmp_path / "ranges.safetensors")
    loaded = Calibration.load(tmp_path / "ranges.safetensors")
    assert loaded == calibration
    assert loaded.digest == calibration.digest
    assert loaded.fits(BOTH)
    assert loaded.digest != replace(calibration, statistics=None).digest
    name = next(iter(calibration.statistics.layers))
    other = replace(calibration.statistics.layers[name], mean=calibration.statistics.layers[name].mean + 1e-12)
    changed = replace(calibration.statistics, layers={**calibration.statistics.layers, name: other})
    assert replace(calibration, statistics=changed).digest != calibration.digest


def test_a_calibration_fits_a_recipe_only_if_it_knows_what_the_cures_need() -> None:
    calibration = calibrated()
    assert calibration.fits(INT8)
    assert calibration.fits(INT8.cured(bias_correction=True))
    assert calibration.fits(INT4_WEIGHTS.cured(rounding="compensated"))
    bare = replace(calibration, statistics=None)
    assert bare.fits(INT8)
    assert not bare.fits(BOTH)
    means = replace(calibration, statistics=Statistics(frozenset({"means"})))
    assert means.fits(INT4_WEIGHTS.cured(bias_correction=True))
    assert not means.fits(INT8.cured(bias_correction=True))
    assert not means.fits(INT4_WEIGHTS.cured(rounding="compensated"))


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    whole = InputStatistics(np.zeros((1, 3)), None, (np.eye(3, dtype=np.float32)[None],), np.zeros((1, 3))).arrays()
    assert InputStatistics.of_arrays(whole).arrays().keys() == whole.keys()
    for wrong in (
        {"moments.0": np.eye(2)[None]},
        {"moment_mean": np.zeros((1, 2))},
        {"moments.0": np.zeros((2, 3, 3))},
    ):
        with pytest.raises(CalibrationError, match="do not fit together"):
            InputStatistics.of_arrays(whole | wrong)
    with pytest.raises(CalibrationError, match="not finite"):
        InputStatistics.of_arrays(whole | {"mean": np.full((1, 3), np.nan)})
