"""What tasks show of an image and of a model's answer: the pixels of the file, and what ``predict`` was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import sensitivity as sv
from sensitivity.contracts import Seen, ShownImage, ShowsImages
from sensitivity.errors import TaskError
from sensitivity.tasks.shown import tensor_as_pixels
from sensitivity.testing.tasks import TaskSuite
from tests.tasks.made_scenes import ANNOTATIONS, SIZES, Recall, adapter, truth_as_output, write_scenes


def plain_image(image: Any) -> Tensor:
    return torch.full((3, 8, 8), float(image[0, 0, 0]) / 255)


def test_a_detector_shows_its_boxes_with_the_names_of_their_classes_the_best_first(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path, SIZES, ANNOTATIONS)
    truth = truth_as_output(scenes)
    truth[0]["scores"] = torch.tensor([0.2, 0.7])
    task = sv.CocoDetection(
        scenes.images, scenes.annotations, preprocess=plain_image, adapter=adapter, labels="category_id"
    )
    (seen,) = task.seen(Recall(truth), next(task.batches([0])))
    assert seen.labels == ["dog", "cat"]
    assert list(seen.scores) == pytest.approx([0.7, 0.2])
    assert seen.boxes.tolist() == [[40.0, 10.0, 75.0, 50.0], [5.0, 5.0, 25.0, 35.0]]
    assert seen.pixels is None
    picture = task.picture(2)
    assert picture.name == "2.png"
    assert np.array_equal(picture.pixels, np.full((120, 100, 3), 2, np.uint8))
    with pytest.raises(TaskError, match="no image at position 3"):
        task.picture(3)


def test_masks_are_shown_as_the_category_of_each_pixel_and_boxes_around_them(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path, SIZES, ANNOTATIONS)
    task = sv.CocoDetection(
        scenes.images, scenes.annotations, preprocess=plain_image, adapter=adapter, labels="category_id",
        iou_type="segm",
    )  # fmt: skip
    (seen,) = task.seen(Recall(truth_as_output(scenes)), next(task.batches([0])))
    expected = np.full(SIZES[0], -1)
    expected[10:50, 40:75] = 5
    expected[5:35, 5:25] = 3
    assert np.array_equal(seen.pixels, expected)
    assert seen.boxes.tolist() == [[5.0, 5.0, 25.0, 35.0], [40.0, 10.0, 75.0, 50.0]]


def test_poses_are_shown_as_the_boxes_around_their_keypoints(tmp_path: Path) -> None:
    posed = [annotation | {"keypoints": [1.0, 1.0, 2, 4.0, 8.0, 2]} for annotation in ANNOTATIONS]
    scenes = write_scenes(tmp_path, SIZES, posed)
    points = torch.tensor([[[4.0, 9.0], [1.0, 30.0]]])
    output = {"keypoints": points, "scores": torch.tensor([0.5]), "labels": torch.tensor([3])}
    task = sv.CocoKeypoints(
        scenes.images, scenes.annotations, preprocess=plain_image, adapter=adapter, labels="category_id",
        sigmas=[0.1, 0.1],
    )  # fmt: skip
    (seen,) = task.seen(Recall([output]), next(task.batches([0])))
    assert seen.boxes.tolist() == [[1.0, 9.0, 4.0, 30.0]]


def test_a_segmentation_shows_the_class_of_each_pixel(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "images" / "0.png")
    truth = np.array([[0, 0, 1, 1]] * 4, np.uint8)
    Image.fromarray(truth).save(tmp_path / "labels" / "0.png")
    task = sv.SemanticSegmentation(
        tmp_path / "images", tmp_path / "labels", classes=["ground", "cat"], preprocess=sv.Resize(height=4, width=4)
    )
    answer = torch.tensor([[0, 1, 1, 1]] * 4)

    def model(x: Tensor) -> Tensor:
        return torch.stack([1.0 - answer, answer * 1.0])[None]

    batch = next(task.batches())
    (seen,) = task.seen(model, batch)
    assert np.array_equal(seen.pixels, answer.numpy())
    assert task.predict(model, batch)[0]["confusion"].tolist() == [[4, 4], [0, 8]]
    assert np.array_equal(task.picture(0).pixels, pixels)


def test_a_classification_shows_the_best_class_and_the_true_one_by_name(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(tmp_path / name / "a.png")
    task = sv.Classification(tmp_path, preprocess=sv.Resize(height=4, width=4))

    def model(x: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0], [0.0, 1.0]])

    assert [seen.answer for seen in task.seen(model, next(task.batches()))] == ["dog", "dog"]
    assert [(task.picture(place).name, task.picture(place).answer) for place in (0, 1)] == [
        ("cat/a.png", "cat"), ("dog/a.png", "dog"),
    ]  # fmt: skip
    tensors = sv.Classification(torch.rand(2, 3, 4, 4), labels=[0, 1])
    assert [seen.answer for seen in tensors.seen(model, next(tensors.batches()))] == ["class 1", "class 1"]
    assert (tensors.picture(1).name, tensors.picture(1).answer) == ("image 1", "class 1")


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_tensor_is_shown_from_its_smallest_value_to_its_largest(channels: int) -> None:
    image = np.linspace(-2.0, 3.0, channels * 6).reshape(channels, 2, 3)
    pixels = tensor_as_pixels(image)
    assert (pixels.shape, pixels.dtype) == ((2, 3, 3), np.uint8)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert not tensor_as_pixels(np.full((channels, 2, 3), np.nan)).any()


class Half:
    """Segments the left half of the image for the first prompt, and all of it for the others."""

    def preprocess(self, image: Any) -> Any:
        return image

    def encode(self, x: Any) -> Any:
        return x

    def predict_masks(self, embedding: Any, *, original_size: tuple[int, int], **prompts: Any) -> Any:
        masks = torch.ones(len(prompts["boxes"]), 1, *original_size)
        masks[0, 0, :, original_size[1] // 2 :] = -1.0
        return masks, torch.ones(len(masks), 1)


def test_prompted_masks_are_shown_as_the_prompt_of_each_pixel_the_first_on_top(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path, SIZES, ANNOTATIONS)
    task = sv.PromptedMasks(scenes.images, scenes.annotations)
    (seen,) = task.seen(Half(), next(task.batches([0])))
    expected = np.zeros(SIZES[0], np.int64)
    expected[:, 40:] = 1
    assert np.array_equal(seen.pixels, expected)
    assert task.picture(1).pixels.shape == (50, 50, 3)


def test_tasks_without_images_of_their_own_do_not_claim_to_show_any() -> None:
    assert not isinstance(sv.FeatureFidelity(torch.ones(2, 3, 4, 4)), ShowsImages)
    assert not isinstance(sv.callback_task(lambda model: 1.0), ShowsImages)
    assert isinstance(sv.Classification(torch.rand(2, 3, 4, 4), labels=[0, 1]), ShowsImages)


class Faulty(sv.Classification):
    """Shows its images with one thing wrong."""

    def __init__(self, fault: str) -> None:
        super().__init__(torch.rand(2, 3, 4, 4), labels=[0, 1])
        self.fault = fault

    def picture(self, position: int) -> ShownImage:
        shown = super().picture(position)
        return ShownImage("image", shown.pixels / 255) if self.fault == "fractions" else shown  # type: ignore[arg-type]

    def seen(self, model: Any, batch: Any) -> list[Seen]:
        boxes, scores = np.zeros((2, 4)), [0.5, 0.9] if self.fault == "the worst first" else [0.9, 0.5]
        labels = ["cat"] if self.fault == "too few labels" else ["cat", "dog"]
        pixels = np.zeros((2, 2) if self.fault == "small pixels" else (4, 4))
        seen = [Seen(boxes=boxes, labels=labels, scores=scores, pixels=pixels) for _ in batch.images]
        return seen[1:] if self.fault == "too few images" else seen


@pytest.mark.parametrize("fault", ["fractions", "the worst first", "too few labels", "small pixels", "too few images"])
def test_the_suite_finds_what_is_wrong_with_what_a_task_shows(fault: str) -> None:
    check = TaskSuite().test_images_and_what_a_model_says_about_them_can_be_looked_at
    check(Faulty("nothing"), None)
    with pytest.raises(AssertionError):
        check(Faulty(fault), None)
