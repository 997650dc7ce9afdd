r"""Sweeps of few layers and few images against a naive loop: never slower.

    OMP_NUM_THREADS=1 python -m benchmarks.small_jobs DATA [--nets NAME ...] [--layers 1 4 16 0] [--images 1 4 32]

DATA holds ``weights/`` and ``tiny_coco/``, as the project's shared data do. The naive loop is what one writes by hand:
for each layer quantize its weights, run every image, put the weights back, score the predictions; and once
unperturbed. The sweep is ``analyze`` as it is, with all that a naive loop does not have: bounds for every drop from 8
images on, checks of replay, a study. Layers are spread over the network, 0 stands for all of them; weights are in int4;
batches are those of the tasks, of at most 10 images. CPU seconds of one thread, the two interleaved, each the least of
``--repeats`` runs: what else the machine does only ever adds. Prints a table row for each job as it is done, and the
worst ratio.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sensitivity as sv
from benchmarks.real_nets import real_nets
from sensitivity.contracts import Task
from sensitivity.demo.run import WEIGHTS, segment
from sensitivity.demo.scenes import HELD_OUT_SEED, write_scenes
from sensitivity.quantize.weights import quantize_weight
from sensitivity.score import predict
from sensitivity.zoo.efficientvit_sam import load

RECIPE = sv.INT4_WEIGHTS
DETECTORS = ("yolo_fastest_1_1_xl", "fastestdet", "espnetv2_s0_5_voc384")
SAM, CHEAP = "efficientvit_sam_tiny", "twenty_small_convolutions"
NETS = (*DETECTORS, SAM, CHEAP)

Job = tuple[sv.Wrapped, Callable[[int, Path], Task]]


def net_and_task(name: str, data: Path) -> Job:
    """A wrapped network, and what makes its task on the first so many images."""
    if name == CHEAP:
        return cheap()
    if name == SAM:
        sam = load("tiny", checkpoint=WEIGHTS)
        wrapped = sv.wrap(sam.image_encoder, torch.zeros(1, 3, 256, 256), name=name)
        return wrapped, lambda count, into: sv.PromptedMasks(
            *write_scenes(into, count, HELD_OUT_SEED), segment=functools.partial(segment, sam)
        )
    net = real_nets()[name]
    return net.wrapped(data), lambda count, into: net.task(
        data / "tiny_coco" / "val2017", first_images(data, count, into)
    )


def cheap() -> Job:
    """A network so small that what surrounds it is what is timed."""
    torch.manual_seed(0)
    parts = [part for _ in range(19) for part in (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(3, 16, 3), *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images, labels = torch.randn(32, 3, 16, 16), torch.randint(16, (32,))
    return sv.wrap(model, images[:1], name=CHEAP), lambda count, _: sv.Classification(
        images[:count], labels[:count].tolist(), batch_size=4
    )


def first_images(data: Path, count: int, into: Path) -> Path:
    """The annotations of the first so many images of the val split."""
    document = json.loads((data / "tiny_coco" / "annotations" / "instances_val2017.json").read_text(encoding="utf-8"))
    document["images"] = document["images"][:count]
    image_ids = {image["id"] for image in document["images"]}
    document["annotations"] = [
        annotation for annotation in document["annotations"] if annotation["image_id"] in image_ids
    ]
    file = into / "first.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


def naive(wrapped: sv.Wrapped, task: Task, layers: list[str]) -> list[float]:
    """The score unperturbed, and with each layer's weights quantized."""
    spec = RECIPE.weights
    if spec is None:
        raise ValueError(f"{RECIPE.name} leaves weights alone")
    with torch.no_grad():
        scores = [score(wrapped.model, task)]
        for name in layers:
            layer = wrapped.layers[name]
            weight = wrapped.model.get_submodule(layer.module).get_parameter("weight")
            original = weight.clone()
            weight.copy_(quantize_weight(weight, spec))
            scores.append(score(wrapped.model, task))
            weight.copy_(original)
    return scores


def score(model: nn.Module, task: Task) -> float:
    """Run every image and score."""
    predictions: dict[int, Any] = {}
    for batch in task.batches():
        predictions |= zip(batch.images, predict(task, model, batch), strict=True)
    return task.score(predictions)[task.metric]


def cpu_seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=NETS)
    parser.add_argument("--layers", nargs="+", type=int, default=(1, 4, 16, 0))
    parser.add_argument("--images", nargs="+", type=int, default=(1, 4, 32))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--longest", type=float, default=20.0, help="seconds of a naive loop that is not repeated")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | layers | images | naive, s | sweep, s | naive : sweep |\n|---|---|---|---|---|---|")
    ratios = []
    for name in options.nets:
        wrapped, made = net_and_task(name, options.data)
        names = [layer.name for layer in wrapped.layers]
        for images in options.images:
            with tempfile.TemporaryDirectory() as folder:
                task = made(images, Path(folder))
                for count in options.layers:
                    layers = names[:: max(1, len(names) // count)][:count] if count else names
                    times = timed(wrapped, task, layers, options.repeats, options.longest)
                    ratios.append(times[0] / times[1])
                    print(
                        f"| {name} | {len(layers)} | {images} | {times[0]:.3f} | {times[1]:.3f} | {ratios[-1]:.2f} |",
                        flush=True,
                    )
    print(f"\nworst {min(ratios):.2f}, of {len(ratios)}")


def timed(wrapped: sv.Wrapped, task: Task, layers: list[str], repeats: int, longest: float) -> tuple[float, float]:
    """The least CPU seconds of the naive loop and of the sweep."""

    def sweep() -> None:
        wrapped.analyze(task, RECIPE, layers=layers, progress=False)

    pairs = []
    for _ in range(repeats):
        pairs.append((cpu_seconds(lambda: naive(wrapped, task, layers)), cpu_seconds(sweep)))
        if pairs[0][0] > longest:
            break
    return min(duration_s for duration_s, _ in pairs), min(duration_s for _, duration_s in pairs)


if __name__ == "__main__":
    main()
