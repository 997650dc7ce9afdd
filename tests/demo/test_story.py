from __future__ import annotations

import io
from functools import partial
from pathlib import Path

from rich.console import Console

import sensitivity as sv
from sensitivity.demo.story import tell_causes, tell_cures, tell_files, tell_layers
from sensitivity.records import Score
from sensitivity.records.results.diagnosis import DamageCause, Finding
from sensitivity.records.results.tuned import Goal, Step, StepKind
from tests.made_studies import make_study


def console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=80), out


def test_every_layer_is_told_with_its_drop_in_points() -> None:
    on, out = console()
    study = make_study([0.0, 0.123, None, -0.0000001])
    tell_layers(on, study)
    rows = {line.split()[0]: line.split() for line in out.getvalue().splitlines() if line.strip()}
    assert [rows[layer.name][3] for layer in study.layers] == ["0.00", "12.30", "failed", "0.00"]
    assert "miou is 78.50 %" in out.getvalue()


def test_dips_are_named_worst_first() -> None:
    on, out = console()
    study = make_study([0.02, 0.0, 0.123, 0.0005])
    tell_layers(on, study)
    first, *_, worst, _ = (layer.name for layer in study.layers)
    assert f"INT8, dips: {worst}, {first}\n" in out.getvalue()


def test_it_says_so_when_nothing_dips() -> None:
    on, out = console()
    tell_layers(on, make_study([0.0, 0.0005]))
    assert "INT8, dips: none" in out.getvalue()


def test_causes_and_cures_are_told_and_what_is_beyond_cure_is_named() -> None:
    on, out = console()
    findings = (
        Finding("a", 12.34, hurt=True, causes={DamageCause.OUTLIERS: 9.0}, cure=sv.INT8_AFFINE, cured_db=41.26),
        Finding("b", 5.0, hurt=True, causes={DamageCause.UNEVEN_CHANNELS: 30.0}, cure=sv.INT8_AFFINE, cured_db=7.0),
        Finding("c", 60.0),
    )
    tell_causes(on, sv.Diagnosis("net", sv.INT8, findings, enough_db=30.0, images=4))
    rows = {line.split()[0]: line.split() for line in out.getvalue().splitlines() if line.strip()}
    assert rows["a"] == ["a", "outliers", "int8-affine", "12.3", "41.3"]
    assert rows["b"][-2:] == ["5.0", "7.0"]
    assert "c" not in rows
    assert "Beyond cure, below 30 dB also when cured: b\n" in out.getvalue()


def test_nothing_hurt_is_said() -> None:
    on, out = console()
    tell_causes(on, sv.Diagnosis("net", sv.INT8, (Finding("a", 60.0),), enough_db=30.0, images=4))
    assert "No layer is hurt: all leave the outputs 30 dB or more." in out.getvalue()


def test_schemes_are_told_with_their_measured_loss_and_what_stays_in_float() -> None:
    on, out = console()
    study = make_study([0.02, 0.1])
    step = partial(Step, StepKind.CANDIDATE, layers=(), recipe="", drop=None)
    names = tuple(layer.name for layer in study.layers)
    tuned = sv.Tuned(
        *("net", "scenes", "miou", "%", True, names, Goal(max_drop=0.5), study.baseline),
        scheme=sv.Scheme.all(sv.INT8).protect(names[1]),
        score=Score(0.78, {}, "miou", "%", 50),
        drop=0.005,
        drop_low=None,
        drop_high=None,
        size_bytes=2048,
        met=True,
        steps=(
            step(what="int8", score=0.6, size_bytes=1024),
            step(what="worse", score=0.5, size_bytes=1024),
            step(what="affine", score=0.7, size_bytes=1024),
        ),
    )
    tell_cures(on, tuned, study, study.protect(top=1), Score(0.75, {}, "miou", "%", 50))
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["int8", "1", "KiB", "60.00", "18.50", "0"] in rows
    assert ["affine", "1", "KiB", "70.00", "8.50", "0"] in rows
    assert "worse" not in out.getvalue()
    assert ["tune:", "cured,", "then", "protected", "2", "KiB", "78.00", "0.50", "1"] in rows
    assert any(row[-3:] == ["75.00", "3.50", "1"] for row in rows)
    assert f"What is beyond cure stays in float: {names[1]}\n" in out.getvalue()


def test_files_are_named_below_their_folder(tmp_path: Path) -> None:
    on, out = console()
    tell_files(on, tmp_path, {tmp_path / "dips.png": "a picture"}, seconds=12.3)
    assert f"Written to {tmp_path} after 12 s:\n  dips.png  a picture" in out.getvalue()
