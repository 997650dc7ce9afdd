"""A whole sweep of a trained detector on real images, in passes of plain inference.

    python benchmarks/passes.py --data ../shared/data

Every layer of YOLO-Fastest-1.1-XL is quantized alone and scored by COCO AP on the 50 validation images of tiny COCO,
calibration and scoring included; the unit is the CPU time of running the unperturbed model over the same images once.
That unit is given in two sizes: ``model`` is the network alone on images that are ready, ``pipeline`` reads and resizes
the images and decodes the boxes as well. Each is the median of three, taken before and after the sweep. One thread.
Prints JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import sensitivity as sv

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "01_coco_detector"
sys.path.insert(0, str(EXAMPLE))
run = importlib.import_module("run")

RECIPES = {"int4-weights": sv.INT4_WEIGHTS, "int8": sv.INT8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with weights/ and tiny_coco/")
    parser.add_argument("--model", choices=run.DETECTORS, default="yolo-fastest-xl")
    parser.add_argument("--weights", default="yolo_fastest_1_1_xl.safetensors", help="file in weights/")
    parser.add_argument("--recipe", choices=RECIPES, default="int4-weights")
    parser.add_argument("--limit", type=int, help="use the first so many images")
    parser.add_argument("--full", action="store_true", help="run every pass in full, for comparison")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(measure(options)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    detector = run.DETECTORS[options.model]
    model = detector.load(options.data / "weights" / options.weights)
    side = detector.preprocess.side
    coco = options.data / "tiny_coco"
    task, calibration = (
        run.make_task(detector, coco / split, coco / "annotations" / f"instances_{split}.json", options.limit)
        for split in ("val2017", "train2017")
    )
    wrapped = sv.wrap(model, torch.zeros(1, 3, side, side), name=options.model)
    units = [plain_passes(model, task)]
    started = time.process_time()
    recipe = RECIPES[options.recipe]
    if recipe.needs_calibration:
        wrapped.calibrate(calibration, recipe)
    calibrated = time.process_time()
    study = wrapped.analyze(task, recipe, replay=not options.full, progress=False)
    ended = time.process_time()
    units.append(plain_passes(model, task))
    predictions = {image: prediction for batch in task.batches() for image, prediction in one_pass(model, task, batch)}
    unit = {name: statistics.median(u[name] for u in units) for name in units[0]}
    return {
        "model": options.model,
        "recipe": options.recipe,
        "replay": not options.full,
        "images": len(task),
        "layers": len(study.measurements),
        "failed": sum(measurement.status == "failed" for measurement in study.measurements),
        "notes": list(study.notes),
        "sweep_cpu_s": round(ended - started, 1),
        "of_it_calibration_s": round(calibrated - started, 1),
        "plain_pass_s": {name: round(value, 3) for name, value in unit.items()},
        "scoring_once_s": round(seconds(lambda: task.score(predictions)), 3),
        "cost_in_passes": {name: round((ended - started) / value, 1) for name, value in unit.items()},
    }


def one_pass(model: torch.nn.Module, task: sv.CocoDetection, batch: Any) -> zip[tuple[int, Any]]:
    with torch.no_grad():
        return zip(batch.images, task.predict(model, batch), strict=True)


def plain_passes(model: torch.nn.Module, task: sv.CocoDetection) -> dict[str, float]:
    """CPU seconds of one pass over the images: of the network alone, and with all that surrounds it."""
    batches = list(task.batches())

    def network() -> None:
        for batch in batches:
            with torch.no_grad():
                model(*batch.inputs)

    def pipeline() -> None:
        for batch in task.batches():
            list(one_pass(model, task, batch))

    network()
    return {
        "model": statistics.median(seconds(network) for _ in range(3)),
        "pipeline": statistics.median(seconds(pipeline) for _ in range(3)),
    }


def seconds(function: Callable[[], Any]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


if __name__ == "__main__":
    main()
