from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from sensitivity.demo.story import tell_files, tell_layers, tell_schemes
from sensitivity.records import Score
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


def test_schemes_are_told_with_measured_and_predicted_loss_and_what_they_protect() -> None:
    on, out = console()
    study = make_study([0.02, 0.1])
    score = Score(0.75, {}, "miou", "%", 50)
    tell_schemes(on, study, [(study.protect(top=0), score), (replace(study.protect(top=1), size_bytes=2048), score)])
    rows = [line.split() for line in out.getvalue().splitlines() if "protected" in line]
    assert rows[0] == ["INT8,", "nothing", "protected", rows[0][3], "KiB", "75.00", "3.50", "12.00"]
    assert rows[1] == ["INT8,", "1", "protected", "2", "KiB", "75.00", "3.50", "2.00"]
    assert rows[2:] == [["INT8,", "1", "protected:", study.layers[1].name]]


def test_files_are_named_below_their_folder(tmp_path: Path) -> None:
    on, out = console()
    tell_files(on, tmp_path, {tmp_path / "dips.png": "a picture"}, seconds=12.3)
    assert f"Written to {tmp_path} after 12 s:\n  dips.png  a picture" in out.getvalue()
