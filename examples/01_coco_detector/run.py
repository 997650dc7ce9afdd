"""Finds the layers of a COCO detector that plain ranges break, says why, and cures them: on the engine, with its AP."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from detectors import DETECTORS, Detector

import sensitivity as sv

RECIPES = (sv.INT8_MINMAX, sv.INT4_WEIGHTS)
CURES = (sv.INT8, sv.INT8_AFFINE)  # the same eight bits, with ranges that were chosen better
DIAGNOSED = 8  # images that the diagnosis compares outputs on


def main(arguments: Sequence[str] | None = None) -> None:
    """Layers, sweep, dips, schemes, diagnosis, tuned scheme: the main job from end to end."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    detector = DETECTORS[options.model]
    model = detector.load(options.weights)
    side = detector.preprocess.side
    naming = detector.naming(model) if detector.naming else None
    wrapped = sv.wrap(model, torch.zeros(1, 3, side, side), name=options.model, naming=naming)
    print(wrapped.layers)

    task = make_task(detector, options.images, options.annotations, options.limit)
    calibration = make_task(detector, options.calibration_images, options.calibration_annotations, options.limit)
    wrapped.calibrate(calibration, [sv.INT8_MINMAX, *CURES])
    if options.explain:
        print(wrapped.explain(task, RECIPES, layers=options.layers))
        return
    started = time.perf_counter()
    study = wrapped.analyze(task, RECIPES, layers=options.layers, store=options.out / "store.jsonl")
    print(f"\n{len(study.measurements)} measurements on {len(task)} images in {time.perf_counter() - started:.0f} s")
    metrics = study.baseline.metrics
    print(f"unperturbed, calibrated on {len(calibration)} images: AP {metrics['AP']:.4f}, AP50 {metrics['AP50']:.4f}")
    for recipe in RECIPES:
        tell_dips(study, recipe.name, options.protect)

    tell_schemes(wrapped, study, task, options.protect, options.out)
    few = make_task(detector, options.calibration_images, options.calibration_annotations, DIAGNOSED)
    diagnosis = wrapped.diagnose(few, sv.INT8_MINMAX, layers=options.layers, calibration=calibration)
    print(f"\n{diagnosis}")
    tuned = wrapped.tune(
        task,
        max_drop=options.max_drop,
        candidates=[sv.INT8_MINMAX, *CURES],
        calibration=calibration,
        engine=None if options.engine == "none" else options.engine,
        store=options.out / "tune.jsonl",
    )
    print(f"\n{tuned}")
    write(study, diagnosis, tuned, options.out)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=DETECTORS, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file")
    parser.add_argument("--images", type=Path, required=True, help="folder of images to score on")
    parser.add_argument("--annotations", type=Path, required=True, help="their COCO annotation file")
    parser.add_argument("--calibration-images", type=Path, required=True, help="folder of images that set int8 ranges")
    parser.add_argument("--calibration-annotations", type=Path, required=True, help="their COCO annotation file")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--limit", type=int, help="use the first so many images of each folder (default: all)")
    parser.add_argument("--layers", default="*", help="pattern of the layers to measure, e.g. @exit (default: all)")
    parser.add_argument("--protect", type=int, default=8, help="layers to keep in float (default: %(default)s)")
    parser.add_argument("--max-drop", type=float, default=1.0, help="points of AP that may be lost (default: 1)")
    parser.add_argument(
        "--engine", default="openvino", help="engine that runs the tuned scheme, or none (default: openvino)"
    )
    parser.add_argument("--explain", action="store_true", help="tell what the sweep would cost, and stop there")
    return parser.parse_args(arguments)


def make_task(detector: Detector, images: Path, annotations: Path, limit: int | None) -> sv.CocoDetection:
    return sv.CocoDetection(
        images, annotations, preprocess=detector.preprocess, adapter=detector.decode, batch_size=10, limit=limit
    )


def tell_dips(study: sv.Study, recipe: str, most: int) -> None:
    """The worst layers, and how much of their drops can be believed.

    Quantization takes information away, so what a layer seems to gain by it is chance. The largest such gain is a
    yardstick: a drop that is no larger may be chance too.
    """
    table = study.table(recipe).dropna(subset="drop")
    gains = -table["drop"][table["drop"] < 0]
    chance = gains.max() if len(gains) else 0.0
    dips = table[table["drop"] > chance].nlargest(most, "drop")
    print(f"\n{recipe}: {len(gains)} of {len(table)} layers seem to gain, up to {chance:.2f} points of AP: chance.")
    print(f"layers that drop by more: {(table['drop'] > chance).sum()}")
    for row in dips.itertuples():
        print(f"  {row.name:34} {row.drop:6.2f} points  {row.verdict:9}  {row.traits}".rstrip())
    print("Smaller drops may be chance as well: do not read a ranking into them.")


def tell_schemes(wrapped: sv.Wrapped, study: sv.Study, task: sv.CocoDetection, top: int, folder: Path) -> None:
    """Everything quantized against the same with the worst layers protected, both measured.

    Layers that were not measured stay in float in either scheme.
    """
    print(f"\n{'scheme':44} {'AP':>6} {'AP50':>6} {'KiB':>6}")
    tell_scheme("nothing quantized", study.baseline, sum(4 * layer.parameters for layer in study.layers))
    for recipe in RECIPES:
        for count in (0, top):
            scheme = study.protect(top=count, recipe=recipe.name)
            label = f"{recipe.name}, {len(scheme.reasons)} of {len(study.layers)} layers protected"
            tell_scheme(label, wrapped.evaluate(task, scheme), scheme.size_bytes)
        scheme.save(folder / f"scheme-{recipe.name}.json")
    for recipe in CURES:
        scheme = sv.Scheme.all(recipe)
        tell_scheme(f"{recipe.name}, nothing protected", wrapped.evaluate(task, scheme), wrapped.size_bytes(scheme))


def tell_scheme(label: str, score: sv.Score, size_bytes: int) -> None:
    print(f"{label:44} {score.metrics['AP']:6.4f} {score.metrics['AP50']:6.4f} {size_bytes / 1024:6.0f}")


def write(study: sv.Study, diagnosis: sv.Diagnosis, tuned: sv.Tuned, folder: Path) -> None:
    study.save(folder / "study.json")
    study.plot(folder / "dips.png")
    study.to_html(folder / "report.html", diagnosis=diagnosis, tuned=tuned)
    diagnosis.save(folder / "diagnosis.json")
    diagnosis.plot(folder / "diagnosis.png")
    tuned.plot(folder / "path.png")
    tuned.save(folder / "tuned.json")
    study.table().to_csv(folder / "layers.csv", index=False)
    (folder / "layers.md").write_text(study.to_markdown() + "\n", encoding="utf-8")
    print(f"\nwrote {', '.join(sorted(path.name for path in folder.iterdir()))} to {folder}")


if __name__ == "__main__":
    try:
        main()
    except sv.SensitivityError as error:
        sys.exit(f"error: {error}")
