"""A whole sweep of a detector on real images, end to end: inference, post-processing, scoring; against naive hooks.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.end_to_end DATA [--every 7]

DATA holds ``weights/`` and ``tiny_coco/``, as the project's shared data do. The arms, in CPU time of one thread:

- ``naive``: for each layer all images are read and run in full with the layer quantized, decoded by the same
  vectorised code, and scored by pycocotools. Every ``--every``-th layer is run and counted that many times; layers do
  not differ in cost.
- ``exact``: ``analyze`` without intervals, which naive has not either.
- ``channels_last``: the same of a copy of the model with weights in that memory format, which many convolutions run
  faster in. The last bits are others, so that scores may differ: by how much is printed.
- ``intervals``: ``analyze`` as it is, every drop with bounds.
- ``stop``: ``analyze`` with a confidence stop at the tolerance given.

Each but naive is run before and after it, so that a slow spell of the machine weighs on both sides. Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import sensitivity as sv

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "01_coco_detector"))

from detectors import DETECTORS  # type: ignore[import-not-found]

FILES = {"fastestdet": "fastestdet", "yolo-fastest-xl": "yolo_fastest_1_1_xl"}


def cpu_seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


def naive(
    wrapped: sv.Wrapped, task: sv.CocoDetection, truth: COCO, recipe: sv.Recipe, layers: list[str]
) -> list[float]:
    """AP with each of the layers quantized, nothing shared between them."""
    found = []
    for layer in [None, *layers]:
        scheme = sv.Scheme.only(layer, recipe) if layer else sv.Scheme()
        results: list[dict[str, Any]] = []
        with wrapped.quantized(scheme) as model, torch.no_grad():
            for batch in task.batches():
                for image, one in zip(batch.images, task.predict(model, batch), strict=True):
                    results += as_results(task, image, one)
        found.append(average_precision(truth, results))
    return found


def as_results(task: sv.CocoDetection, image: int, found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    number = task.annotations.images[image]["id"]
    boxes = found["boxes"].copy()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
    return [{"image_id": number, "bbox": box, "score": score, "category_id": label} for box, score, label in rows]


def average_precision(truth: COCO, results: list[dict[str, Any]]) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", choices=FILES, default="fastestdet")
    parser.add_argument("--every", type=int, default=7)
    parser.add_argument("--tolerance", type=float, default=0.02, help="of the stop, as a fraction of AP")
    parser.add_argument("--minimum-images", type=int, default=16, help="of the stop")
    given = parser.parse_args()
    torch.set_num_threads(1)
    detector = DETECTORS[given.model]
    model = detector.load(given.data / "weights" / f"{FILES[given.model]}.safetensors")
    side = detector.preprocess.side
    naming = detector.naming(model) if detector.naming else None
    wrapped = sv.wrap(model, torch.zeros(1, 3, side, side), name=given.model, naming=naming)
    folder = given.data / "tiny_coco"
    file = folder / "annotations" / "instances_val2017.json"
    task = sv.CocoDetection(
        folder / "val2017", file, preprocess=detector.preprocess, adapter=detector.decode, batch_size=8
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
    recipe, names = sv.INT4_WEIGHTS, [layer.name for layer in wrapped.layers]
    stop = sv.Confidence(tolerance=given.tolerance, minimum_images=given.minimum_images)

    other = sv.wrap(
        copy.deepcopy(model).to(memory_format=torch.channels_last),
        torch.zeros(1, 3, side, side),
        name=given.model,
        naming=naming,
    )
    arms: dict[str, Callable[[], sv.Study]] = {
        "exact": lambda: wrapped.analyze(task, recipe, intervals=False, progress=False),
        "channels_last": lambda: other.analyze(task, recipe, intervals=False, progress=False),
        "intervals": lambda: wrapped.analyze(task, recipe, progress=False),
        "stop": lambda: wrapped.analyze(task, recipe, stop=stop, progress=False),
    }
    first = {arm: cpu_seconds(run)[0] for arm, run in arms.items()}
    some = names[:: given.every]
    naive_s, scores = cpu_seconds(lambda: naive(wrapped, task, truth, recipe, some))
    whole_s = naive_s / (len(some) + 1) * (len(names) + 1)
    second = {arm: cpu_seconds(run) for arm, run in arms.items()}
    seconds = {arm: statistics.median([first[arm], second[arm][0]]) for arm in arms}
    found = {arm: {one.layer: one.score or 0.0 for one in study.measurements} for arm, (_, study) in second.items()}
    compared = list(zip(some, scores[1:], strict=True))
    rounded = [abs(found["channels_last"][name] - found["exact"][name]) for name in names]
    print(
        json.dumps(
            {
                "model": given.model,
                "layers": len(names),
                "images": len(task),
                "seconds": {"naive": round(whole_s, 1)} | {arm: round(taken, 1) for arm, taken in seconds.items()},
                "speedup": {arm: round(whole_s / taken, 1) for arm, taken in seconds.items()},
                "scores_that_differ": sum(abs(found["exact"][name] - score) > 1e-12 for name, score in compared),
                "scores_compared": len(compared),
                "largest_change_by_channels_last": max(rounded),
                "tolerance_of_stop": given.tolerance,
                "images_used_by_stop": sum(one.images for one in second["stop"][1].measurements)
                / len(names)
                / len(task),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
