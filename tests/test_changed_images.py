"""The images that a scheme changes most: a small detector whose changes are known by hand, and what cannot be shown."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import StudyError, TaskError
from tests.tasks.made_scenes import Scenes, annotation, truth_as_output, write_scenes

CAT, DOG = 3, 5
FAR = (50.0, 30.0, 20.0, 20.0)
ANNOTATIONS = [
    annotation(1, 10, CAT, (5, 5, 20, 30)),
    annotation(2, 11, CAT, (5, 5, 20, 30)),
    annotation(3, 11, DOG, (40, 10, 35, 40)),
    annotation(4, 12, DOG, (0, 0, 20, 20)),
    annotation(5, 13, DOG, FAR),
]
COARSE = sv.Recipe("coarse", activations=sv.QuantSpec("int2"))
"""Codes 0 and 1 alone for colours from 0 to 3: colour 1 becomes 0 and colour 2 becomes 3."""


class Colour(nn.Module):
    """Gives the colour of an image, by which its objects are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1, bias=False)
        self.layer.weight.data = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        colour: Tensor = self.layer(x)
        return colour


def plain_image(image: Any) -> Tensor:
    return torch.full((3, 8, 8), float(image[0, 0, 0]) / 255)


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    return write_scenes(tmp_path / "scenes", [(60, 80)] * 4, ANNOTATIONS)


@pytest.fixture
def task(scenes: Scenes) -> sv.CocoDetection:
    truth = truth_as_output(scenes)

    def objects(outputs: Tensor, _: Any) -> list[Any]:
        return [truth[round(float(output[0, 0, 0]) * 255)] for output in outputs]

    return sv.CocoDetection(
        scenes.images, scenes.annotations, preprocess=plain_image, adapter=objects, labels="category_id", batch_size=3
    )


@pytest.fixture
def wrapped() -> sv.Wrapped:
    return sv.wrap(Colour().eval(), torch.zeros(1, 3, 8, 8), name="colour")


def changed(wrapped: sv.Wrapped, task: sv.CocoDetection, **settings: Any) -> sv.ChangedImages:
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 8, 8) / 255
    return wrapped.changed_images(task, sv.Scheme.all(COARSE), calibration=images, **settings)


def test_the_images_whose_own_ap_changes_most_come_first(wrapped: sv.Wrapped, task: sv.CocoDetection) -> None:
    images = changed(wrapped, task)
    assert [image.name for image in images] == ["2.png", "1.png"]
    assert [image.before.score for image in images] == pytest.approx([1.0, 1.0])
    # the dog of image 2 is found where that of image 3 is, and of the two classes of image 1 one is still found
    assert [image.after.score for image in images] == pytest.approx([0.0, 0.5])
    assert [image.change for image in images] == pytest.approx([-1.0, -0.5])
    assert (images.images, images.metric, images.model) == (4, "AP", "colour")
    alone = task.score({1: {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, np.int64)}})
    assert alone["AP"] == 0.0


def test_boxes_are_those_of_the_model_in_float_and_quantized(wrapped: sv.Wrapped, task: sv.CocoDetection) -> None:
    moved, halved = changed(wrapped, task)
    assert [(box.label, box.corners) for box in moved.before.boxes] == [("dog", (0.0, 0.0, 20.0, 20.0))]
    assert [(box.label, box.corners) for box in moved.after.boxes] == [("dog", (50.0, 30.0, 70.0, 50.0))]
    assert [(box.label, box.score) for box in halved.before.boxes] == [("cat", pytest.approx(0.9)), ("dog", 0.5)]
    assert [box.label for box in halved.after.boxes] == ["cat"]
    assert "lost: dog 0.50" in repr(changed(wrapped, task))


def test_fewer_images_and_better_boxes_are_shown_where_asked_for(wrapped: sv.Wrapped, task: sv.CocoDetection) -> None:
    assert [image.name for image in changed(wrapped, task, top=1)] == ["2.png"]
    _, halved = changed(wrapped, task, least_score=0.6)
    assert [box.label for box in halved.before.boxes] == ["cat"]


def test_pictures_are_small_copies_of_the_images(wrapped: sv.Wrapped, task: sv.CocoDetection, scenes: Scenes) -> None:
    Image.fromarray(np.full((60, 80, 3), 2, np.uint8)).resize((800, 600)).save(scenes.images / "2.png")
    scenes.edit(lambda plain: plain["images"][2].update(width=800, height=600))
    large = sv.CocoDetection(
        scenes.images, scenes.annotations, preprocess=plain_image, adapter=task._adapter, labels="category_id"
    )
    image = changed(wrapped, large)[0]
    assert (image.width, image.height) == (800, 600)
    opened = Image.open(io.BytesIO(image.jpeg))
    assert (opened.format, opened.size) == ("JPEG", (320, 240))
    assert np.asarray(opened).mean() == pytest.approx(2.0, abs=1.0)


def test_a_scheme_that_changes_nothing_shows_nothing(wrapped: sv.Wrapped, task: sv.CocoDetection) -> None:
    images = wrapped.changed_images(task, sv.Scheme())
    assert len(images) == 0
    assert repr(images) == "colour on COCO bbox, left in float: the AP of none of 4 images, each by itself, changes"


def test_the_model_is_left_as_it_was(wrapped: sv.Wrapped, task: sv.CocoDetection) -> None:
    weight = wrapped.model.layer.weight
    before = (weight.data_ptr(), weight.detach().clone())
    changed(wrapped, task)
    assert (wrapped.model.layer.weight.data_ptr(), before[0]) == (before[0], weight.data_ptr())
    assert torch.equal(wrapped.model.layer.weight, before[1])
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in wrapped.model.modules())


def test_they_come_back_from_a_file_and_stand_on_three_pages(
    wrapped: sv.Wrapped, task: sv.CocoDetection, tmp_path: Path
) -> None:
    images = changed(wrapped, task)
    images.save(tmp_path / "images.json")
    assert sv.ChangedImages.load(tmp_path / "images.json") == images
    study = wrapped.analyze(sv.FeatureFidelity(torch.ones(2, 3, 8, 8)), sv.INT8_WEIGHTS, progress=False)
    images.to_html(tmp_path / "images.html")
    study.to_html(tmp_path / "study.html", changed_images=images)
    for page in ("images.html", "study.html"):
        text = (tmp_path / page).read_text()
        assert text.count("<figure") == 2
        assert "2.png: AP of this image 100.0 %, then 0.0 % (-100.0 points)" in text
    assert images._repr_html_().count("<figure") == 2


def test_what_cannot_be_shown_is_refused(wrapped: sv.Wrapped, task: sv.CocoDetection) -> None:
    with pytest.raises(TaskError, match="cannot show its images: a FeatureFidelity has no methods picture and seen"):
        wrapped.changed_images(sv.FeatureFidelity(torch.ones(2, 3, 8, 8)), sv.Scheme())
    with pytest.raises(StudyError, match="top=0: give 1 or more"):
        wrapped.changed_images(task, sv.Scheme(), top=0)
    with pytest.raises(StudyError, match="least_score=nan: give a number"):
        wrapped.changed_images(task, sv.Scheme(), least_score=float("nan"))


class Brightness(nn.Module):
    """Says of each pixel whether its colour is 1 or more."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)
        self.layer.weight.data = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).reshape(2, 3, 1, 1)
        self.layer.bias.data = torch.tensor([0.5 / 255, 0.0])  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layer(x)
        return scores


def test_pixels_that_get_another_class_are_counted_and_marked(tmp_path: Path) -> None:
    colours = np.tile(np.arange(4, dtype=np.uint8), (4, 1))
    for folder, pixels in (("images", np.repeat(colours[..., None], 3, axis=2)), ("labels", (colours > 0) * 1)):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / "0.png")
    task = sv.SemanticSegmentation(
        tmp_path / "images", tmp_path / "labels", classes=["dark", "bright"], preprocess=sv.Resize(height=4, width=4)
    )
    wrapped = sv.wrap(Brightness().eval(), torch.zeros(1, 3, 4, 4))
    (image,) = wrapped.changed_images(task, sv.Scheme.all(COARSE), calibration=next(task.batches()).inputs[0])
    assert image.before.score == 1.0
    assert image.after.score == pytest.approx((4 / 8 + 8 / 12) / 2)  # the second column becomes dark
    assert image.changed_pixels == 0.25
    assert image.overlay is not None
    overlay = np.asarray(Image.open(io.BytesIO(image.overlay)).convert("RGBA"))
    assert (overlay[..., 3] == [[0, 255, 0, 0]] * 4).all()
