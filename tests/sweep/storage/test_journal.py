"""A sweep with a store can be stopped anywhere and resumed: nothing is lost, nothing counts twice, nothing is mixed."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sensitivity as sv
from sensitivity.errors import CalibrationError, StoreConflictError, StoreError, StoreFormatError
from sensitivity.sweep.passes.forward import FEWEST_REPLAYED
from sensitivity.sweep.storage.journal import Journal, MemoryStore
from tests.sweep.storage.stored_sweeps import KILLS, Net, StoredTask, analyze, images, known


def keys(path: Path) -> list[str]:
    written = [json.loads(line)["key"] for line in path.read_text().splitlines()[1:]]
    return [key for key in written if not key.startswith("writer")]


def interrupt_at(task: StoredTask, pass_number: int) -> None:
    def before() -> None:
        if task.predicted == pass_number:
            raise KeyboardInterrupt

    task.before = before


# the whole way


@pytest.mark.slow
def test_a_sweep_killed_at_random_points_ends_as_if_it_had_never_been(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-m", "tests.sweep.storage.stored_sweeps", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 30 <= int(done.stdout) <= KILLS
    resumed, uninterrupted = (sv.Study.load(tmp_path / f"{name}.json") for name in ("resumed", "uninterrupted"))
    assert known(resumed) == known(uninterrupted)
    counts = Counter(keys(tmp_path / "killed.jsonl"))
    assert set(counts.values()) == {1}
    units = [key for key in counts if len(key.split()[-1]) == 16 and not key.startswith("fact")]
    assert len(units) == 60 * (1 + 6)


def test_a_file_cut_anywhere_is_resumed_to_the_same_study(wrapped: sv.Wrapped, path: Path) -> None:
    task = StoredTask(images(3))
    expected = known(analyze(wrapped, task, path))
    whole = path.read_bytes()
    for cut in [0, 1, len(whole), *random.Random(3).sample(range(len(whole)), 40)]:
        path.write_bytes(whole[:cut])
        assert known(analyze(wrapped, task, path)) == expected
        assert max(Counter(keys(path)).values()) == 1


def test_a_cut_at_any_byte_loses_the_record_that_it_is_in_and_no_other(path: Path) -> None:
    with Journal(path) as journal:
        journal.add("one", {"text": "first"})
        before = path.stat().st_size
        journal.add("two", [1.5, "second"])
    whole = path.read_bytes()
    for cut in range(before, len(whole)):
        path.write_bytes(whole[:cut])
        with Journal(path) as journal:
            assert ("one" in journal, "two" in journal) == (True, False)
            journal.add("two", [1.5, "second"])
        with Journal(path) as journal:
            assert (journal.read("one"), journal.read("two")) == ({"text": "first"}, [1.5, "second"])


def test_any_flipped_bit_in_the_last_record_is_found(path: Path) -> None:
    with Journal(path) as journal:
        before = path.stat().st_size
        journal.add("number", 1.5)
    whole = path.read_bytes()
    for bit in range(8 * before, 8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with Journal(path) as journal:
            assert "number" not in journal


@pytest.mark.parametrize("stop", range(1, 16, 3))
def test_an_interrupted_sweep_goes_on_where_it_was(wrapped: sv.Wrapped, path: Path, stop: int) -> None:
    task = StoredTask(images(4))
    expected = known(analyze(wrapped, task, replay=False))
    assert task.predicted == 4 * (1 + 3)
    task.predicted = 0
    interrupt_at(task, stop)
    if stop < 4:  # not one batch is complete
        with pytest.raises(KeyboardInterrupt):
            analyze(wrapped, task, path, replay=False)
    else:
        assert analyze(wrapped, task, path, replay=False).notes == (f"interrupted: {stop // 4} of 4 images were run",)
    task = StoredTask(images(4))
    assert known(analyze(wrapped, task, path, replay=False)) == expected
    # All that ran is read from the store; the baseline of the first batch runs again, to see that it is the same.
    assert task.predicted == 16 - stop + 1


def test_of_a_finished_sweep_only_the_unperturbed_model_runs_again_on_the_first_batch(
    wrapped: sv.Wrapped, path: Path
) -> None:
    first, second = StoredTask(images(3)), StoredTask(images(3))
    study = analyze(wrapped, first, path)
    assert known(analyze(wrapped, second, path)) == known(study)
    assert second.predicted == 1


@pytest.mark.parametrize("direction", ["one-at-a-time", "all-but-one"])
def test_a_store_changes_nothing(wrapped: sv.Wrapped, path: Path, direction: str) -> None:
    task, memory = StoredTask(images(3)), MemoryStore()
    expected = known(analyze(wrapped, task, direction=direction))
    for store in (path, str(path), memory, memory):
        assert known(analyze(wrapped, task, store, direction=direction)) == expected


def test_directions_do_not_share_results_and_fit_in_one_store(wrapped: sv.Wrapped, path: Path) -> None:
    task = StoredTask(images(2))
    for direction in ("one-at-a-time", "all-but-one"):
        expected = known(analyze(wrapped, task, direction=direction))
        assert known(analyze(wrapped, task, path, direction=direction)) == expected


def test_layers_and_recipes_added_later_are_all_that_runs(wrapped: sv.Wrapped, path: Path) -> None:
    analyze(wrapped, StoredTask(images(2)), path, layers="first", replay=False)
    more = StoredTask(images(2))
    analyze(wrapped, more, path, layers=["first", "second"], replay=False)
    assert more.predicted == 2 * 1 + 1  # the unperturbed model on the first batch alone
    both = StoredTask(images(2))
    recipes = [sv.INT4_WEIGHTS, sv.Prune(0.5)]
    study = analyze(wrapped, both, path, layers=["first", "second"], recipe=recipes, replay=False)
    assert both.predicted == 2 * 2 + 1
    assert known(study) == known(
        analyze(wrapped, StoredTask(images(2)), layers=["first", "second"], recipe=recipes, replay=False)
    )


def test_a_recipe_under_another_name_is_not_measured_again(wrapped: sv.Wrapped, path: Path) -> None:
    analyze(wrapped, StoredTask(images(2)), path)
    task = StoredTask(images(2))
    study = analyze(wrapped, task, path, recipe=sv.INT4_WEIGHTS.renamed("four"))
    assert (task.predicted, study.measurements[0].recipe) == (1, "four")


def test_predictions_that_did_not_change_take_no_room(wrapped: sv.Wrapped, path: Path) -> None:
    analyze(wrapped, StoredTask(images(2)), path, recipe=sv.Prune(0.0))
    values = [json.loads(line)["value"] for line in path.read_text().splitlines()[1:]]
    assert values.count({}) == 2 * 3


# what a model or a task may do


def test_a_layer_that_failed_stays_failed_with_its_reason(wrapped: sv.Wrapped, path: Path) -> None:
    task, second = StoredTask(images(3)), wrapped.model.get_submodule("second")
    original = second.weight
    task.fail_on = lambda outputs: task.predicted > 5 and second.weight is not original
    study = analyze(wrapped, task, path)
    assert [m.reason for m in study.measurements] == ["", "RuntimeError: out of luck", ""]
    healthy = StoredTask(images(3))
    assert known(analyze(wrapped, healthy, path)) == known(study)
    assert healthy.predicted == 1


def test_outputs_that_are_not_numbers_come_back(path: Path) -> None:
    class Logarithm(Net):
        def forward(self, x: Tensor) -> Tensor:
            return (super().forward(x) - 0.2).log()

    def score(predictions: Any) -> dict[str, float]:
        return {"mean": float(sum(torch.tensor(p["outputs"][0]).nan_to_num().sum() for p in predictions.values()))}

    data = images(3)
    wrapped, task = sv.wrap(Logarithm().eval(), data[0]), StoredTask(data)
    task.score = score  # type: ignore[method-assign]
    assert wrapped.model(torch.cat(data)).isnan().any()
    expected = known(analyze(wrapped, task))
    interrupt_at(task, task.predicted + 6)  # the first batch takes 4
    assert "interrupted" in analyze(wrapped, task, path).notes[-1]
    task.before = lambda: None
    assert known(analyze(wrapped, task, path)) == expected


def test_a_model_that_draws_random_numbers_draws_the_same_when_resumed(path: Path) -> None:
    class Noisy(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.rand_like(x))

    data = images(8)
    assert 3 * len(data) >= FEWEST_REPLAYED, "a sweep of fewer passes is not replayed, and has no note of it"
    wrapped, task = sv.wrap(Noisy().eval(), data[0]), StoredTask(data)
    torch.manual_seed(5)
    expected = known(analyze(wrapped, task))
    assert "random" in expected["notes"][0]
    interrupt_at(task, task.predicted + 6)
    torch.manual_seed(5)
    assert "interrupted" in analyze(wrapped, task, path).notes[-1]
    torch.manual_seed(6)
    task.before = lambda: None
    assert known(analyze(wrapped, task, path)) == expected


def test_a_model_that_could_not_be_replayed_is_not_replayed_when_resumed(wrapped: sv.Wrapped) -> None:
    store, task = MemoryStore(), StoredTask(images(3))
    store.add("note 0", {"kind": "not-replayed", "text": "not replayed, every pass run in full: a test says so"})
    assert analyze(wrapped, task, store).notes == ("not replayed, every pass run in full: a test says so",)
    assert task.predicted == 3 * (1 + 3), "no pass was spent on checking replay"


def test_arrays_in_another_memory_order_score_the_same_with_and_without_a_store(
    wrapped: sv.Wrapped, path: Path
) -> None:
    class Turned(StoredTask):
        def predict(self, model: Any, batch: Any) -> list[Any]:
            return [
                {"outputs": [array.transpose(3, 2, 1, 0) / 3]}
                for (array,) in [super().predict(model, batch)[0]["outputs"]]
            ]

    data = [torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    assert known(analyze(wrapped, Turned(data), path)) == known(analyze(wrapped, Turned(data)))


# what is refused


def test_a_store_of_other_weights_is_refused_and_left_as_it_is(wrapped: sv.Wrapped, path: Path) -> None:
    task = StoredTask(images(2))
    study = analyze(wrapped, task, path)
    other = Net().eval()
    with torch.no_grad():
        other.first.weight[0, 0, 0, 0] += 1e-6
    before = keys(path)
    with pytest.raises(StoreConflictError, match=r"something else \(weights: \w+, now \w+\)\. .* a store of its own"):
        analyze(sv.wrap(other, images(1)[0]), task, path)
    assert keys(path) == before
    assert known(analyze(wrapped, task, path)) == known(study)


def test_a_store_of_other_data_is_refused(wrapped: sv.Wrapped, path: Path) -> None:
    analyze(wrapped, StoredTask(images(2)), path)
    with pytest.raises(StoreConflictError, match=r"something else \(task \(data or settings\): \w+, now"):
        analyze(wrapped, StoredTask(images(3)), path)


def test_a_store_of_another_calibration_is_refused(wrapped: sv.Wrapped, path: Path) -> None:
    task = StoredTask(images(2))
    analyze(wrapped, task, path, recipe=sv.INT8, calibration=images(2))
    analyze(wrapped, task, path, recipe=sv.INT8, calibration=images(2))
    analyze(wrapped, task, path, recipe=sv.INT8_WEIGHTS)
    with pytest.raises(StoreConflictError, match=r"\(calibration of int8: \w+, now \w+\)"):
        analyze(wrapped, task, path, recipe=sv.INT8, calibration=images(3))


def test_a_missing_calibration_is_an_error_and_not_a_failure_in_the_store(wrapped: sv.Wrapped, path: Path) -> None:
    with pytest.raises(CalibrationError, match="no calibration is at hand"):
        analyze(wrapped, StoredTask(images(2)), path, recipe=sv.INT8)
    assert keys(path) == []


def test_other_batches_are_other_results(path: Path) -> None:
    data = [torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    wrapped = sv.wrap(Net().eval(), data[0][None])
    for size in (1, 4):
        task = sv.FeatureFidelity(data, batch_size=size)
        assert known(analyze(wrapped, task, path)) == known(analyze(wrapped, task))
    assert len([key for key in keys(path) if key.startswith("baseline")]) == 4 + 1


def test_a_second_process_is_refused_and_told_who_writes(path: Path, repository: Path) -> None:
    code = "import sys\nfrom sensitivity.sweep.storage.journal import Journal\nJournal(sys.argv[1])"
    with Journal(path):
        other = subprocess.run(
            [sys.executable, "-c", code, str(path)], cwd=repository, capture_output=True, text=True, timeout=60
        )
        assert "StoreConflictError: another process" in other.stderr
        assert f"pid {os.getpid()} on" in other.stderr
        with pytest.raises(StoreConflictError, match=rf"pid {os.getpid()} on .*, started 20"):
            Journal(path)
    Journal(path).close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"precious notes\n", "is not a store: it begins with b'precious"),
        (b'{"format": "coco"}\n', "is not a store"),
        (b"\x89PNG\r\n\x1a\n", "is not a store"),
        (b'{"store": "sensitivity", "schema": 2}\n', "has schema 2; this version reads 1"),
    ],
)
def test_a_file_that_is_no_store_of_ours_is_refused_and_left_alone(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreFormatError, match=message):
        Journal(path)
    assert path.read_bytes() == content


def test_a_record_damaged_in_the_middle_is_refused_and_deleting_it_helps(wrapped: sv.Wrapped, path: Path) -> None:
    task = StoredTask(images(3))
    study = analyze(wrapped, task, path)
    lines = path.read_bytes().splitlines(keepends=True)
    number = len(lines) - 4
    lines[number] = lines[number].replace(b"baseline", b"bAseline").replace(b"value", b"vAlue")
    path.write_bytes(b"".join(lines))
    with pytest.raises(StoreFormatError, match=f"line {number + 1} of the store .* is damaged"):
        analyze(wrapped, task, path)
    path.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
    assert known(analyze(wrapped, task, path)) == known(study)


def test_a_store_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be opened: .*No such file.* Its folder must exist"):
        Journal(tmp_path / "missing" / "store.jsonl")


# disks


class Listening:
    """A file that notes what is written to it."""

    def __init__(self, file: Any, events: list[str]) -> None:
        self._file, self._events = file, events

    def write(self, data: bytes) -> int:
        self._events.append("write")
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_record_is_on_the_disk_before_add_returns_and_a_new_store_has_its_name_in_the_folder(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync = os.fsync

    def listening(descriptor: int) -> None:
        events.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", listening)
    with Journal(path) as journal:
        assert events[:2] == ["sync file", "sync folder"]
        events.clear()
        journal._file = Listening(journal._file, events)  # type: ignore[assignment]
        for key in ("first", "second"):
            journal.add(key, 1)
            events.append("returned")
        assert events == ["write", "sync file", "returned"] * 2


class FullDisk:
    """A file that takes so many bytes and no more."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        if self._room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written: int = self._file.write(data[: self._room])
        self._room -= written
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [100, 3500, 4500, 5001])
def test_a_full_disk_stops_the_sweep_and_what_was_written_is_kept(wrapped: sv.Wrapped, path: Path, room: int) -> None:
    expected = known(analyze(wrapped, StoredTask(images(4))))
    with Journal(path) as journal:
        journal._file = FullDisk(journal._file, room)  # type: ignore[assignment]
        with pytest.raises(StoreError, match=r"No space left.* records before are kept: make room, and run the same"):
            analyze(wrapped, StoredTask(images(4)), journal)
    complete = len(path.read_bytes().splitlines()) - 3
    assert known(analyze(wrapped, StoredTask(images(4)), path)) == expected
    assert complete <= len(keys(path))


def test_a_real_limit_on_the_file_keeps_every_complete_record(path: Path, repository: Path) -> None:
    code = """
import resource, sys
from sensitivity.errors import StoreError
from sensitivity.sweep.storage.journal import Journal
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with Journal(sys.argv[1]) as journal:
    for number in range(1000):
        try:
            journal.add(f"key {number}", "x" * 100)
        except StoreError as error:
            print(number)
            break
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=repository, capture_output=True, text=True, timeout=60
    )
    written = int(done.stdout)
    assert 20 < written < 40
    assert path.stat().st_size == 4096, "the last record is torn"
    with Journal(path) as journal:
        assert all(journal.read(f"key {number}") == "x" * 100 for number in range(written))
        assert f"key {written}" not in journal
        journal.add(f"key {written}", "after")
        assert journal.read(f"key {written}") == "after"


# stores as such


def test_the_first_of_two_records_of_a_key_counts(path: Path) -> None:
    with Journal(path) as journal:
        journal.add("key", 1)
        journal._places.clear()
        journal.add("key", 2)
    with Journal(path) as journal:
        assert journal.read("key") == 1


def test_a_store_that_cannot_hold_what_a_task_predicts_says_so(path: Path) -> None:
    class Tensors(StoredTask):
        def predict(self, model: Any, batch: Any) -> list[Any]:
            return list(model(*batch.inputs))

    wrapped = sv.wrap(Net().eval(), images(1)[0])
    with pytest.raises(sv.errors.PredictionError, match=r"cannot keep torch\.Tensor"):
        analyze(wrapped, Tensors(images(2)), path)
