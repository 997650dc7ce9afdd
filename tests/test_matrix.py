"""The matrix of public models: one small model whole, and what becomes of rows, limits and failures."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.matrix.__main__ import _try_elsewhere, main
from tests.matrix.entries import Entry, Subject, entries
from tests.matrix.table import page
from tests.matrix.trial import Row, attempt


def entry(name: str) -> Entry:
    return next(known for known in entries(("plain",)) if known.name == name)


def test_a_model_is_wrapped_swept_quantized_deployed_and_verified() -> None:
    rows: list[dict[str, Any]] = []
    row = attempt(entry("vgg"), lambda row: rows.append(row.to_json()))
    assert (row.layers, row.called, row.missed, row.unique) == (3, 3, 0, True)
    assert (row.swept, row.replay_equal, row.finite) == (3, True, True)
    assert (row.deployed, row.verified, row.reasons) == (3, 3, {})
    assert [partial["layers"] for partial in rows] == [None, 3, 3, 3, 3, 3]
    assert rows[-1] == row.to_json()


def test_a_step_that_fails_is_a_reason_and_a_model_that_cannot_be_wrapped_ends_there() -> None:
    def too_small() -> Subject:
        return Subject(torch.nn.Conv2d(3, 4, 9).eval(), tuple(torch.rand(1, 3, 4, 4) for _ in range(3)))

    row = attempt(Entry("plain", "too small", too_small), lambda _: None, deploy=False)
    assert row.layers is None
    assert list(row.reasons) == ["wrapped"]
    assert "Kernel size" in row.reasons["wrapped"]


def test_a_model_that_takes_too_long_has_a_row_that_says_so() -> None:
    chosen = Namespace(seconds=1, gigabytes=4.0, no_deploy=True)
    assert _try_elsewhere(entry("vgg"), chosen).reasons == {"ended": "not finished within 1 s"}


def test_known_rows_are_not_tried_again_and_the_page_shows_them(tmp_path: Path) -> None:
    results, written = tmp_path / "rows.jsonl", tmp_path / "models.md"
    known = [Row("plain", name, 3, 3, 0, True, 3, True, True, 2, 1) for name in ("resnet", "mobilenet", "efficientvit")]
    failed = Row("plain", "vgg", reasons={"wrapped": "TracingError: no | such input"})
    lines = [json.dumps(row.to_json()) for row in (*known, failed)]
    results.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["plain", "--results", str(results), "--page", str(written)]) == 1
    assert results.read_text(encoding="utf-8").splitlines() == lines
    text = written.read_text(encoding="utf-8")
    assert "| plain | 4 | 3 | 3 | 3 | 3 | 3 | 3 of 4 tried | 3 of 6 |" in text
    assert "TracingError: no \\| such input" in text
    assert f"torch {torch.__version__.partition('+')[0]}" in text


def test_a_row_of_a_run_without_an_engine_says_that_none_was_tried() -> None:
    text = page([Row("timm", "net", 3, 3, 0, True, 3, True, True)])
    assert "| net | 3 / 3 | 3 | yes | yes | not tried |  | 0 | 0.0 |  |" in text
    assert "0 of 0 tried" in text


def test_a_family_that_is_not_known_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"no family 'detectron'\. Choose from plain, torchvision detection"):
        main(["detectron"])
