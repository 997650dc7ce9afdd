"""A small sweep with a store; run as a program it is killed again and again, and resumed until it is done."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import Batch, Task
from sensitivity.sweep.storage.journal import Journal
from tests.sweep.recording_task import RecordingTask

KILLS = 36
LONGEST_DELAY_S = 0.03


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.third(self.second(self.first(x).relu()).relu())
        return out


class StoredTask(RecordingTask):
    """Counts what runs, and says what its data are."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__(inputs)
        self.predicted = 0
        self.before: Callable[[], None] = lambda: None

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        self.before()
        self.predicted += 1
        return super().predict(model, batch)

    def digest(self) -> str:
        return hashlib.sha256(b"".join(input.numpy().tobytes() for input in self.inputs)).hexdigest()


def images(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 3, 5, 5, generator=generator) for _ in range(count)]


def analyze(wrapped: sv.Wrapped, task: Task, store: Any = None, **settings: Any) -> sv.Study:
    recipe = settings.pop("recipe", sv.INT4_WEIGHTS)
    return wrapped.analyze(task, recipe, store=store, progress=False, **settings)


def known(study: sv.Study) -> dict[str, Any]:
    """All that a study says but how long it took."""
    plain = study.to_json()
    del plain["info"]["seconds"]
    for measurement in plain["measurements"]:
        del measurement["seconds"]
    return plain


def _tear(records: int) -> None:
    """From now on, kill this process in the middle of writing this record."""
    original, left = Journal._append, [records]

    def append(journal: Journal, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            journal._file.write(data[: random.randrange(len(data))])
            os.kill(os.getpid(), signal.SIGKILL)
        original(journal, data)

    Journal._append = append  # type: ignore[method-assign,assignment]


def _killed(run: Callable[[], object], turn: int) -> bool:
    """Run in a child, kill it at a random point; whether it died of that."""
    delay, records = random.uniform(0, LONGEST_DELAY_S), random.randrange(8)
    child = os.fork()
    if child == 0:
        if turn % 2:
            _tear(records)
        run()
        os._exit(0)
    if turn % 2 == 0:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    torch.set_num_threads(1)  # a forked child has no other thread
    random.seed(2)
    data = images(60)
    wrapped = sv.wrap(Net().eval(), data[0])
    wrapped.calibrate(data)

    def run(store: Path | None) -> sv.Study:
        return wrapped.analyze(StoredTask(data), [sv.INT8, sv.INT4_WEIGHTS], store=store, progress=False)

    kills = sum(_killed(lambda: run(folder / "killed.jsonl"), turn) for turn in range(KILLS))
    run(folder / "killed.jsonl").save(folder / "resumed.json")
    run(None).save(folder / "uninterrupted.json")
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
