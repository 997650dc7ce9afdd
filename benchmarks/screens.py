"""How well signals and estimates put a real detector's layers in the order of their measured drops.

    python benchmarks/screens.py --data ../shared/data

YOLO-Fastest 1.1 XL of example 01, int4 weights, the validation images of tiny_coco; the screen sees one image, the
signals ten. Prints JSON: Spearman's rank correlation with the drops in AP and in the SQNR of the outputs for ten other
images, seconds, and the flags that signals raised. Drops in AP on so few images are mostly noise, which bounds what any
screen can reach.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

import sensitivity as sv

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "01_coco_detector"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with weights/ and tiny_coco/")
    parser.add_argument("--limit", type=int, default=50, help="images that drops are measured on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(EXAMPLE))
    from detectors import DETECTORS

    detector = DETECTORS["yolo-fastest-xl"]
    model = detector.load(options.data / "weights" / "yolo_fastest_1_1_xl.safetensors")
    wrapped = sv.wrap(model, torch.zeros(1, 3, detector.preprocess.side, detector.preprocess.side))

    def task(limit: int, batch_size: int) -> sv.CocoDetection:
        return sv.CocoDetection(
            options.data / "tiny_coco" / "val2017",
            options.data / "tiny_coco" / "annotations" / "instances_val2017.json",
            preprocess=detector.preprocess,
            adapter=detector.decode,
            batch_size=batch_size,
            limit=limit,
        )

    seconds = {}
    started = time.perf_counter()
    study = wrapped.analyze(task(options.limit, 10), sv.INT4_WEIGHTS, progress=False)
    seconds["sweep"] = time.perf_counter() - started
    started = time.perf_counter()
    screened = wrapped.screen(task(1, 1), sv.INT4_WEIGHTS)
    seconds["screen"] = time.perf_counter() - started
    started = time.perf_counter()
    signals = wrapped.signals(task(10, 5), sv.INT4_WEIGHTS)
    seconds["signals"] = time.perf_counter() - started
    study = study.with_signals(screened, signals)
    inputs = torch.cat([batch.inputs[0] for batch in task(20, 10).batches()])[
        10:
    ]  # images that the signals did not see
    fidelity = wrapped.analyze(sv.FeatureFidelity(inputs, batch_size=5), sv.INT4_WEIGHTS, progress=False)
    fidelity = fidelity.with_signals(screened, signals)
    print(
        json.dumps(
            {
                "layers": len(wrapped.layers),
                "images": options.limit,
                "rank_correlation_with_drops_in_AP": agreement(study),
                "rank_correlation_with_drops_in_SQNR_of_other_images": agreement(fidelity),
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
                "flags": {name: flags for name, flags in measured_flags(study).items() if flags},
            }
        )
    )


def agreement(study: sv.Study) -> dict[str, float]:
    [correlations] = study.table().attrs["rank_correlation"].values()
    return {name: round(value, 3) for name, value in correlations.items()}


def measured_flags(study: sv.Study) -> dict[str, list[str]]:
    """Layers with a flag that a signal raised."""
    measured = {"dead", "saturated", "outlier-channels"}
    return {name: sorted(flags & measured) for name, flags in study.flags().items()}


if __name__ == "__main__":
    main()
