"""Wrong labels of pixels are told from the first predictions, and weak or random networks are not blamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import AnnotationError, SuspiciousPredictionsWarning, TaskError
from sensitivity.tasks.datasets import Resize
from sensitivity.tasks.labels import PngLabels
from sensitivity.tasks.semantic import LabelMaps, SemanticSegmentation
from tests.tasks.made_scenes import Recall, predict_all

SIZE = (12, 16)
CLASSES = ("background", "road", "tree", "sky")


def pass_on(outputs: list[Any], sizes: Any) -> list[Any]:
    return outputs


def truths(classes: int, count: int = 6) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.choice(classes, SIZE, p=[0.7, *[0.3 / (classes - 1)] * (classes - 1)]) for _ in range(count)]


def write(folder: Path, labels: list[np.ndarray]) -> tuple[Path, Path]:
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number, label in enumerate(labels):
        Image.fromarray(np.full((*SIZE, 3), number, np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(label.astype(np.uint8)).save(folder / "labels" / f"{number}.png")
    return folder / "images", folder / "labels"


def suspicion(folder: Path, labels: list[np.ndarray], predicted: list[np.ndarray], **settings: Any) -> str | None:
    images, maps = write(folder, labels)
    settings = {"classes": CLASSES, "preprocess": Resize(height=4, width=4), "adapter": pass_on} | settings
    task = SemanticSegmentation(images, maps, **settings)
    return task.suspicion(predict_all(task, Recall(predicted)))


def test_label_maps_that_count_from_one_are_told(tmp_path: Path) -> None:
    truth = truths(3)
    text = suspicion(tmp_path, [label + 1 for label in truth], truth)
    assert text is not None
    assert "predicted for 0% of the pixels (mean over 3 classes)" in text
    assert "agree if predicted classes are one higher" in text


def test_channels_that_count_the_background_first_are_told(tmp_path: Path) -> None:
    truth = truths(3)
    text = suspicion(tmp_path, truth, [label + 1 for label in truth])
    assert text is not None
    assert "agree if predicted classes are one lower" in text


def test_classes_in_another_order_are_told(tmp_path: Path) -> None:
    truth = truths(4)
    text = suspicion(tmp_path, truth, [np.array([2, 0, 3, 1])[label] for label in truth])
    assert text is not None
    assert "predicted 2 stands for 0, 0 for 1, 3 for 2" in text


@pytest.mark.parametrize("constant", [None, 0, 1, 2, 3])
def test_right_random_and_constant_predictions_are_not_suspected(tmp_path: Path, constant: int | None) -> None:
    truth, draw = truths(4), np.random.default_rng(1)
    if constant is None:
        assert suspicion(tmp_path, truth, truth) is None
        for seed in range(10):
            (tmp_path / str(seed)).mkdir()
            guesses = [draw.integers(0, 4, SIZE) for _ in truth]
            assert suspicion(tmp_path / str(seed), truth, guesses) is None
    else:
        assert suspicion(tmp_path, truth, [np.full(SIZE, constant) for _ in truth]) is None


def test_masks_of_0_and_255_are_told_and_can_be_read(tmp_path: Path) -> None:
    truth = truths(2)
    images, maps = write(tmp_path, [label * 255 for label in truth])
    settings: dict[str, Any] = {
        "classes": ("no", "yes"),
        "preprocess": Resize(height=4, width=4),
        "adapter": pass_on,
    }
    task = SemanticSegmentation(images, maps, **settings)
    predictions = predict_all(task, Recall([np.zeros(SIZE, np.int64) for _ in truth]))
    assert task.score(predictions)["mIoU"] == 1.0
    text = task.suspicion(predictions)
    assert text is not None
    assert "every pixel is 'no' or has the label 255 (3" in text
    assert "PngLabels(folder, values={0: 0, 255: 1})" in text

    read = SemanticSegmentation(images, PngLabels(maps, values={0: 0, 255: 1}), **settings)
    predictions = predict_all(read, Recall(truth))
    assert read.score(predictions)["mIoU"] == 1.0
    assert read.suspicion(predictions) is None
    assert read.digest() != task.digest()
    with pytest.raises(AnnotationError, match=r"labels \[255\].*For masks of 0 and 255 give PngLabels"):
        list(SemanticSegmentation(images, maps, **settings, ignore_label=7).batches())


def test_label_maps_of_background_alone_with_ignored_borders_are_not_suspected(tmp_path: Path) -> None:
    borders = [np.zeros(SIZE, np.int64) for _ in range(6)]
    borders[2][3:5] = 255
    assert suspicion(tmp_path, borders, [np.zeros(SIZE, np.int64) for _ in borders]) is None


def test_values_of_label_maps_are_read_as_classes_and_unknown_ones_refused(tmp_path: Path) -> None:
    _, maps = write(tmp_path, [np.array([[0, 1], [2, 2]]).repeat(6, 0).repeat(8, 1)])
    read = PngLabels(maps, values={0: 255, 1: 0, 2: 1}).read(0)
    np.testing.assert_array_equal(read[::6, ::8], [[255, 0], [1, 1]])
    with pytest.raises(AnnotationError, match=r"0\.png has the values \[2\], which values= does not name"):
        PngLabels(maps, values={0: 255, 1: 0}).read(0)
    for wrong in ({}, {0: -1}, {0: 0.5}, {"a": 1}, [0, 1], {0: 2**20}):
        with pytest.raises(TaskError, match="values="):
            PngLabels(maps, values=wrong)  # type: ignore[arg-type]
    task = {"classes": ("a", "b"), "preprocess": Resize(height=4, width=4)}
    with pytest.raises(AnnotationError, match=r"labels \[2\].*If labels count from 1"):
        list(SemanticSegmentation(tmp_path / "images", maps, **task).batches())


def test_one_class_alone_and_a_fitted_border_are_refused(tmp_path: Path) -> None:
    images, maps = write(tmp_path, truths(2))
    with pytest.raises(TaskError, match="with one class every prediction is right"):
        SemanticSegmentation(images, maps, classes=("a",), preprocess=Resize(height=4, width=4))
    fitted = Resize(height=4, width=4, keep_aspect=True)
    with pytest.raises(TaskError, match=r"Resize\(keep_aspect=True\) fills a border"):
        SemanticSegmentation(images, maps, classes=("a", "b"), preprocess=fitted)
    SemanticSegmentation(images, maps, classes=("a", "b"), preprocess=fitted, adapter=pass_on)


class ByChannel(nn.Module):
    """Scores of four classes: one convolution, the truth of flat images after it, moved by some channels."""

    def __init__(self, moved: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.moved = moved

    def forward(self, images: Tensor) -> Tensor:
        labels = (images[:, 0] * 255).round().long()
        return nn.functional.one_hot(labels, 4).movedim(3, 1).roll(self.moved, 1) + 0 * self.conv(images)


@pytest.mark.parametrize("scale", [1, 2])
def test_a_sweep_warns_of_shifted_classes_whatever_the_size_of_the_logits(tmp_path: Path, scale: int) -> None:
    images, maps = write(tmp_path, [np.full(SIZE, number % 4) for number in range(4)])
    preprocess = Resize(height=SIZE[0] * scale, width=SIZE[1] * scale)
    scores = LabelMaps(resize="scores" if scale == 2 else "labels")
    task = SemanticSegmentation(images, maps, classes=CLASSES, preprocess=preprocess, adapter=scores)
    example = torch.zeros(1, 3, SIZE[0] * scale, SIZE[1] * scale)
    right = sv.wrap(ByChannel(0).eval(), example)
    assert right.evaluate(task).value == 1.0
    wrapped = sv.wrap(ByChannel(1).eval(), example)
    with pytest.warns(SuspiciousPredictionsWarning, match="predicted for 0% of the pixels"):
        study = wrapped.analyze(task, sv.INT8_WEIGHTS, progress=False)
    assert any("predicted for 0% of the pixels" in note for note in study.notes)
