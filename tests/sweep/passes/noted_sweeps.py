"""Sweeps of a small network whose task writes down in which process it works, and with how many threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

import sensitivity as sv
from tests.sweep.mean_task import Chain, MeanTask
from tests.sweep.storage.stored_sweeps import known


class Noted(MeanTask):
    """Knows where it worked: subclasses say at what."""

    def __init__(self, images: int, notes: Path) -> None:
        super().__init__(images)
        self.notes = notes

    def note(self) -> None:
        with self.notes.open("a") as file:
            file.write(f"{os.getpid()} {torch.get_num_threads()}\n")

    def noted(self) -> tuple[set[str], set[str]]:
        """The processes, and the numbers of threads."""
        lines = [line.split() for line in self.notes.read_text().splitlines()]
        return {pid for pid, _ in lines}, {threads for _, threads in lines}


def analyze(task: Any, workers: Any = "auto", **settings: Any) -> sv.Study:
    wrapped = sv.wrap(Chain().eval(), MeanTask(1).inputs)
    wrapped.calibrate(MeanTask(8))
    return wrapped.analyze(task, [sv.INT8, sv.INT4_WEIGHTS], workers=workers, progress=False, **settings)


def alone(images: int, **settings: Any) -> sv.Study:
    """What one process with one thread finds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    study = analyze(MeanTask(images), None, **settings)
    torch.set_num_threads(threads)
    return study


def expected(images: int = 40, **settings: Any) -> dict[str, Any]:
    """The same, as ``known`` reads a study."""
    return known(alone(images, **settings))
