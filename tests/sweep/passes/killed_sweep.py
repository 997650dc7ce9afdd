"""A sweep in two forked workers with a store, to be killed: prints the workers' process ids once they run."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sensitivity as sv
from sensitivity.contracts import Batch


class Slow(sv.FeatureFidelity):
    """Takes long in a worker, and says which one it is."""

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        if multiprocessing.parent_process() is not None:
            os.write(1, b"%d\n" % os.getpid())  # in one piece, whoever else writes
            time.sleep(60)
        return super().predict(model, batch)


if __name__ == "__main__":
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8)
    wrapped = sv.wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval(), images[:1])
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        wrapped.analyze(
            Slow(images, batch_size=2),
            sv.INT8_WEIGHTS,
            store=Path(sys.argv[1]),
            settings=sv.Sweep(executor=pool),
        )
