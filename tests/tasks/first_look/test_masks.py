"""Masks that a wrong ``segment`` gives are told by what they look like; those of a right or a weak model are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import sensitivity as sv
from sensitivity.contracts import Prompts
from sensitivity.errors import SuspiciousPredictionsWarning
from sensitivity.score import evaluate

Masks: TypeAlias = npt.NDArray[Any]
Change: TypeAlias = Callable[[Masks, Prompts, tuple[int, int]], Masks]
HEIGHT, WIDTH, IMAGES = 60, 90, 5


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five images with three boxes each, filled by their polygons."""
    folder = tmp_path_factory.mktemp("prompted")
    numbers = np.random.default_rng(0)
    annotations = []
    for image in range(1, IMAGES + 1):
        Image.fromarray(numbers.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(folder / f"{image}.png")
        for _ in range(3):
            width, height = (int(side) for side in numbers.integers(9, 22, 2))
            x, y = int(numbers.integers(0, WIDTH - width)), int(numbers.integers(0, HEIGHT - height))
            outline = [x, y, x + width, y, x + width, y + height, x, y + height]
            facts = {"bbox": [x, y, width, height], "area": width * height, "segmentation": [outline], "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": 1, **facts})
    images = [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in range(1, IMAGES + 1)]
    everything = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    path = folder / "annotations.json"
    path.write_text(json.dumps(everything), encoding="utf-8")
    return folder, path


def boxes_of(prompts: Prompts) -> npt.NDArray[np.float64]:
    """The boxes, or squares around the points, that a model would fill."""
    if prompts.boxes is not None:
        return prompts.boxes
    assert prompts.points is not None
    return np.concatenate([prompts.points - 6, prompts.points + 7], axis=1)


def filled(boxes: npt.NDArray[np.float64]) -> Masks:
    masks = np.zeros((len(boxes), 1, HEIGHT, WIDTH), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().astype(int), strict=True):
        mask[0, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    return masks


def segmenting(change: Change) -> Any:
    def segment(_: Any, image: Masks, prompts: Prompts) -> tuple[Masks, Masks]:
        masks = filled(boxes_of(prompts))
        return change(masks, prompts, image.shape[:2]), np.ones((len(prompts), 1))

    return segment


WRONG: dict[str, tuple[Change, str]] = {
    "empty": (lambda masks, *_: np.zeros_like(masks), "100% are empty"),
    "inverted": (lambda masks, *_: ~masks, "cover all but what is pointed at"),
    "probabilities": (lambda masks, *_: np.where(masks, 0.9, 0.1), "give probabilities as masks > 0.5"),
    "prompts of a network of twice the size": (
        lambda _masks, prompts, _size: filled(boxes_of(prompts) / 2),
        "would if x were multiplied by 2 and y were multiplied by 2",
    ),
    "masks with the border of a square": (
        lambda _masks, prompts, _size: filled(boxes_of(prompts) * [1, 1 / 3, 1, 1 / 3] + [0, 20, 0, 20]),
        "would if y were multiplied by 3 and y were shifted by -6[01]",
    ),
    "x and y exchanged": (
        lambda _masks, prompts, _size: filled(boxes_of(prompts)[:, [1, 0, 3, 2]]),
        "would if x and y were exchanged",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_masks_that_a_wrong_segment_gives_are_told_with_what_to_change(scenes: tuple[Path, Path], name: str) -> None:
    change, words = WRONG[name]
    task = sv.PromptedMasks(*scenes, segment=segmenting(change))
    with pytest.warns(SuspiciousPredictionsWarning, match=words):
        evaluate(None, task, unperturbed=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("prompts", ["boxes", "points"])
def test_right_masks_are_not_suspected(scenes: tuple[Path, Path], prompts: str) -> None:
    task = sv.PromptedMasks(*scenes, prompts=prompts, segment=segmenting(lambda masks, *_: masks * np.uint8(255)))
    assert evaluate(None, task, unperturbed=True).value > 0.4  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(8))
def test_masks_of_a_random_model_are_not_suspected(scenes: tuple[Path, Path], seed: int) -> None:
    numbers = np.random.default_rng(seed)

    def random_boxes(_masks: Masks, prompts: Prompts, size: tuple[int, int]) -> Masks:
        corners = numbers.uniform(0, 1, (len(prompts), 2, 2)) * size[::-1]
        return filled(np.concatenate([corners.min(1), corners.max(1) + 1], axis=1))

    task = sv.PromptedMasks(*scenes, segment=segmenting(random_boxes))
    assert evaluate(None, task, unperturbed=True).value < 0.3  # type: ignore[arg-type]


def test_masks_for_a_detectors_boxes_are_looked_at_as_well(scenes: tuple[Path, Path]) -> None:
    annotations = json.loads(scenes[1].read_text(encoding="utf-8"))["annotations"]
    keys = ("image_id", "category_id", "bbox")
    results = [{key: known[key] for key in keys} | {"score": 0.5} for known in annotations]
    task = sv.PromptedMasks(*scenes, prompts=results, segment=segmenting(lambda masks, *_: ~masks))
    with pytest.warns(SuspiciousPredictionsWarning, match="masks prompted by detections: of 9 masks 0% overlap"):
        evaluate(None, task, unperturbed=True)  # type: ignore[arg-type]


def test_a_study_keeps_what_was_suspected(scenes: tuple[Path, Path]) -> None:
    class Filler(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    def segment(model: Any, _image: Masks, prompts: Prompts) -> tuple[Masks, Masks]:
        model(torch.ones(1, 1))
        return ~filled(boxes_of(prompts)), np.ones((len(prompts), 1))

    wrapped, task = sv.wrap(Filler().eval(), torch.ones(1, 1)), sv.PromptedMasks(*scenes, segment=segment)
    with pytest.warns(SuspiciousPredictionsWarning, match="cover all but what is pointed at"):
        study = wrapped.analyze(task, sv.INT8_WEIGHTS, settings=sv.Sweep(workers=None))
    assert any("cover all but what is pointed at" in note for note in study.notes)
