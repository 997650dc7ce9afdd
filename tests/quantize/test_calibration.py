"""Calibrations as files: every bit comes back, and what is damaged, foreign or of other weights is refused."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import nn

import sensitivity as sv
from sensitivity.errors import CalibrationError
from sensitivity.quantize.calibration import Calibration, Point, Range

MADE = Calibration(
    {
        Point("stage1:0:0", "input", 0): Range((-1.0,), (0.1,), 12),
        Point("stage1:0:0", "input", 1): Range((-0.0,), (1e-300,), 12),
        Point("head:0:0", "activation", 0): Range((-3.0, 0.0), (1 / 3, 7e30), 40),
    },
    sv.QuantSpec("int4", observer="percentile", percentile=99.9),
    "deploy",
    100,
    "abc",
)
CHANNELS = replace(
    MADE,
    ranges={Point("stage1:0:0", "input", 0): Range((-1.0, -5.0, 0.0), (0.1, 0.0, 0.3), 12)},
    spec=sv.QuantSpec("uint8", "per-channel", symmetric=False),
)
JOINED = Calibration.joined([MADE, CHANNELS])
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def damaged(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def with_facts(path: Path, **changes: object) -> None:
    """Rewrite the facts of a saved calibration."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    [(key, text)] = metadata.items()
    save_file(load_file(path), path, {key: json.dumps(json.loads(text) | changes)})


def test_it_comes_back_equal_with_the_same_digest(tmp_path: Path) -> None:
    MADE.save(tmp_path / "ranges.safetensors")
    loaded = Calibration.load(tmp_path / "ranges.safetensors")
    assert loaded == MADE
    assert loaded.digest == MADE.digest
    assert [path.name for path in tmp_path.iterdir()] == ["ranges.safetensors"]


def test_a_calibration_of_several_recipes_comes_back_equal_from_one_file(tmp_path: Path) -> None:
    JOINED.save(tmp_path / "ranges.safetensors")
    loaded = Calibration.load(tmp_path / "ranges.safetensors")
    assert loaded == JOINED
    assert loaded.parts == (MADE, CHANNELS)
    assert loaded.digest == JOINED.digest != MADE.digest
    tensors = load_file(tmp_path / "ranges.safetensors")
    np.testing.assert_array_equal(tensors["1/stage1:0:0 input #0/low"], [-1.0, -5.0, 0.0])
    for recipe in (sv.Recipe("first", activations=MADE.spec), sv.Recipe("second", activations=CHANNELS.spec)):
        assert loaded.fits(recipe)
    swapped = replace(CHANNELS, others=(MADE,))
    assert swapped.digest not in {JOINED.digest, CHANNELS.digest}


def test_peaks_come_back_to_the_last_bit_and_damaged_they_are_refused(tmp_path: Path) -> None:
    peaks = {Point("stage1:0:0", "input", 1): 1 / 3, Point("head:0:0", "output", 0): 7e30}
    seen, path = replace(JOINED, peaks=peaks), tmp_path / "ranges.safetensors"
    seen.save(path)
    assert Calibration.load(path) == seen
    assert seen.digest == JOINED.digest  # stores of older versions still fit
    with_facts(path, peaks=[["stage1:0:0", "input", 1, 0.5]])
    with pytest.raises(CalibrationError, match="largest values of its layers are not those that were written"):
        Calibration.load(path)
    with_facts(path, peaks="nonsense")
    with pytest.raises(CalibrationError, match="holds no whole calibration"):
        Calibration.load(path)


def test_joined_calibrations_keep_the_larger_of_their_peaks() -> None:
    point, other = Point("a", "input", 0), Point("a", "output", 0)
    first, second = replace(MADE, peaks={point: 1.0, other: 5.0}), replace(CHANNELS, peaks={point: 2.0})
    joined = Calibration.joined([first, second])
    assert joined.peaks == {point: 2.0, other: 5.0}
    assert joined.for_recipe(sv.Recipe("second", activations=CHANNELS.spec)).peaks == joined.peaks


def test_a_file_of_one_way_of_observing_is_what_older_versions_wrote_and_read(tmp_path: Path) -> None:
    MADE.save(tmp_path / "ranges.safetensors")
    with safe_open(tmp_path / "ranges.safetensors", framework="numpy") as file:
        [facts] = map(json.loads, file.metadata().values())
    assert facts.keys() == {"schema", "images", "model", "spec", "placement", "points", "digest"}
    assert facts["schema"] == 2
    JOINED.save(tmp_path / "ranges.safetensors")
    with safe_open(tmp_path / "ranges.safetensors", framework="numpy") as file:
        [facts] = map(json.loads, file.metadata().values())
    assert facts["schema"] == 3


def test_only_calibrations_of_one_pass_are_joined() -> None:
    assert Calibration.joined([MADE, MADE]) == MADE
    assert Calibration.joined([JOINED, MADE]) == JOINED
    for other in (replace(CHANNELS, model="abd"), replace(CHANNELS, images=7)):
        with pytest.raises(CalibrationError, match="the parts of a calibration come from one pass"):
            Calibration.joined([MADE, other])
    with pytest.raises(CalibrationError, match="the parts of a calibration come from one pass"):
        replace(MADE, others=(JOINED,))
    with pytest.raises(CalibrationError, match=r"parts=\[\] holds no calibration"):
        Calibration.joined([])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(FINITE, FINITE), min_size=1))
def test_every_bit_of_any_range_comes_back(tmp_path: Path, bounds: list[tuple[float, float]]) -> None:
    low, high = zip(*bounds, strict=True)
    made = replace(MADE, ranges={Point("a:0:0", "input", 0): Range(low, high, 5)})
    made.save(tmp_path / "ranges.safetensors")
    [back] = Calibration.load(tmp_path / "ranges.safetensors").ranges.values()
    for before, after in ((low, back.low), (high, back.high)):
        assert [struct.pack("<d", value) for value in before] == [struct.pack("<d", value) for value in after]


def test_any_safetensors_reader_finds_the_bounds_by_name(tmp_path: Path) -> None:
    MADE.save(tmp_path / "ranges.safetensors")
    tensors = load_file(tmp_path / "ranges.safetensors")
    assert len(tensors) == 6
    np.testing.assert_array_equal(tensors["head:0:0 activation #0/high"], [1 / 3, 7e30])


@pytest.mark.parametrize(
    "other",
    [
        replace(MADE, model="abd"),
        replace(MADE, images=101),
        replace(MADE, placement="conv-norm-act"),
        replace(MADE, spec=replace(MADE.spec, percentile=99.8)),
        replace(MADE, ranges={**MADE.ranges, Point("stage1:0:0", "input", 0): Range((-1.0,), (0.2,), 12)}),
        replace(MADE, ranges={**MADE.ranges, Point("stage1:0:0", "input", 1): Range((0.0,), (1e-300,), 12)}),
    ],
    ids=["weights", "images", "placement", "spec", "a bound", "the sign of a zero"],
)
def test_the_digest_is_of_all_of_the_content(other: Calibration) -> None:
    assert other.digest != MADE.digest


def test_the_digest_does_not_depend_on_the_order_of_the_points() -> None:
    turned = dict(reversed(list(MADE.ranges.items())))
    assert replace(MADE, ranges=turned).digest == MADE.digest


def test_a_changed_byte_or_a_cut_file_is_found_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ranges.safetensors"
    MADE.save(path)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(damaged(content, place))
        with pytest.raises(CalibrationError, match=r"damaged|holds no|but no calibration|has schema"):
            Calibration.load(path)
    for length in (0, 4, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CalibrationError, match="holds no calibration, or is damaged"):
            Calibration.load(path)


def test_a_missing_file_and_a_file_of_something_else_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no calibration at .*gone\.safetensors\. Calibration\.save writes one"):
        Calibration.load(tmp_path / "gone.safetensors")
    save_file({"weight": np.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(CalibrationError, match="holds tensors, but no calibration"):
        Calibration.load(tmp_path / "weights.safetensors")
    (tmp_path / "text.json").write_text('{"ranges": []}')
    with pytest.raises(CalibrationError, match="holds no calibration, or is damaged"):
        Calibration.load(tmp_path / "text.json")


def test_another_schema_and_a_lost_tensor_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ranges.safetensors"
    MADE.save(path)
    with_facts(path, schema=99)
    with pytest.raises(CalibrationError, match="has schema 99; this version reads 2 and 3"):
        Calibration.load(path)
    with_facts(path, schema=2, points=[["nowhere:0:0", "input", 0, 1]])
    with pytest.raises(CalibrationError, match=r"holds no whole calibration: KeyError\('nowhere:0:0 input #0/low'\)"):
        Calibration.load(path)
    with_facts(path, schema=2, points=[], images=5)
    with pytest.raises(CalibrationError, match="is damaged: its content has the digest"):
        Calibration.load(path)


def make(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


def test_a_loaded_calibration_serves_the_same_weights_in_another_session(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first, second = sv.wrap(make(0), x), sv.wrap(make(0), x)
    first.calibrate([x]).save(tmp_path / "ranges.safetensors")
    with torch.no_grad():
        with first.quantized(sv.Scheme.all(sv.INT8)) as model:
            expected = model(x)
        loaded = sv.Calibration.load(tmp_path / "ranges.safetensors")
        with second.quantized(sv.Scheme.all(sv.INT8), calibration=loaded) as model:
            assert torch.equal(model(x), expected)


def test_a_calibration_made_on_other_weights_is_refused_wherever_it_is_used(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sv.wrap(make(0), x).calibrate([x]).save(tmp_path / "ranges.safetensors")
    loaded = sv.Calibration.load(tmp_path / "ranges.safetensors")
    other = sv.wrap(make(1), x)
    with (
        pytest.raises(CalibrationError, match=r"made on other weights or buffers \(digest \w+\) than this Sequential"),
        other.quantized(sv.Scheme.all(sv.INT8), calibration=loaded),
    ):
        pass
    with pytest.raises(CalibrationError, match="made on other weights"):
        other.analyze(sv.FeatureFidelity(x), sv.INT8, calibration=loaded)
    with other.quantized(sv.Scheme.all(sv.INT8_WEIGHTS), calibration=loaded):
        pass  # needs no ranges


def test_training_on_makes_the_old_ranges_unusable_until_calibrated_again() -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    wrapped = sv.wrap(make(0), x)
    old = wrapped.calibrate([x])
    with torch.no_grad():
        wrapped.model[0].weight.mul_(2.0)
    with pytest.raises(CalibrationError, match=r"call wrapped\.calibrate\(images, recipe\) again"):
        wrapped.evaluate(sv.FeatureFidelity(x), sv.Scheme.all(sv.INT8))
    new = wrapped.calibrate([x])
    assert old.ranges != new.ranges
    wrapped.calibrations.append(old)  # the latest that fits, but of other weights: passed over
    wrapped.evaluate(sv.FeatureFidelity(x), sv.Scheme.all(sv.INT8))


def test_progress_is_shown_where_asked_for_and_counts_batches(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    wrapped = sv.wrap(make(0), x[:1])
    wrapped.calibrate([x[:2], x[2:]], progress=True)
    assert "2/2" in capsys.readouterr().err
    wrapped.calibrate(sv.FeatureFidelity(x, batch_size=2), progress=True)
    assert "5/5" in capsys.readouterr().err
    wrapped.calibrate((part for part in x), progress=True)
    assert "5/?" in capsys.readouterr().err
    wrapped.calibrate(x, progress=False)
    assert capsys.readouterr().err == ""


def test_a_calibration_is_shown_on_one_line_that_does_not_grow_with_its_layers() -> None:
    observed = Range((0.0,), (1.0,), 1)
    ranges = {Point(f"stage0:{number}:0", "input", 0): observed for number in range(300)}
    spec = sv.QuantSpec(observer="minmax")
    first = Calibration(ranges, spec, "deploy", 50, "digest")
    others = tuple(replace(first, spec=sv.QuantSpec(f"int{bits}", observer="minmax")) for bits in (7, 6, 5))
    way = "{} per-tensor minmax at placement deploy"
    assert repr(first) == f"Calibration(50 images, 300 layers: {way.format('int8')})"
    ways = "; ".join(way.format(name) for name in ("int8", "int7", "int6"))
    assert repr(replace(first, others=others)) == f"Calibration(50 images, 300 layers: {ways}; 1 more)"
