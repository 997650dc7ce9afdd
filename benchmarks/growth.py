r"""How time and memory grow with the images of a data set, and with the predictions of a sweep.

    OMP_NUM_THREADS=1 python -m benchmarks.growth [--images 1000 10000 100000] [--units 50000 500000]

``images``: a COCO annotation file of so many images with seven boxes each, images that are empty files, and what
``sv.CocoDetection`` takes: CPU seconds to make the task and to know its digest, and the megabytes that it adds to
the process. ``units``: results of a sweep without a store, as many as images times variants, ten images at a time, each
with ``--boxes`` boxes: CPU seconds to make up and keep them, and the megabytes that they add to the process and to the
temporary file. Every row is measured in a process of its own. For numbers of layers see ``many_layers.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BOXES_OF_AN_IMAGE, BATCH = 7, 10


def resident_mb() -> float:
    """Memory that the process has in use."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def write_images(images: int, file: Path) -> None:
    """A COCO file, and the empty files of its images."""
    draw = np.random.default_rng(0)
    sides = draw.uniform(10, 200, (images, BOXES_OF_AN_IMAGE, 4)).round(2)
    document = {
        "images": [{"id": n + 1, "file_name": f"{n:012d}.jpg", "width": 640, "height": 480} for n in range(images)],
        "categories": [{"id": n + 1, "name": f"thing {n}"} for n in range(80)],
        "annotations": [
            {
                "id": image * BOXES_OF_AN_IMAGE + number + 1,
                "image_id": image + 1,
                "category_id": (image + number) % 80 + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for image, boxes in enumerate(sides.tolist())
            for number, box in enumerate(boxes)
        ],
    }
    file.write_text(json.dumps(document), encoding="utf-8")
    for image in range(images):
        (file.parent / f"{image:012d}.jpg").touch()


def measure_images(images: int) -> str:
    """One row: a task of so many images."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as warm:
        subprocess.run([sys.executable, "-m", "benchmarks.growth", "--write", str(images), folder], check=True)
        import sensitivity as sv

        resize = sv.Resize(height=32, width=32)

        def adapter(*_: object) -> list[dict[str, object]]:
            return []

        write_images(2, Path(warm) / "instances.json")
        sv.CocoDetection(
            warm, Path(warm) / "instances.json", preprocess=resize, adapter=adapter
        ).digest()  # imports what it needs
        before, started = resident_mb(), time.process_time()
        task = sv.CocoDetection(folder, Path(folder) / "instances.json", preprocess=resize, adapter=adapter)
        made_s, started = time.process_time() - started, time.process_time()
        task.digest()
        digest_s = time.process_time() - started
        size = (Path(folder) / "instances.json").stat().st_size / 2**20
    return f"| {len(task)} | {size:.0f} | {made_s:.2f} | {digest_s:.2f} | {resident_mb() - before:.0f} |"


def measure_units(units: int, boxes: int) -> str:
    """One row: results of so many images times variants."""
    from sensitivity.sweep.storage.spilled import SpilledStore

    draw = np.random.default_rng(0)
    store, before, started = SpilledStore(), resident_mb(), time.process_time()
    for unit in range(units // BATCH):
        store.add(
            f"{unit:032d}",
            {
                image: {
                    "boxes": draw.random((boxes, 4), np.float32),
                    "scores": draw.random(boxes, np.float32),
                    "labels": np.arange(boxes),
                }
                for image in range(BATCH)
            },
        )
    kept_s = time.process_time() - started
    return f"| {units} | {kept_s:.1f} | {resident_mb() - before:.0f} | {store.written_bytes / 2**20:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="*", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--units", nargs="*", type=int, default=[5000, 50_000, 500_000, 2_000_000])
    parser.add_argument("--boxes", type=int, default=30)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_images(int(options.write[0]), Path(options.write[1]) / "instances.json")
        return
    if options.row:
        kind, count = options.row[0], int(options.row[1])
        print(measure_images(count) if kind == "images" else measure_units(count, options.boxes), flush=True)
        return
    print("| images | file, MB | task, s | digest, s | memory, MB |\n|---|---|---|---|---|", flush=True)
    for count in options.images:
        row("images", count, options.boxes)
    print("\n| images times variants | kept in, s | memory, MB | temporary file, MB |\n|---|---|---|---|", flush=True)
    for count in options.units:
        row("units", count, options.boxes)


def row(kind: str, count: int, boxes: int) -> None:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", "--row", kind, str(count), "--boxes", str(boxes)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
