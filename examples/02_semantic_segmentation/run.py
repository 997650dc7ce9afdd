"""Finds the layers of ESPNetv2 that quantization breaks, by the mean IoU of images annotated as in COCO."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from espnetv2 import CLASSES, INPUT_SIDE, load, preprocess

import sensitivity as sv
from sensitivity.tasks.labels import CocoLabels

RECIPES = {recipe.name: recipe for recipe in (sv.INT8, sv.INT4_WEIGHTS, sv.FP8)}
WORST = 8

# where VOC, whose classes the network knows, and COCO, whose images are annotated, call a thing differently
COCO_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Layers, baseline, sweep, everything quantized, worst layers."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    model = load(options.weights, width=options.width)
    wrapped = sv.wrap(model, torch.zeros(1, 3, INPUT_SIDE, INPUT_SIDE), name=f"ESPNetv2 {options.width}")
    print(wrapped.layers)

    task = make_task(options.images, options.annotations, options.limit)
    calibration = make_task(options.calibration_images, options.calibration_annotations, options.limit)
    recipe = RECIPES[options.recipe]
    started = time.perf_counter()
    store = options.out / "store.jsonl"
    study = wrapped.analyze(task, recipe, layers=options.layers, calibration=calibration, store=store)
    print(f"\n{len(study.measurements)} measurements on {len(task)} images in {time.perf_counter() - started:.0f} s")
    print(f"unperturbed: mIoU {study.baseline.value:.4f}")
    print(f"everything in {recipe.name}: mIoU {wrapped.evaluate(task, sv.Scheme.all(recipe)).value:.4f}")
    table = study.table()
    print(f"\n{recipe.name}: largest gain, which can only be chance: {-table['drop'].min():.2f} points; worst layers:")
    for row in table.nlargest(WORST, "drop").itertuples():
        print(f"  {row.name:42} {row.drop:6.2f} points  {row.verdict:9}  {row.traits}".rstrip())

    study.save(options.out / "study.json")
    study.plot(options.out / "dips.png")
    study.table().to_csv(options.out / "layers.csv", index=False)
    print(f"\nwrote {', '.join(sorted(path.name for path in options.out.iterdir()))} to {options.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file")
    parser.add_argument("--width", choices=("s0.5", "s1.0", "s2.0"), default="s1.0", help="default: %(default)s")
    parser.add_argument("--images", type=Path, required=True, help="folder of images to score on")
    parser.add_argument("--annotations", type=Path, required=True, help="their COCO annotation file")
    parser.add_argument("--calibration-images", type=Path, required=True, help="folder of images that set int8 ranges")
    parser.add_argument("--calibration-annotations", type=Path, required=True, help="their COCO annotation file")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--recipe", choices=RECIPES, default="int8", help="default: %(default)s")
    parser.add_argument("--limit", type=int, help="use the first so many images of each folder (default: all)")
    parser.add_argument("--layers", default="*", help="pattern of the layers to measure, e.g. @exit (default: all)")
    return parser.parse_args(arguments)


def make_task(images: Path, annotations: Path, limit: int | None) -> sv.SemanticSegmentation:
    """COCO's objects painted as VOC's classes; other things are background."""
    ids = {
        category["name"]: category["id"]
        for category in json.loads(annotations.read_text(encoding="utf-8"))["categories"]
    }
    classes = {ids[COCO_NAMES.get(name, name)]: number for number, name in enumerate(CLASSES) if number > 0}
    labels = CocoLabels(annotations, classes=classes)
    return sv.SemanticSegmentation(images, labels, classes=CLASSES, preprocess=preprocess, batch_size=5, limit=limit)


if __name__ == "__main__":
    try:
        main()
    except sv.SensitivityError as error:
        sys.exit(f"error: {error}")
