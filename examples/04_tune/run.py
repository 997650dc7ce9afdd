"""Tunes a small classifier that naive int8 ruins: what its layers suffer from, what cures them, and the way there."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import sensitivity as sv

CLASSES = 8
SIDE = 16
UNEVEN = 150.0  # times that one channel between two layers is larger than the others


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, diagnose, tune, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--engine", default="openvino", help="engine to tune for (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    model = trained()
    images, labels = bars(512, seed=1)
    calibration, _ = bars(64, seed=2)
    task = sv.Classification(images, labels, batch_size=64)
    wrapped = sv.wrap(model, images[:1], name="bars")

    diagnosis = wrapped.diagnose(calibration[:32], sv.INT8_MINMAX, calibration=calibration)
    print(diagnosis)
    diagnosis.plot(options.out / "diagnosis.png")

    tuned = wrapped.tune(
        task,
        max_drop=1.0,
        engine=options.engine,
        candidates=[sv.INT8_MINMAX, sv.INT8_AFFINE],
        calibration=calibration,
        store=options.out / "tune.jsonl",
        progress=False,
    )
    print(f"\n{tuned}")
    tuned.plot(options.out / "path.png")
    tuned.to_html(options.out / "path.html")
    tuned.save(options.out / "tuned.json")


def trained() -> nn.Module:
    """A classifier that is right nearly always, with one channel that makes its third layer hard to quantize."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(32, CLASSES),
    )
    images, labels = bars(1024, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(240):
        some = torch.randperm(len(images), generator=torch.Generator().manual_seed(step))[:128]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[some]), labels[some]).backward()
        optimizer.step()
    with torch.no_grad():  # the same function: what one layer writes more of, the next one weighs less
        before, after = model[2], model[4]
        before.weight[0] *= UNEVEN
        before.bias[0] *= UNEVEN
        after.weight[:, 0] /= UNEVEN
    return model.eval()


def bars(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Images (count, 1, SIDE, SIDE) of noisy bars, and the direction (count,) of each, which is its class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    angle = (labels.float() * math.pi / CLASSES).view(-1, 1, 1)
    place = torch.arange(SIDE, dtype=torch.float32) - (SIDE - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    offset = torch.rand(count, 1, 1, generator=generator) * 6 - 3
    bar = torch.exp(-(((x * angle.sin() + y * angle.cos()) - offset) ** 2) / 3.0)
    return (bar + 0.35 * torch.randn(count, SIDE, SIDE, generator=generator)).unsqueeze(1), labels


if __name__ == "__main__":
    main()
