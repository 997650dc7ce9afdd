"""Results beyond what memory shall hold lie in a file, and the study is the same."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sensitivity as sv
from sensitivity.sweep import run
from sensitivity.sweep.storage.spilled import SpilledStore, size_in_memory
from tests.sweep.mean_task import Chain, MeanTask

BOXES = {"boxes": np.arange(4000.0).reshape(1000, 4), "labels": np.arange(1000)}


def test_values_beyond_the_memory_are_read_from_the_file_bit_by_bit() -> None:
    store = SpilledStore(100_000)
    for number in range(10):
        store.add(f"{number}", {0: {"boxes": BOXES["boxes"] + number}})
    assert len(store._values) < 4
    for number in range(10):
        assert np.array_equal(store.read(f"{number}")[0]["boxes"], BOXES["boxes"] + number)
    assert "9" in store
    assert "10" not in store


def test_the_first_value_of_a_key_stays_in_memory_and_in_the_file() -> None:
    store = SpilledStore(1)
    store.add("key", 1)
    store.add("key", 2)
    assert store.read("key") == 1
    assert not store._values


def test_what_cannot_be_written_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SpilledStore(1)
    for number, strange in enumerate([{0: len}, {len: 0}, np.array([len]), np.ma.masked_array([1])]):
        store.add(f"no data {number}", strange)
        assert store.read(f"no data {number}") is strange
    monkeypatch.setattr(os, "pwrite", lambda *_: 3)
    store.add("disk full", "text")
    assert store._values["disk full"] == "text"

    def no_folder(**_: Any) -> None:
        raise FileNotFoundError("no usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", no_folder)
    store = SpilledStore(1)
    store.add("no file", "text")
    assert store.read("no file") == "text"


def test_no_file_is_left_and_none_is_made_for_what_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    small = SpilledStore()
    small.add("key", BOXES)
    assert small._file is None
    large = SpilledStore(1)
    large.add("key", BOXES)
    assert large._file is not None
    assert not list(tmp_path.iterdir()), "its name is gone at once"


@pytest.mark.parametrize(
    "value",
    [np.zeros((50, 4)), torch.zeros(50, 8), {0: {"boxes": np.zeros(400)}}, [b"x" * 3000, "y" * 200], (1.0, None)],
)
def test_a_size_is_at_least_that_of_the_content(value: Any) -> None:
    content = {dict: 3200, list: 3200, tuple: 0}.get(type(value), 1600)
    assert content <= size_in_memory(value) <= content + 500


def test_a_study_is_the_same_where_its_results_lie_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    task, wrapped = MeanTask(24), sv.wrap(Chain().eval(), torch.zeros(1, 3, 6, 6))
    expected = wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)
    stores: list[SpilledStore] = []

    def spilled() -> SpilledStore:
        stores.append(SpilledStore(1))
        return stores[-1]

    monkeypatch.setattr(run, "SpilledStore", spilled)
    spilled_study = wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False)
    assert [row.drop for row in spilled_study.measurements] == [row.drop for row in expected.measurements]
    assert [row.drop_low for row in spilled_study.measurements] == [row.drop_low for row in expected.measurements]
    assert len(stores[0]._places) > 2
