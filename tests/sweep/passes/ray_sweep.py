"""Run as a program: a sweep on a local Ray cluster whose workers are killed, saved beside one of one process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import sensitivity as sv
from sensitivity.contracts import Batch
from tests.sweep.mean_task import Chain, MeanTask


class DeadlyTask(MeanTask):
    """Kills its process the first time that it is run on some batches, in a worker."""

    def __init__(self, images: int, folder: Path) -> None:
        super().__init__(images)
        self.folder = folder
        self.home = os.getpid()

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        mark = self.folder / f"killed at {batch.images[0]}"
        if os.getpid() != self.home and batch.images[0] % 16 == 8 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(model, batch)

    def digest(self) -> str:
        return "deadly"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    wrapped = sv.wrap(Chain().eval(), MeanTask(1).inputs)
    wrapped.calibrate(MeanTask(8))
    task = DeadlyTask(64, folder)

    def run(**settings: Any) -> sv.Study:
        return wrapped.analyze(task, [sv.INT8, sv.INT4_WEIGHTS], progress=False, **settings)

    run().save(folder / "one process.json")
    with sv.ray_executor(num_cpus=1, object_store_memory=100 * 2**20) as executor:
        run(executor=executor, store=folder / "ray.jsonl").save(folder / "ray.json")
    print(len(list(folder.glob("killed at *"))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
