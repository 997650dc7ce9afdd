"""Weights in 8, 6 and 4 bits, per tensor and per channel, of a real detector on real images, everything quantized.

    python benchmarks/bit_widths.py --data ../shared/data

Weights only, activations in float, batch norm folded (placement "deploy"), symmetric, min-max; the trained
YOLO-Fastest 1.1 XL of example 01 on the 50 validation images of tiny_coco. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import sensitivity as sv

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "01_coco_detector"
FORMATS = ("int8", "int6", "int4")
GRANULARITIES = ("per-tensor", "per-channel")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with weights/ and tiny_coco/")
    parser.add_argument("--limit", type=int, help="use the first so many images (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(EXAMPLE))
    from detectors import DETECTORS

    detector = DETECTORS["yolo-fastest-xl"]
    model = detector.load(options.data / "weights" / "yolo_fastest_1_1_xl.safetensors")
    side = detector.preprocess.side
    wrapped = sv.wrap(model, torch.zeros(1, 3, side, side))
    task = sv.CocoDetection(
        options.data / "tiny_coco" / "val2017",
        options.data / "tiny_coco" / "annotations" / "instances_val2017.json",
        preprocess=detector.preprocess,
        adapter=detector.decode,
        batch_size=10,
        limit=options.limit,
    )
    print(f"{len(wrapped.layers)} layers, {len(task)} images\n")
    print("| weights | granularity | AP | AP50 | KiB |\n|---|---|---:|---:|---:|")
    tell("float32", "-", wrapped.evaluate(task), wrapped.size_bytes())
    for number_format in FORMATS:
        for granularity in GRANULARITIES:
            weights = sv.QuantSpec(number_format, granularity)  # type: ignore[arg-type]
            scheme = sv.Scheme.all(sv.Recipe(f"{number_format} {granularity}", weights=weights))
            tell(number_format, granularity, wrapped.evaluate(task, scheme), wrapped.size_bytes(scheme))


def tell(weights: str, granularity: str, score: sv.Score, size_bytes: int) -> None:
    metrics = score.metrics
    size = f"{size_bytes / 1024:.0f}"
    print(f"| {weights} | {granularity} | {metrics['AP']:.4f} | {metrics['AP50']:.4f} | {size} |", flush=True)


if __name__ == "__main__":
    main()
