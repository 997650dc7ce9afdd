"""Random views of the 50 validation images: more images to score on than there are, though not independent ones."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO

SIDES = (0.7, 1.0)


def write_views(data: Path, folder: Path, count: int) -> Path:
    """Views of the validation images, with annotations of their own; the first are the images themselves."""
    images, file = folder / "images", folder / f"annotations-{count}.json"
    if file.exists():
        return file
    images.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):
        truth = COCO(data / "tiny_coco" / "annotations" / "instances_val2017.json")
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    identifiers = sorted(truth.imgs)
    for number in range(count):
        source = truth.imgs[identifiers[number % len(identifiers)]]
        rows, columns, mirrored = window(number // len(identifiers), source)
        cut = functools.partial(cut_out, rows=rows, columns=columns, mirrored=mirrored)
        name = f"{number:05d}.png"
        if not (images / name).exists():
            picture: Any = cv2.imread(str(data / "tiny_coco" / "val2017" / source["file_name"]))
            cv2.imwrite(str(images / name), cut(picture), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        size = {"height": rows.stop - rows.start, "width": columns.stop - columns.start}
        records.append({"id": number + 1, "file_name": name, **size})
        for annotation in truth.imgToAnns[source["id"]]:
            seen = mask_tools.encode(np.asfortranarray(cut(truth.annToMask(annotation))))
            if area := int(mask_tools.area(seen)):
                whole = number < len(identifiers)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number + 1,
                        "category_id": annotation["category_id"],
                        "iscrowd": annotation["iscrowd"],
                        "area": annotation["area"] if whole else area,
                        "bbox": annotation["bbox"] if whole else mask_tools.toBbox(seen).tolist(),
                        "segmentation": {"size": seen["size"], "counts": seen["counts"].decode()},
                    }
                )
    plain = {"images": records, "annotations": annotations, "categories": list(truth.cats.values())}
    file.write_text(json.dumps(plain), encoding="utf-8")
    return file


def window(turn: int, source: Mapping[str, Any]) -> tuple[slice, slice, bool]:
    """Rows, columns and whether to mirror: of the whole image in the first turn, then random."""
    height, width = source["height"], source["width"]
    if turn == 0:
        return slice(0, height), slice(0, width), False
    random = np.random.default_rng([turn, source["id"]])

    def part(length: int) -> slice:
        width = round(length * random.uniform(*SIDES))
        start = int(random.integers(length - width + 1))
        return slice(start, start + width)

    return part(height), part(width), bool(random.integers(2))


def cut_out(pixels: np.ndarray, *, rows: slice, columns: slice, mirrored: bool) -> np.ndarray:
    part = pixels[rows, columns]
    return np.ascontiguousarray(part[:, ::-1] if mirrored else part)
