r"""A whole sweep of a detector on real images, end to end: inference, post-processing, scoring; against naive hooks.

    OMP_NUM_THREADS=1 python -m benchmarks.end_to_end DATA [--every 7]
    OMP_NUM_THREADS=1 python -m benchmarks.end_to_end DATA --views 20 --every 24 --minimum-images 64 \
        --arms stop folded_stop

DATA holds ``weights/`` and ``tiny_coco/``, as the project's shared data do. The images are the 50 of its val split;
with ``--views``, so many random views of each of its 100 images, cut out and mirrored with their boxes: what a stop
saves depends on how many images there are. The arms, in CPU time of one thread:

- ``naive``: for each layer all images are read and run in full with the layer quantized, decoded by the same
  vectorised code, and scored by pycocotools. Every ``--every``-th layer is run and counted that many times; layers do
  not differ in cost.
- ``exact``: ``analyze`` without intervals, which naive has not either.
- ``channels_last``: the same of a copy of the model with weights in that memory format, which many convolutions run
  faster in. The last bits are others, so that scores may differ: in how many of the layers compared, is printed.
- ``folded``: the same of a copy with folded norms as well.
- ``intervals``: ``analyze`` as it is, every drop with bounds.
- ``stop`` and ``folded_stop``: with a confidence stop at the tolerance given.

Each but naive is run before and after it, so that a slow spell of the machine weighs on both sides. Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

import sensitivity as sv
from sensitivity.contracts import Batch
from sensitivity.records import Measurement
from sensitivity.sweep.stopping.jackknife import GROUPS, student_quantile
from sensitivity.sweep.stopping.judge import LEVEL

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "01_coco_detector"))

from detectors import DETECTORS

ARMS = ("exact", "channels_last", "folded", "intervals", "stop", "folded_stop")
FILES = {"fastestdet": "fastestdet", "yolo-fastest-xl": "yolo_fastest_1_1_xl"}


class TimedTask(sv.CocoDetection):
    """Adds up the CPU seconds of the network, and of decoding its outputs."""

    network_s = decoding_s = 0.0

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        before = self.network_s

        def timed(*inputs: Any) -> Any:
            seconds, outputs = cpu_seconds(lambda: model(*inputs))
            self.network_s += seconds
            return outputs

        seconds, predictions = cpu_seconds(lambda: super(TimedTask, self).predict(timed, batch))
        self.decoding_s += seconds - (self.network_s - before)
        return list(predictions)


def cpu_seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


def naive(
    wrapped: sv.Wrapped, task: sv.CocoDetection, truth: COCO, recipe: sv.Recipe, layers: list[str]
) -> list[float]:
    """AP with each of the layers quantized, nothing shared between them."""
    scores = []
    for layer in [None, *layers]:
        scheme = sv.Scheme.only(layer, recipe) if layer else sv.Scheme()
        results: list[dict[str, Any]] = []
        with wrapped.quantized(scheme) as model, torch.no_grad():
            for batch in task.batches():
                for image, prediction in zip(batch.images, task.predict(model, batch), strict=True):
                    results += as_results(task, image, prediction)
        scores.append(average_precision(truth, results))
    return scores


def as_results(task: sv.CocoDetection, image: int, prediction: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    number = task.annotations.images[image]["id"]
    boxes = prediction["boxes"].copy()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), prediction["scores"].tolist(), prediction["labels"].tolist(), strict=True)
    return [{"image_id": number, "bbox": box, "score": score, "category_id": label} for box, score, label in rows]


def average_precision(truth: COCO, results: list[dict[str, Any]]) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def views(folder: Path, number: int, into: Path) -> tuple[Path, Path]:
    """Folder and annotation file of random views of all images of tiny_coco.

    A view shows 60 to 100 % of each side, mirrored or not; an object stays if half of its box does.
    """
    draw = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for split in ("val2017", "train2017"):
        truth = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
        for image, _ in itertools.product(truth["images"], range(number)):
            with Image.open(folder / split / image["file_name"]) as opened:
                picture = opened.convert("RGB")
            width, height = (round(side * draw.uniform(0.6, 1.0)) for side in picture.size)
            left, top = (int(draw.integers(0, w - v + 1)) for w, v in zip(picture.size, (width, height), strict=True))
            mirrored = bool(draw.integers(2))
            shown = picture.crop((left, top, left + width, top + height))
            name = f"{len(images):06d}.png"
            (ImageOps.mirror(shown) if mirrored else shown).save(into / name, compress_level=1)
            images.append({"id": len(images), "file_name": name, "width": width, "height": height})
            for annotation in (
                annotation for annotation in truth["annotations"] if annotation["image_id"] == image["id"]
            ):
                x, y, w, h = annotation["bbox"]
                x0, y0 = max(x - left, 0.0), max(y - top, 0.0)
                x1, y1 = min(x + w - left, float(width)), min(y + h - top, float(height))
                area = max(x1 - x0, 0.0) * max(y1 - y0, 0.0)
                if area == 0.0 or area < 0.5 * w * h:
                    continue
                box = [width - x1 if mirrored else x0, y0, x1 - x0, y1 - y0]
                cropped = {
                    "category_id": annotation["category_id"],
                    "iscrowd": annotation["iscrowd"],
                    "bbox": box,
                    "area": area,
                }
                objects.append(cropped | {"id": len(objects) + 1, "image_id": len(images) - 1})
    file = into / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": objects, "categories": truth["categories"]}))
    return into, file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", choices=FILES, default="fastestdet")
    parser.add_argument("--every", type=int, default=7)
    parser.add_argument("--tolerance", type=float, default=2.0, help="of the stop, in points of AP")
    parser.add_argument("--minimum-images", type=int, default=16, help="of the stop")
    parser.add_argument("--views", type=int, default=0, help="of each image; 0 takes the val split as it is")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        tiny = options.data / "tiny_coco"
        split = tiny / "val2017", tiny / "annotations" / "instances_val2017.json"
        compare(options, *(views(tiny, options.views, Path(made)) if options.views else split))


def compare(options: argparse.Namespace, images: Path, annotations: Path) -> None:
    detector = DETECTORS[options.model]
    model = detector.load(options.data / "weights" / f"{FILES[options.model]}.safetensors")
    side = detector.preprocess.side
    naming = detector.naming(model) if detector.naming else None

    def wrapped_as(some: nn.Module) -> sv.Wrapped:
        return sv.wrap(some, torch.zeros(1, 3, side, side), name=options.model, naming=naming)

    wrapped = wrapped_as(model)
    last = wrapped_as(copy.deepcopy(model).to(memory_format=torch.channels_last))
    folded = last.folded()
    task = TimedTask(images, annotations, preprocess=detector.preprocess, adapter=detector.decode, batch_size=8)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
    recipe, names = sv.INT4_WEIGHTS, [layer.name for layer in wrapped.layers]
    stop = sv.Confidence(tolerance=options.tolerance, minimum_images=options.minimum_images)
    every: dict[str, Callable[[], sv.Study]] = {
        "exact": lambda: wrapped.analyze(task, recipe, intervals=False, progress=False),
        "channels_last": lambda: last.analyze(task, recipe, intervals=False, progress=False),
        "folded": lambda: folded.analyze(task, recipe, intervals=False, progress=False),
        "intervals": lambda: wrapped.analyze(task, recipe, progress=False),
        "stop": lambda: wrapped.analyze(task, recipe, stop=stop, progress=False),
        "folded_stop": lambda: folded.analyze(task, recipe, stop=stop, progress=False),
    }
    arms = {arm: every[arm] for arm in options.arms}
    first, parts = {}, {}
    for arm, run in arms.items():
        task.network_s = task.decoding_s = 0.0
        first[arm] = cpu_seconds(run)[0]
        parts[arm] = {"network_s": round(task.network_s, 1), "decoding_s": round(task.decoding_s, 1)}
    some = names[:: options.every]
    naive_s, scores = cpu_seconds(lambda: naive(wrapped, task, truth, recipe, some))
    whole_s = naive_s / (len(some) + 1) * (len(names) + 1)
    second = {arm: cpu_seconds(run) for arm, run in arms.items()}
    seconds = {arm: statistics.median([first[arm], second[arm][0]]) for arm in arms}
    report: dict[str, Any] = {
        "model": options.model,
        "layers": len(names),
        "images": len(task),
        "seconds": {"naive": round(whole_s, 1)} | {arm: round(taken, 1) for arm, taken in seconds.items()},
        "speedup": {arm: round(whole_s / taken, 1) for arm, taken in seconds.items()},
        "scores_compared": len(some),
    }
    for arm, (_, study) in second.items():
        by_layer = {measurement.layer: measurement for measurement in study.measurements}
        drops = [(by_layer[name], scores[0] - score) for name, score in zip(some, scores[1:], strict=True)]
        report[arm] = parts[arm]
        if "stop" in arm:
            report[arm] |= {
                "tolerance": options.tolerance,
                "share_of_images": sum(measurement.images for measurement in study.measurements)
                / len(names)
                / len(task),
                "intervals_that_hold_the_naive_drop": sum(within(row, drop) for row, drop in drops),
                "most_images": max(measurement.images for measurement in study.measurements),
            }
        else:
            apart = [abs((row.drop or 0.0) - drop) for row, drop in drops]
            report[arm] |= {
                "scores_that_differ": sum(distance > 1e-12 for distance in apart),
                "largest_difference": max(apart),
            }
        if arm == "intervals":
            report[arm]["standard_deviation_an_image"] = statistics.median(deviations(study))
    print(json.dumps(report, indent=1))


def deviations(study: sv.Study) -> list[float]:
    """Standard deviation of each layer's drop on one image: of its interval, times the root of the images."""
    known = [
        measurement
        for measurement in study.measurements
        if measurement.drop is not None and measurement.drop_high is not None
    ]
    freedom, level = GROUPS - 1, 1 - (1 - LEVEL) / len(study.measurements)
    errors = [((row.drop_high or 0.0) - (row.drop or 0.0)) / student_quantile(level, freedom) for row in known]
    return [error * row.images**0.5 for error, row in zip(errors, known, strict=True)]


def within(row: Measurement, drop: float) -> bool:
    """Whether the interval of a layer holds what naive found; of one that saw all images, to rounding."""
    low, high = row.drop_low, row.drop_high
    return low is not None and high is not None and low - 1e-12 <= drop <= high + 1e-12


if __name__ == "__main__":
    main()
