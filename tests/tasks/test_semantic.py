from __future__ import annotations

import json
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sensitivity.contracts import Task
from sensitivity.errors import AnnotationError, ImageError, PredictionError, TaskError
from sensitivity.tasks.datasets import Resize
from sensitivity.tasks.labels import CocoLabels
from sensitivity.tasks.semantic import LabelMaps, SemanticSegmentation
from tests.tasks.made_scenes import Recall, Scenes, predict_all

CLASSES = ("background", "cat", "dog", "hat")
SIZES = ((6, 8), (5, 5), (12, 10))


@dataclass(frozen=True)
class Folders:
    images: Path
    labels: Path
    truths: list[np.ndarray]


def pass_on(outputs: list[Any], sizes: Any) -> list[Any]:
    return outputs


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Three images with random labels of the classes 0, 1, 2 (never 3), some pixels ignored."""
    draw = np.random.default_rng(0)
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    truths = []
    for number, size in enumerate(SIZES):
        truth = draw.choice([0, 1, 2, 255], size, p=[0.5, 0.2, 0.2, 0.1]).astype(np.uint8)
        Image.fromarray(np.full((*size, 3), number, np.uint8)).save(images / f"{number}.png")
        Image.fromarray(truth).save(labels / f"{number}.png")
        truths.append(truth)
    return Folders(images, labels, truths)


def make(folders: Folders, **settings: Any) -> SemanticSegmentation:
    settings = {"classes": CLASSES, "preprocess": Resize(height=4, width=4), "adapter": pass_on, **settings}
    return SemanticSegmentation(folders.images, folders.labels, **settings)


def guesses(folders: Folders) -> list[np.ndarray]:
    """The truth with a third of the pixels guessed, of all four classes."""
    draw = np.random.default_rng(1)
    return [
        np.where(draw.random(truth.shape) < 0.3, draw.integers(0, 4, truth.shape), truth % 255).astype(np.int64)
        for truth in folders.truths
    ]


def test_the_numbers_are_those_of_a_short_count_in_numpy(folders: Folders) -> None:
    label_maps = guesses(folders)
    task = make(folders)
    assert isinstance(task, Task)
    scores = task.score(predict_all(task, Recall(label_maps)))

    truth = np.concatenate([truth.ravel() for truth in folders.truths])
    guess = np.concatenate([label_map.ravel() for label_map in label_maps])
    truth, guess = truth[truth != 255], guess[truth != 255]
    ious = [np.sum((truth == c) & (guess == c)) / np.sum((truth == c) | (guess == c)) for c in range(3)]
    assert scores["mIoU"] == pytest.approx(np.mean(ious), abs=1e-15)
    assert [scores[f"IoU {name}"] for name in CLASSES[:3]] == pytest.approx(ious, abs=1e-15)
    assert math.isnan(scores["IoU hat"])
    assert scores["pixel_accuracy"] == pytest.approx(np.mean(truth == guess), abs=1e-15)


def test_the_mean_of_the_images_own_miou_is_another_number(folders: Folders) -> None:
    task = make(folders)
    predictions = predict_all(task, Recall(guesses(folders)))
    each = [task.score({image: prediction})["mIoU"] for image, prediction in predictions.items()]
    assert abs(np.mean(each) - task.score(predictions)["mIoU"]) > 1e-3


def test_an_absent_class_is_left_out_or_counts_as_zero(folders: Folders) -> None:
    skip, zero = make(folders), make(folders, absent="zero")
    predictions = predict_all(skip, Recall(guesses(folders)))
    assert zero.score(predictions)["mIoU"] == pytest.approx(skip.score(predictions)["mIoU"] * 3 / 4, abs=1e-15)
    assert zero.score(predictions)["IoU hat"] == 0.0
    assert zero.digest() != skip.digest()


def test_pixels_to_ignore_count_nowhere(folders: Folders) -> None:
    label_maps = guesses(folders)
    task = make(folders)
    before = predict_all(task, Recall(label_maps))
    for guess, truth in zip(label_maps, folders.truths, strict=True):
        guess[truth == 255] = 3
    after = predict_all(task, Recall(label_maps))
    for image in before:
        np.testing.assert_array_equal(before[image]["confusion"], after[image]["confusion"])
        assert after[image]["confusion"].sum() == np.sum(folders.truths[image] != 255)
        assert after[image]["confusion"].dtype == np.int64


def test_another_ignore_label_can_be_set(folders: Folders) -> None:
    with pytest.raises(AnnotationError, match=r"of 0\.png has the labels \[255\]; expected 0 to 3, or 254 to ignore"):
        list(make(folders, ignore_label=254).batches())
    classes = [str(number) for number in range(256)]
    task = make(folders, ignore_label=0, classes=classes)
    prediction = predict_all(task, Recall([np.where(truth == 0, 9, truth) for truth in folders.truths]))
    scores = task.score(prediction)
    assert scores["mIoU"] == scores["IoU 255"] == 1.0
    assert math.isnan(scores["IoU 0"])


def test_nothing_but_ignored_pixels_scores_nan(folders: Folders) -> None:
    Image.fromarray(np.full(SIZES[0], 255, np.uint8)).save(folders.labels / "0.png")
    task = make(folders, limit=1)
    scores = task.score(predict_all(task, Recall([np.zeros(SIZES[0], int)])))
    assert math.isnan(scores["mIoU"])
    assert math.isnan(scores["pixel_accuracy"])


@pytest.mark.parametrize("wrap", [lambda scores: scores, lambda scores: {"out": scores, "aux": None}])
def test_scores_of_a_real_network_become_label_maps_of_the_original_size(wrap: Any) -> None:
    scores = torch.randn(2, 4, 9, 7, generator=torch.Generator().manual_seed(0))
    sizes = [(20, 30), (5, 4)]
    nearest = F.interpolate(scores.argmax(1)[:, None].double(), sizes[0], mode="nearest-exact")[0, 0]
    np.testing.assert_array_equal(LabelMaps()(wrap(scores), sizes)[0], nearest.numpy())
    smooth = F.interpolate(scores[1:], sizes[1], mode="bilinear", align_corners=False).argmax(1)[0]
    np.testing.assert_array_equal(LabelMaps(resize="scores")(wrap(scores), sizes)[1], smooth.numpy())


def test_label_maps_are_made_from_scores_by_default(folders: Folders) -> None:
    def network(images: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(len(images), 4, 4, 4)
        scores[:, 1] = 1.0
        return scores

    task = make(folders, adapter=None)
    confusion = predict_all(task, network)[0]["confusion"]
    assert confusion[:, 1].sum() == confusion.sum() == np.sum(folders.truths[0] != 255)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (torch.zeros(2, 4, 3), r"the model returned \(2, 4, 3\) for 2 images; expected class scores"),
        (torch.zeros(1, 4, 3, 3), r"returned \(1, 4, 3, 3\) for 2 images"),
        ([1, 2], "the model returned list"),
        (torch.full((2, 4, 3, 3), torch.nan), "class scores are NaN"),
    ],
)
def test_outputs_that_are_no_class_scores_are_refused(outputs: Any, message: str) -> None:
    with pytest.raises(PredictionError, match=message):
        LabelMaps()(outputs, [(4, 4), (4, 4)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda label_map: label_map[:-1], r"label map is int64 \(5, 8\); expected integers \(6, 8\)"),
        (lambda label_map: label_map.astype(float), r"label map is float64 \(6, 8\)"),
        (lambda label_map: label_map + 4, "classes 4 to 7; expected 0 to 3"),
        (lambda label_map: label_map - 9, "classes -9 to"),
    ],
)
def test_predicted_label_maps_that_do_not_fit_are_refused(folders: Folders, change: Any, message: str) -> None:
    label_maps = guesses(folders)
    with pytest.raises(PredictionError, match=message):
        predict_all(make(folders), Recall([change(label_maps[0]), *label_maps[1:]]))


def test_an_adapter_must_answer_for_every_image(folders: Folders) -> None:
    with pytest.raises(PredictionError, match="2 label maps for 3 images"):
        predict_all(make(folders, adapter=lambda outputs, sizes: outputs[:2]), Recall(guesses(folders)))


def test_the_labels_of_coco_instances_can_be_the_truth(scenes: Scenes) -> None:
    source = CocoLabels(scenes.annotations, classes={3: 1, 5: 2})
    task = SemanticSegmentation(
        scenes.images, source, classes=CLASSES[:3], preprocess=Resize(height=4, width=4), adapter=pass_on
    )
    perfect = Recall([source.read(position) for position in range(3)])
    assert task.score(predict_all(task, perfect))["mIoU"] == 1.0
    crowd = json.loads(scenes.annotations.read_text())
    assert len(task) == len(crowd["images"])


def test_scores_do_not_depend_on_the_batch_size(folders: Folders) -> None:
    single, all_at_once = make(folders, batch_size=1), make(folders, batch_size=3)
    model = Recall(guesses(folders))
    assert [batch.images for batch in single.batches([2, 0])] == [(2,), (0,)]
    expected = pytest.approx(all_at_once.score(predict_all(all_at_once, model)), nan_ok=True, abs=0)
    assert single.score(predict_all(single, model)) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "IoU bird"}, "metric='IoU bird' is unknown. Choose one of mIoU, pixel_accuracy, IoU background"),
        ({"absent": "nan"}, "absent='nan' is unknown"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_unknown_settings_are_refused(folders: Folders, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make(folders, **settings)


def test_data_that_is_not_sound_is_refused(folders: Folders) -> None:
    with pytest.raises(TaskError, match="resize='area'"):
        LabelMaps(resize="area")
    with pytest.raises(TaskError, match="no predictions to score"):
        make(folders).score({})
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folders.labels / "2.png")
    with pytest.raises(AnnotationError, match=r"label map of 2\.png is 9 x 9 pixels .* the image 12 x 10"):
        list(make(folders).batches())
    (folders.images / "1.png").unlink()
    with pytest.raises(ImageError, match=r"1 of 3 images are not in .*1\.jpg"):
        make(folders)


def test_the_digest_names_everything_that_scores_depend_on(folders: Folders) -> None:
    base = make(folders).digest()
    assert make(folders, name="other", batch_size=2).digest() == base
    others = [
        make(folders, preprocess=Resize(height=4, width=5)),
        make(folders, adapter=LabelMaps()),
        make(folders, adapter=LabelMaps(resize="scores")),
        make(folders, ignore_label=0),
        make(folders, classes=("a", "b", "c", "d")),
        make(folders, metric="IoU cat"),
        make(folders, limit=2),
    ]
    assert len({base, *(other.digest() for other in others)}) == 8
    assert pickle.loads(pickle.dumps(make(folders))).digest() == base


def one_channel(positive: float, negative: float) -> torch.Tensor:
    scores = torch.full((1, 1, 4, 6), negative)
    scores[:, :, 1:3, 2:5] = positive
    return scores


@pytest.mark.parametrize(("threshold", "scores"), [(0.0, one_channel(3.0, 0.0)), (0.5, one_channel(0.6, 0.4))])
@pytest.mark.parametrize("resize", ["labels", "scores"])
def test_one_channel_is_two_classes_from_a_threshold_on(threshold: float, scores: torch.Tensor, resize: str) -> None:
    [labels] = LabelMaps(resize=resize, threshold=threshold)(scores, [(4, 6)], classes=2)
    np.testing.assert_array_equal(labels, (scores[0, 0] > threshold).numpy())


@pytest.mark.parametrize(
    ("settings", "channels", "classes", "message"),
    [
        ({}, 1, 2, r"one channel for two classes.*threshold=0\.0"),
        ({}, 1, 3, "scores of 1 channels for 3 classes"),
        ({}, 2, 4, "scores of 2 channels for 4 classes"),
        ({"threshold": 0.5}, 2, 2, r"scores of 2 channels, but LabelMaps\(threshold=0.5\) is for one"),
        ({"threshold": 0.5}, 1, 3, "scores of 2 channels for 3 classes"),
    ],
)
def test_scores_of_too_few_channels_are_refused(
    settings: dict[str, Any], channels: int, classes: int, message: str
) -> None:
    with pytest.raises(PredictionError, match=message):
        LabelMaps(**settings)(torch.zeros(1, channels, 4, 6), [(4, 6)], classes=classes)


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(TaskError, match=r"threshold=nan\) is no finite number"):
        LabelMaps(threshold=float("nan"))


def test_a_task_tells_its_label_maps_how_many_classes_it_has(folders: Folders) -> None:
    with pytest.raises(PredictionError, match="scores of 2 channels for 4 classes"):
        predict_all(make(folders, adapter=None), lambda images: torch.zeros(len(images), 2, 4, 4))
