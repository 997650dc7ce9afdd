"""The six trained networks of the project's shared data as benchmarks use them, and random views of its images.

DATA holds ``weights/`` and ``tiny_coco/``. Fifty images make AP coarse: a view shows 60 to 100 % of each side of an
image, mirrored or not, with its objects, so that there may be as many as are wanted. Views of one image are alike:
``groups_of_views`` keeps them together where groups are left out for an interval.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

import sensitivity as sv
from sensitivity.contracts import Task
from sensitivity.sweep.stopping.jackknife import GROUPS
from sensitivity.tasks.labels import CocoLabels

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

# where VOC, whose classes ESPNetv2 knows, and COCO, whose images are annotated, call a thing differently
COCO_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


@dataclass(frozen=True, kw_only=True)
class RealNet:
    """A trained network with what surrounds it.

    Attributes:
        name: Of its weights' file.
        side: Height and width of its input, in pixels.
        load: Makes it from the folder of weights, in evaluation mode.
        task: Makes the task that scores it of a folder of images and their annotation file.
    """

    name: str
    side: int
    load: Callable[[Path], nn.Module]
    task: Callable[[Path, Path], Task]

    def wrapped(self, data: Path) -> sv.Wrapped:
        """The network, wrapped."""
        return sv.wrap(self.load(data / "weights"), torch.zeros(1, 3, self.side, self.side), name=self.name)

    def split(self, data: Path, split: str) -> Task:
        """Its task on a split of tiny_coco: ``val`` to score on, ``train`` to calibrate on."""
        folder = data / "tiny_coco"
        return self.task(folder / f"{split}2017", folder / "annotations" / f"instances_{split}2017.json")


@cache
def real_nets() -> dict[str, RealNet]:
    """The six networks by name."""
    for folder in ("01_coco_detector", "02_semantic_segmentation"):
        sys.path.insert(0, str(EXAMPLES / folder))
    import detectors
    import espnetv2

    def detector(name: str, key: str) -> RealNet:
        source = detectors.DETECTORS[key]
        return RealNet(
            name=name,
            side=source.preprocess.side,
            load=lambda weights: source.load(weights / f"{name}.safetensors"),
            task=lambda images, annotations: sv.CocoDetection(
                images, annotations, preprocess=source.preprocess, adapter=source.decode, batch_size=10
            ),
        )

    def segmenter(width: str) -> RealNet:
        name = f"espnetv2_{width.replace('.', '_')}_voc384"
        return RealNet(
            name=name,
            side=espnetv2.INPUT_SIDE,
            load=lambda weights: espnetv2.load(weights / f"{name}.safetensors", width=width),
            task=lambda images, annotations: sv.SemanticSegmentation(
                images,
                voc_labels(annotations, espnetv2.CLASSES),
                classes=espnetv2.CLASSES,
                preprocess=espnetv2.preprocess,
                batch_size=5,
            ),
        )

    nets = [
        detector("yolo_fastest_1_1_xl", "yolo-fastest-xl"),
        detector("yolo_fastest_1_1", "yolo-fastest"),
        detector("fastestdet", "fastestdet"),
        *map(segmenter, ("s0.5", "s1.0", "s2.0")),
    ]
    return {net.name: net for net in nets}


def voc_labels(annotations: Path, classes: tuple[str, ...]) -> Any:
    """COCO's objects painted as VOC's classes; a folder of label maps where that is given."""
    if annotations.is_dir():
        return annotations
    ids = {
        category["name"]: category["id"]
        for category in json.loads(annotations.read_text(encoding="utf-8"))["categories"]
    }
    numbers = {ids[COCO_NAMES.get(name, name)]: number for number, name in enumerate(classes) if number > 0}
    return CocoLabels(annotations, classes=numbers)


def views_task(net: RealNet, data: Path, each: int, into: Path) -> Task:
    """The net's task on random views of the images of tiny_coco's val split.

    Args:
        net: One of ``real_nets``.
        data: Folder of the shared data.
        each: Views of each image; the same ones every time, and for every net of a kind.
        into: Folder that they are written to, and read from where it is there.
    """
    task = net.split(data, "val")
    into = into / f"{type(task).__name__}-{each}"
    if not (into / "done").exists():
        write = _write_labelled if isinstance(task, sv.SemanticSegmentation) else _write_annotated
        (into / "images").mkdir(parents=True, exist_ok=True)
        write(task, data, each, into)
        (into / "done").touch()
    labels = into / "labels"
    return net.task(into / "images", labels if labels.is_dir() else into / "instances.json")


def groups_of_views(count: int, each: int) -> list[list[int]]:
    """Positions of views in the groups of a jackknife, all views of an image in one."""
    images = count // each
    groups = min(GROUPS, images)
    return [
        [image * each + view for image in range(first, images, groups) for view in range(each)]
        for first in range(groups)
    ]


@dataclass(frozen=True)
class View:
    """What is seen of an image: a rectangle in pixels, mirrored or not."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool

    def of(self, picture: Image.Image) -> Image.Image:
        """The part of a picture that is seen."""
        shown = picture.crop((self.left, self.top, self.left + self.width, self.top + self.height))
        return ImageOps.mirror(shown) if self.mirrored else shown

    def box(self, box: list[float]) -> list[float] | None:
        """A box (x, y, w, h) as it is seen; None where less than half of it is."""
        x, y, w, h = box
        x0, y0 = max(x - self.left, 0.0), max(y - self.top, 0.0)
        x1, y1 = min(x + w - self.left, float(self.width)), min(y + h - self.top, float(self.height))
        area = max(x1 - x0, 0.0) * max(y1 - y0, 0.0)
        if area == 0.0 or area < 0.5 * w * h:
            return None
        return [self.width - x1 if self.mirrored else x0, y0, x1 - x0, y1 - y0]


def _views(sizes: list[tuple[int, int]], each: int) -> Iterator[tuple[int, View]]:
    """Views of images of these (width, height), image by image; the first of each image is the image itself."""
    draw = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        for view in range(each):
            if view == 0:
                yield number, View(0, 0, *size, mirrored=False)
                continue
            width, height = (round(side * draw.uniform(0.6, 1.0)) for side in size)
            left, top = (int(draw.integers(0, w - v + 1)) for w, v in zip(size, (width, height), strict=True))
            yield number, View(left, top, width, height, mirrored=bool(draw.integers(2)))


def _write_annotated(task: Task, data: Path, each: int, into: Path) -> None:  # noqa: ARG001 - as the other writer
    folder = data / "tiny_coco"
    truth = json.loads((folder / "annotations" / "instances_val2017.json").read_text(encoding="utf-8"))
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    sizes = [(image["width"], image["height"]) for image in truth["images"]]
    for number, view in _views(sizes, each):
        image = truth["images"][number]
        name = f"{len(images):06d}.png"
        with Image.open(folder / "val2017" / image["file_name"]) as picture:
            view.of(picture.convert("RGB")).save(into / "images" / name, compress_level=1)
        images.append({"id": len(images) + 1, "file_name": name, "width": view.width, "height": view.height})
        for known in truth["annotations"]:
            if known["image_id"] == image["id"] and (box := view.box(known["bbox"])) is not None:
                cropped = {"category_id": known["category_id"], "iscrowd": known["iscrowd"], "bbox": box}
                area = known["area"] * (box[2] * box[3]) / (known["bbox"][2] * known["bbox"][3])
                objects.append(cropped | {"area": area, "id": len(objects) + 1, "image_id": len(images)})
    content = {"images": images, "annotations": objects, "categories": truth["categories"]}
    (into / "instances.json").write_text(json.dumps(content), encoding="utf-8")


def _write_labelled(task: Any, data: Path, each: int, into: Path) -> None:  # noqa: ARG001 - as the other writer
    (into / "labels").mkdir(exist_ok=True)
    batches = [
        (image, labels) for batch in task.batches() for image, labels in zip(batch.images, batch.context, strict=True)
    ]
    sizes = [(labels.shape[1], labels.shape[0]) for _, labels in batches]
    for written, (number, view) in enumerate(_views(sizes, each)):
        position, labels = batches[number]
        name = f"{written:06d}.png"
        with Image.open(task._files.paths[position]) as picture:
            view.of(picture.convert("RGB")).save(into / "images" / name, compress_level=1)
        view.of(Image.fromarray(labels.astype(np.uint8))).save(into / "labels" / name)
