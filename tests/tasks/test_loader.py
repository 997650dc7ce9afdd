"""Data loaders scored by metric objects, against torchmetrics on the whole set."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.regression import MeanSquaredError

import sensitivity as sv
from sensitivity.errors import PredictionError, TaskError
from sensitivity.testing.tasks import TaskSuite


def predictions_of(task, model):
    return {i: p for batch in task.batches() for i, p in zip(batch.images, task.predict(model, batch), strict=True)}


class Total:
    """A metric of sums, which are exact."""

    higher_is_better = True

    def __init__(self):
        self.reset()

    def reset(self):
        self.sum = 0.0
        self.calls = []

    def update(self, predictions, targets):
        self.calls.append(len(predictions))
        self.sum += float(sum(p.sum() for p in predictions)) - float(sum(t.sum() for t in targets))

    def compute(self):
        return self.sum


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    return TensorDataset(torch.randn(11, 3, 6, 6), torch.randint(0, 5, (11,)))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


@pytest.fixture(scope="module")
def task(data):
    return sv.LoaderTask(DataLoader(data, batch_size=4), metric=MulticlassAccuracy(5, average="micro"))


class TestLoaderTask(TaskSuite):
    pass


@pytest.mark.parametrize("metric", [MulticlassAccuracy(5, average="macro"), MulticlassF1Score(5)])
@pytest.mark.parametrize("form", ["loader", "list", "generator", "drop last"])
def test_the_score_is_that_of_the_metric_updated_by_batches(data, model, metric, form):
    loader = DataLoader(data, batch_size=4, drop_last=form == "drop last")
    source = {"list": list(loader), "generator": Reiterable(loader)}.get(form, loader)
    reference = metric.clone()
    for inputs, targets in loader:
        reference.update(model(inputs), targets)
    task = sv.LoaderTask(source, metric=metric)
    assert len(task) == (8 if form == "drop last" else 11)
    assert task.score(predictions_of(task, model))[task.metric] == pytest.approx(float(reference.compute()), abs=1e-6)


class Reiterable:
    """Batches that can be read from the start only."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)


@pytest.mark.parametrize("form", ["loader", "list", "generator"])
def test_samples_are_given_in_the_order_asked_for(data, form):
    loader = DataLoader(data, batch_size=4)
    source = {"loader": loader, "list": list(loader), "generator": Reiterable(loader)}[form]
    task = sv.LoaderTask(source, metric=Total())
    order = [9, 0, 5, 4, 10]
    batches = list(task.batches(order))
    assert [i for batch in batches for i in batch.images] == order
    assert torch.equal(torch.cat([batch.inputs[0] for batch in batches]), data.tensors[0][order])
    assert torch.equal(torch.cat([batch.context for batch in batches]), data.tensors[1][order])


def test_name_unit_and_direction_are_the_metrics(data):
    task = sv.LoaderTask(DataLoader(data), metric=MulticlassAccuracy(5))
    assert (task.metric, task.unit, task.higher_is_better) == ("MulticlassAccuracy", "%", True)
    task = sv.LoaderTask(DataLoader(data), metric=MeanSquaredError())
    assert (task.metric, task.unit, task.higher_is_better) == ("MeanSquaredError", "", False)
    task = sv.LoaderTask(DataLoader(data), metric=MeanSquaredError(), unit="m", higher_is_better=True, name="depth")
    assert (task.unit, task.higher_is_better, task.name) == ("m", True, "depth")


def test_the_metric_that_was_given_is_never_changed(data, model):
    metric = MulticlassAccuracy(5, average="micro")
    metric.update(torch.eye(5), torch.arange(5))
    task = sv.LoaderTask(DataLoader(data, batch_size=4), metric=metric)
    task.score(predictions_of(task, model))
    assert float(metric.compute()) == 1.0
    assert task.score(predictions_of(task, model)) == task.score(predictions_of(task, model))


def test_samples_of_one_shape_are_updated_together_and_others_apart(data):
    batches = [(torch.ones(3, 2), torch.zeros(3, 2)), (torch.ones(2, 5), torch.zeros(2, 5))]
    task = sv.LoaderTask(batches, metric=Total())
    seen = []
    task._metric.update = lambda predictions, targets: seen.append(tuple(predictions.shape))
    task.score(predictions_of(task, lambda x: x))
    assert seen == [(3, 2), (2, 5)]


def test_detections_are_lists_of_dicts_and_one_number_of_a_dict_is_judged():
    class Count(Total):
        def update(self, predictions, targets):
            self.sum += sum(len(p["boxes"]) for p in predictions) - sum(len(t["boxes"]) for t in targets)

        def compute(self):
            return {"extra": self.sum, "each": [1.0, 2.0]}

    targets = tuple({"boxes": torch.zeros(n, 4)} for n in (2, 2))
    task = sv.LoaderTask([(torch.rand(2, 3), targets)], metric=Count(), score="extra")
    predictions = predictions_of(task, lambda x: [{"boxes": torch.zeros(5, 4)}, {"boxes": torch.zeros(1, 4)}])
    assert task.score(predictions) == {"extra": 2.0}
    assert task.score({1: predictions[1]}) == {"extra": -1.0}


def test_several_inputs_and_batches_of_another_form_are_unpacked():
    batches = [{"left": torch.ones(2, 3), "right": torch.ones(2, 3), "sum": torch.full((2, 3), 2.0)}]
    task = sv.LoaderTask(batches, metric=Total(), unpack=lambda batch: ((batch["left"], batch["right"]), batch["sum"]))
    assert task.score(predictions_of(task, lambda left, right: left + right)) == {"Total": 0.0}


def test_an_adapter_sees_outputs_and_targets():
    task = sv.LoaderTask(
        [(torch.ones(2), torch.ones(2))], metric=Total(), adapter=lambda outputs, targets: outputs["x"] + targets
    )
    assert task.score(predictions_of(task, lambda x: {"x": x})) == {"Total": 2.0}


def test_a_batch_is_the_unit_where_samples_cannot_be_told_apart():
    task = sv.LoaderTask(
        [(torch.ones(2), torch.ones(1)), (torch.ones(3), torch.ones(1))], metric=Total(), per_sample=False
    )
    assert len(task) == 2
    assert task.score(predictions_of(task, lambda x: x.sum().reshape(1))) == {"Total": 3.0}
    assert [batch.images for batch in task.batches([1, 0])] == [(1,), (0,)]


def test_the_digest_follows_data_metric_and_key(data):
    loader = DataLoader(data, batch_size=4)
    other = DataLoader(TensorDataset(data.tensors[0] + 1, data.tensors[1]), batch_size=4)
    digest = sv.LoaderTask(loader, metric=MulticlassAccuracy(5)).digest()
    assert sv.LoaderTask(list(loader), metric=MulticlassAccuracy(5)).digest() == digest
    assert sv.LoaderTask(other, metric=MulticlassAccuracy(5)).digest() != digest
    assert sv.LoaderTask(loader, metric=MulticlassAccuracy(5, top_k=2)).digest() != digest
    first, second = (sv.LoaderTask(x, metric=Total(), key="a").digest() for x in (loader, other))
    assert first == second != sv.LoaderTask(loader, metric=Total(), key="b").digest()


def test_a_sweep_scores_layers_and_intervals_with_it():
    torch.manual_seed(0)
    images = torch.randn(48, 5, 1, 1)
    data = TensorDataset(images, images.flatten(1).argmax(1))
    task = sv.LoaderTask(DataLoader(data, batch_size=8), metric=MulticlassAccuracy(5, average="micro"))
    identity = nn.Conv2d(5, 5, 1, bias=False)
    identity.weight.data.copy_(torch.eye(5)[:, :, None, None] + 0.05 * torch.randn(5, 5, 1, 1))
    study = sv.wrap(nn.Sequential(identity, nn.Flatten()).eval(), images[:1]).analyze(task, recipe=sv.Prune(0.92))
    [row] = study.table().to_dict("records")
    assert row["status"] == "measured"
    assert 0 < row["drop_low"] < row["drop"] < row["drop_high"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loader": DataLoader(TensorDataset(torch.ones(2)), shuffle=True)}, "loader= shuffles"),
        ({"loader": iter([])}, "can be iterated once only"),
        ({"loader": []}, "loader= gives no batches"),
        ({"loader": [torch.ones(3)]}, "gives batches of Tensor, not pairs"),
        ({"metric": MeanSquaredError}, "has no update, compute and reset"),
        ({"metric": object()}, "has no update, compute and reset"),
        ({"metric": type("Plain", (Total,), {"higher_is_better": None})()}, "does not say whether more is better"),
    ],
)
def test_wrong_settings_are_told(settings, message):
    settings = {"loader": [(torch.ones(2), torch.ones(2))], "metric": Total()} | settings
    with pytest.raises(TaskError, match=message):
        sv.LoaderTask(settings.pop("loader"), **settings)


def test_predictions_that_cannot_be_told_apart_are_told_with_the_way_out():
    task = sv.LoaderTask([(torch.ones(2), torch.ones(2))], metric=Total())
    with pytest.raises(PredictionError, match=r"predictions \(\) cannot be told apart for 2 samples.*per_sample=False"):
        predictions_of(task, lambda x: x.sum())


@pytest.mark.parametrize(
    ("computed", "score", "message"),
    [
        ({"a": 1.0}, None, "the metric gives 'a'. Name the one"),
        ({"a": [1.0, 2.0]}, "a", "whose value is one number"),
        (1.0, "a", "gives one value, not a dict with 'a'"),
        (float("nan"), None, "the metric is nan"),
    ],
)
def test_what_a_metric_computes_is_checked(computed, score, message):
    class Odd(Total):
        def compute(self):
            return computed

    task = sv.LoaderTask([(torch.ones(2), torch.ones(2))], metric=Odd(), score=score)
    with pytest.raises(PredictionError, match=message):
        task.score(predictions_of(task, lambda x: x))


def test_an_adapter_that_returns_nothing_is_told() -> None:
    task = sv.LoaderTask([(torch.ones(2), torch.ones(2))], metric=Total(), adapter=lambda outputs, targets: None)
    with pytest.raises(PredictionError, match="the adapter returned None; expected predictions"):
        task.predict(lambda x: x, next(iter(task.batches())))


@pytest.mark.parametrize("source", ["list", "loader"])
def test_a_dict_of_inputs_holds_keyword_arguments(source):
    data = [({"left": torch.full((3,), float(i)), "right": torch.ones(3)}, torch.zeros(3)) for i in range(5)]
    batches = DataLoader(data, batch_size=2)
    task = sv.LoaderTask(list(batches) if source == "list" else batches, metric=Total())

    def model(*, left, right):
        return left - right

    assert len(task) == 5
    assert task.score(predictions_of(task, model)) == {"Total": 3.0 * (0 + 1 + 2 + 3 + 4) - 15}
    assert [float(row[0]) for batch in task.batches([4, 1]) for row in batch.keywords["left"]] == [4.0, 1.0]


class Augmented(TensorDataset):
    def __getitem__(self, place):
        inputs, targets = super().__getitem__(place)
        return inputs + torch.rand(3), targets


PLAIN = TensorDataset(torch.arange(24.0), torch.arange(24.0))


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(PLAIN, batch_sampler=BatchSampler(RandomSampler(PLAIN), 4, drop_last=False)),
        DataLoader(PLAIN, 4, sampler=SubsetRandomSampler(range(24))),
        DataLoader(PLAIN, 4, sampler=WeightedRandomSampler(torch.ones(24), 24)),
        DataLoader(Augmented(torch.ones(8, 3), torch.zeros(8, 3)), 4),
    ],
    ids=["batch sampler", "subset", "weighted", "augmented"],
)
def test_a_loader_of_other_batches_each_time_is_refused(loader):
    """The predictions of two passes had been compared as if they were of the same images."""
    with pytest.raises(TaskError, match=r"gives other batches each time it is read.*shuffle=False"):
        sv.LoaderTask(loader, metric=Total())
