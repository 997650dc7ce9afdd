"""Classification against torchmetrics and hand-made scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

import sensitivity as sv
from sensitivity.errors import AnnotationError, ImageError, PredictionError, TaskError
from sensitivity.testing.tasks import TaskSuite


def predictions_of(task, model):
    return {i: p for batch in task.batches() for i, p in zip(batch.images, task.predict(model, batch), strict=True)}


def score_rows(scores, labels, **settings):
    """The metrics where the model returns these scores for the images."""
    scores = torch.as_tensor(scores)
    task = sv.Classification(scores[:, :, None, None], labels, **settings)
    return task.score(predictions_of(task, lambda x: x.flatten(1)))


@pytest.fixture
def folder(tmp_path):
    """Three classes with images of one colour: 2 cats (red), 1 dog (green), 2 eels (blue)."""
    for name, colour, count in (("dog", (0, 255, 0), 1), ("cat", (255, 0, 0), 2), ("eel", (0, 0, 255), 2)):
        (tmp_path / name / "deeper").mkdir(parents=True)
        for i in range(count):
            place = "deeper/" if i else ""
            Image.fromarray(np.full((6, 8, 3), colour, np.uint8)).save(tmp_path / name / f"{place}{i}.png")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    return tmp_path


def by_colour(x):
    return x.mean((2, 3))


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    return sv.Classification(torch.randn(11, 3, 6, 6), torch.randint(0, 8, (11,)), batch_size=4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8)).eval()


class TestClassification(TaskSuite):
    pass


@pytest.mark.parametrize("seed", range(5))
def test_top1_and_top5_equal_torchmetrics(seed):
    draw = torch.Generator().manual_seed(seed)
    scores, labels = torch.randn(40, 12, generator=draw), torch.randint(0, 12, (40,), generator=draw)
    own_scores = score_rows(scores, labels, batch_size=7)
    for name, within in (("top1", 1), ("top5", 5)):
        accuracy = MulticlassAccuracy(12, top_k=within, average="micro")
        accuracy.update(scores, labels)
        assert own_scores[name] == pytest.approx(float(accuracy.compute()), abs=1e-7)


def test_of_equal_scores_the_class_with_the_smaller_number_stands_first():
    scores = [[1.0, 1.0, 0.0]] * 3
    assert score_rows(scores, [0, 1, 2])["top1"] == pytest.approx(1 / 3)


def test_five_classes_are_all_among_the_five_best():
    assert score_rows(torch.eye(5), [4, 3, 2, 1, 0])["top5"] == 1.0


def test_a_folder_is_read_class_by_class_in_alphabetical_order(folder):
    task = sv.Classification(folder, preprocess=sv.Resize(height=4, width=4), metric="top1", batch_size=2)
    assert len(task) == 5
    assert [p["best"] for p in predictions_of(task, by_colour).values()] == [0, 0, 1, 2, 2]
    assert task.score(predictions_of(task, by_colour))["top1"] == 1.0


def test_classes_give_the_order_of_the_outputs(folder):
    task = sv.Classification(
        folder, classes=["eel", "newt", "dog", "cat"], preprocess=sv.Resize(height=4, width=4), limit=3
    )
    ranks = [p["rank"] for p in predictions_of(task, lambda x: torch.eye(4)[[3, 3, 2]][: len(x)]).values()]
    assert ranks == [0, 0, 0]


def test_logits_are_found_in_a_dict_and_in_an_object():
    class Output:
        logits = torch.eye(2)

    task = sv.Classification(torch.rand(2, 3, 4, 4), [0, 1])
    for outputs in ({"logits": torch.eye(2)}, Output()):
        assert task.score(predictions_of(task, lambda x, outputs=outputs: outputs))["top1"] == 1.0


def test_an_adapter_makes_scores_of_other_outputs():
    task = sv.Classification(torch.rand(2, 3, 4, 4), [0, 1], adapter=lambda outputs: outputs["classes"])
    assert task.score(predictions_of(task, lambda x: {"classes": torch.eye(2)}))["top1"] == 1.0


@pytest.mark.parametrize("metric", ["top1", "top5"])
def test_each_image_is_an_instance_of_the_metric(metric):
    task = sv.Classification(torch.rand(7, 1, 1, 1), range(7), metric=metric)
    predictions = predictions_of(task, lambda x: torch.arange(7.0, 0, -1).expand(len(x), 7))
    sums = [task.instance_sum(prediction) for prediction in predictions.values()]
    assert sum(sums) / sum(task.instances()) == task.score(predictions)[metric]


def test_a_sweep_scores_the_layers_of_a_classifier(task, model):
    study = sv.wrap(model, torch.rand(1, 3, 6, 6)).analyze(task, recipe=sv.INT4_WEIGHTS)
    assert study.table()["status"].tolist() == ["measured"] * 2
    assert study.baseline.metrics["top1"] == task.score(predictions_of(task, model))["top1"]


def test_labels_counted_from_another_number_are_told():
    task = sv.Classification(torch.rand(10, 1, 1, 1), [1 + i % 3 for i in range(10)], batch_size=10)
    suspicion = task.suspicion(predictions_of(task, lambda x: torch.eye(4)[:3].repeat(4, 1)[: len(x)]))
    assert suspicion is not None
    assert "would be 100% if every label were 1 less" in suspicion


def test_a_weak_model_and_a_good_one_raise_no_suspicion():
    torch.manual_seed(0)
    task = sv.Classification(torch.rand(30, 4, 1, 1), torch.randint(0, 4, (30,)), batch_size=30)
    labels = torch.tensor([int(p) for p in task._source.labels])
    assert task.suspicion(predictions_of(task, lambda x: x.flatten(1))) is None
    assert task.suspicion(predictions_of(task, lambda x: torch.eye(4)[labels])) is None


def test_the_digest_follows_data_and_settings_and_not_the_batch_size():
    images, labels = torch.rand(3, 2, 4, 4), [0, 1, 1]
    digest = sv.Classification(images, labels).digest()
    assert sv.Classification(images.clone(), torch.tensor(labels), batch_size=1, name="x").digest() == digest
    assert sv.Classification(images + 1, labels).digest() != digest
    assert sv.Classification(images, [0, 1, 0]).digest() != digest
    assert sv.Classification(images, labels, metric="top5").digest() != digest


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"labels": None}, AnnotationError, "labels= is missing"),
        ({"labels": [0, 1]}, AnnotationError, r"shape \(2,\) for 3 images"),
        ({"labels": [0, -1, 1]}, AnnotationError, "expected whole numbers from 0"),
        ({"labels": [0.0, 1.0, 1.0]}, AnnotationError, "are float64; expected whole numbers"),
        ({"labels": ["a", "b", "c"]}, AnnotationError, "expected whole numbers"),
        ({"metric": "top3"}, TaskError, "metric='top3' is unknown"),
        ({"limit": 0}, TaskError, "limit=0: it must be 1 or more"),
        ({"batch_size": 0}, TaskError, "batch_size=0"),
        ({"classes": ["a", "b"]}, TaskError, "classes= and preprocess= are for a folder"),
        ({"images": torch.tensor(1.0)}, TaskError, "images= holds no tensors"),
        ({"images": []}, TaskError, "images= holds no tensors"),
    ],
)
def test_wrong_settings_are_told(settings, error, message):
    settings = {"images": torch.rand(3, 3, 4, 4), "labels": [0, 1, 1]} | settings
    with pytest.raises(error, match=message):
        sv.Classification(settings.pop("images"), settings.pop("labels"), **settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"preprocess": None}, TaskError, "preprocess= is missing"),
        ({"labels": [0]}, TaskError, "labels= is for images given as tensors"),
        ({"classes": ["cat", "dog"]}, AnnotationError, "holds the folder 'eel', which classes= does not name"),
        ({"classes": ["cat", "cat"]}, TaskError, "names that differ"),
        ({"folder": "cat/deeper"}, AnnotationError, "no image files in folders below"),
        ({"folder": "nowhere"}, (TaskError, ImageError), "is no folder"),
    ],
)
def test_wrong_settings_of_a_folder_are_told(folder, settings, error, message):
    settings = {"preprocess": sv.Resize(height=4, width=4)} | settings
    with pytest.raises(error, match=message):
        sv.Classification(folder / settings.pop("folder", ""), **settings)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (torch.rand(3, 4, 1), r"scores \(3, 4, 1\) for 3 images; expected \(N, classes\)"),
        (torch.rand(2, 4), r"scores \(2, 4\) for 3 images"),
        (torch.rand(3, 1), "scores 1 classes, but a label is 1"),
        (torch.full((3, 2), torch.nan), "NaN or infinite"),
        ("text", "expected scores"),
    ],
)
def test_wrong_outputs_are_told(outputs, message):
    task = sv.Classification(torch.rand(3, 3, 4, 4), [0, 1, 1])
    with pytest.raises(PredictionError, match=message):
        predictions_of(task, lambda x: outputs)


def answers(predicted):
    return lambda x: torch.eye(max(predicted) + 1)[predicted][: len(x)]


def test_labels_off_by_one_are_told_of_a_model_that_is_right_in_half_the_images():
    draw = np.random.default_rng(0)
    labels = draw.integers(1, 20, 40).tolist()
    predicted = [label - 1 if draw.random() < 0.5 else int(draw.integers(0, 20)) for label in labels]
    task = sv.Classification(torch.rand(40, 1, 1, 1), labels, batch_size=40)
    assert "if every label were 1 less" in (task.suspicion(predictions_of(task, answers([*predicted, 20]))) or "")


def test_one_answer_to_everything_raises_no_suspicion():
    labels = [0] * 18 + [1] * 2
    task = sv.Classification(torch.rand(20, 1, 1, 1), labels, batch_size=20)
    assert task.suspicion(predictions_of(task, answers([1] * 20))) is None


def test_classes_in_another_order_than_the_outputs_are_told():
    labels = [number % 4 for number in range(20)]
    task = sv.Classification(torch.rand(20, 1, 1, 1), labels, batch_size=20)
    suspicion = task.suspicion(predictions_of(task, answers([(2, 0, 3, 1)[label] for label in labels])))
    assert suspicion is not None
    assert "output 2 stands for 0, 0 for 1, 3 for 2 and so on" in suspicion


def test_probabilities_score_as_logits_do():
    torch.manual_seed(0)
    logits, labels = torch.randn(30, 7), torch.randint(0, 7, (30,))
    assert score_rows(logits, labels) == score_rows(logits.softmax(1), labels)


def test_an_adapter_that_returns_nothing_is_told() -> None:
    task = sv.Classification(torch.rand(2, 3, 4, 4), [0, 1], adapter=lambda outputs: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(PredictionError, match="the adapter returned None; expected scores"):
        task.predict(lambda x: x.mean((2, 3)), next(iter(task.batches())))
