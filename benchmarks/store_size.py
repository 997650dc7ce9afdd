r"""How much room the store of a sweep takes, for each image and variant.

    OMP_NUM_THREADS=1 python -m benchmarks.store_size DATA [--nets fastestdet ...] [--images 50] [--layers 6]

DATA holds ``weights/`` and ``tiny_coco/``, as the project's shared data do. Some layers, spread over the network, are
swept in int4 and in int8 weights with a store. Prints bytes of the file for each image and variant in three ways:
every array of every prediction compressed by itself; the arrays of a batch compressed together; and that of condensed
predictions, which is what a sweep writes. ``lossless`` is the first by the second, ``all`` the first by the third. The
random state that every store begins with, 15 KB, is not counted.
"""

from __future__ import annotations

import argparse
import base64
import json
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sensitivity as sv
from benchmarks.real_nets import real_nets
from benchmarks.small_jobs import first_images
from sensitivity.contracts import Task
from sensitivity.sweep.storage.journal import Journal

RECIPES = [sv.INT4_WEIGHTS, sv.INT8_WEIGHTS]
NETS = ("yolo_fastest_1_1_xl", "fastestdet")


def unit_bytes(wrapped: sv.Wrapped, task: Task, layers: list[str], file: Path) -> tuple[int, int]:
    """Bytes of all units of variants in the store of a sweep, and what they take array by array."""
    wrapped.analyze(task, RECIPES, layers=layers, intervals=False, progress=False, store=file)
    together = alone = 0
    with Journal(file) as journal:
        for key, place in journal._places.items():
            record = journal.read(key)
            by_image = isinstance(record, dict) and record and all(isinstance(image, int) for image in record)
            if by_image and not key.startswith("baseline"):
                together += place.size
                alone += array_by_array(record)
    return together, alone


def array_by_array(record: dict[int, dict[str, Any]]) -> int:
    """Bytes of a record in which every array is compressed by itself."""
    plain = {
        image: {part: as_text(values) for part, values in prediction.items()} for image, prediction in record.items()
    }
    return len(json.dumps(plain, separators=(",", ":")))


def as_text(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    data = base64.b64encode(zlib.compress(array.tobytes(), 1)).decode("ascii")
    return {"$array": {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=NETS)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--layers", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| network | array by array, bytes | batch together | condensed | lossless | all |\n|---|---|---|---|---|---|"
    )
    for name in arguments.nets:
        net = real_nets()[name]
        wrapped = net.wrapped(arguments.data)
        names = [layer.name for layer in wrapped.layers]
        layers = names[:: max(1, len(names) // arguments.layers)][: arguments.layers]
        pairs = arguments.images * len(layers) * len(RECIPES)
        with tempfile.TemporaryDirectory() as folder:
            images = arguments.data / "tiny_coco" / "val2017"
            task: Any = net.task(images, first_images(arguments.data, arguments.images, Path(folder)))
            condensed, _ = unit_bytes(wrapped, task, layers, Path(folder) / "condensed.jsonl")
            task.condensed = None
            together, alone = unit_bytes(wrapped, task, layers, Path(folder) / "whole.jsonl")
        row = " | ".join(f"{size / pairs:.0f}" for size in (alone, together, condensed))
        print(f"| {name} | {row} | {alone / together:.2f} | {alone / condensed:.2f} |", flush=True)


if __name__ == "__main__":
    main()
