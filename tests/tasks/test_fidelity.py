from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sensitivity as sv
from sensitivity.contracts import Task
from sensitivity.errors import PredictionError, TaskError
from sensitivity.records.decibels import CEILING_DB
from sensitivity.tasks.fidelity import FeatureFidelity
from tests.tasks.made_scenes import predict_all

IMAGES = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class TwoHeads(nn.Module):
    """Returns a dict with a list and a count; ``noise`` perturbs one head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 4, 3)
        self.noise = 0.0

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        features = self.conv(x)
        return {"heads": [features, features.mean((2, 3)) + self.noise], "count": torch.arange(len(x))}


def test_sqnr_is_the_formula_in_numpy() -> None:
    model = TwoHeads()
    task = FeatureFidelity(IMAGES, batch_size=5).with_reference(model)
    assert isinstance(task, Task)
    with torch.no_grad():
        heads = [head.double().numpy().reshape(5, -1) for head in model(IMAGES)["heads"]]
    signal = np.concatenate(heads, axis=1) ** 2
    perturbed = copy.deepcopy(model)
    perturbed.noise = 0.125
    with torch.no_grad():
        noise = (perturbed(IMAGES)["heads"][1].double().numpy() - heads[1]) ** 2
    scores = task.score(predict_all(task, perturbed))
    assert scores["sqnr_db"] == pytest.approx(10 * np.log10(signal.sum() / noise.sum()), abs=1e-12)
    each = 10 * np.log10(signal.sum(axis=1) / noise.sum(axis=1))
    assert scores["mean_sqnr_db"] == pytest.approx(each.mean(), abs=1e-12)
    assert scores["sqnr_db"] != scores["mean_sqnr_db"]


def test_tensors_of_a_dataclass_are_compared_as_those_of_a_dict() -> None:
    @dataclass
    class Output:
        heads: list[torch.Tensor]
        count: torch.Tensor

    class AsDataclass(TwoHeads):
        def forward(self, x: torch.Tensor) -> Any:
            return Output(**super().forward(x))

    scores = []
    for kind in (TwoHeads, AsDataclass):
        model = kind()
        task = FeatureFidelity(IMAGES).with_reference(model)
        model.noise = 0.125
        scores.append(task.score(predict_all(task, model)))
    assert scores[0] == scores[1]


def test_the_unperturbed_model_scores_the_ceiling_so_that_drops_are_finite() -> None:
    task = FeatureFidelity(IMAGES).with_reference(TwoHeads())
    assert task.score(predict_all(task, TwoHeads())) == {"sqnr_db": CEILING_DB, "mean_sqnr_db": CEILING_DB}


def test_noise_without_signal_scores_minus_the_ceiling() -> None:
    task = FeatureFidelity(IMAGES).with_reference(lambda x: x * 0)
    assert task.score(predict_all(task, lambda x: x))["sqnr_db"] == -CEILING_DB


def test_outputs_of_any_shape_can_be_compared_one_at_a_time() -> None:
    def summary(x: torch.Tensor) -> torch.Tensor:
        return x.mean()

    images = [torch.rand(3, 4, 4), torch.rand(3, 5, 6)]
    task = FeatureFidelity(images, batch_size=1).with_reference(summary)
    assert task.score(predict_all(task, summary, [1, 0]))["sqnr_db"] == CEILING_DB
    with pytest.raises(PredictionError, match=r"outputs \[\(\)\] cannot be told apart for 5 inputs. Use batch_size=1"):
        FeatureFidelity(IMAGES).with_reference(summary)


def test_the_reference_stays_when_the_model_changes_later() -> None:
    model = TwoHeads()
    task = FeatureFidelity(IMAGES).with_reference(model)
    model.noise = 1.0
    assert task.score(predict_all(task, model))["sqnr_db"] < 50


def test_a_task_without_reference_says_how_to_get_one() -> None:
    task = FeatureFidelity(IMAGES)
    assert task.needs_reference
    assert not task.with_reference(TwoHeads()).needs_reference
    assert task.needs_reference  # with_reference makes a new task
    with pytest.raises(TaskError, match=r"no reference to compare with. Use task\.with_reference"):
        predict_all(task, TwoHeads())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x * torch.nan, "outputs are NaN or infinite"),
        (lambda x: x[:, :2], "outputs have 128 numbers, the reference has 192"),
        (lambda x: torch.arange(5), "returned no floating-point tensor"),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused(model: Any, message: str) -> None:
    task = FeatureFidelity(IMAGES).with_reference(nn.Identity())
    with pytest.raises(PredictionError, match=message):
        predict_all(task, model)


def test_inputs_and_positions_are_checked() -> None:
    with pytest.raises(TaskError, match="inputs= holds no tensors"):
        FeatureFidelity([])
    with pytest.raises(TaskError, match=r"inputs holds 1\.0: give a Tensor or several in a list"):
        FeatureFidelity([1.0, 2.0])  # type: ignore[list-item]
    with pytest.raises(TaskError, match="batch_size=0"):
        FeatureFidelity(IMAGES, batch_size=0)
    with pytest.raises(TaskError, match="no image at position 5"):
        FeatureFidelity(IMAGES).batches([5])
    with pytest.raises(TaskError, match="no predictions to score"):
        FeatureFidelity(IMAGES).score({})


def test_the_digest_depends_on_inputs_and_reference_alone() -> None:
    base = FeatureFidelity(IMAGES)
    assert FeatureFidelity(IMAGES, batch_size=2, name="other").digest() == base.digest()
    others = [FeatureFidelity(IMAGES[:4]), FeatureFidelity(IMAGES + 1), base.with_reference(TwoHeads())]
    assert len({base.digest(), *(other.digest() for other in others)}) == 4
    sent = pickle.loads(pickle.dumps(base.with_reference(TwoHeads())))
    assert sent.digest() == base.with_reference(TwoHeads()).digest()


def test_the_digest_of_a_reference_is_of_its_weights_and_of_no_number_that_it_computed() -> None:
    class AnotherMachine(TwoHeads):
        """Gives other last bits for the same weights."""

        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            outputs = super().forward(x)
            return outputs | {"heads": [head * (1 + 2**-22) for head in outputs["heads"]]}

    AnotherMachine.__qualname__ = TwoHeads.__qualname__
    reference, elsewhere, trained = TwoHeads(), AnotherMachine(), TwoHeads()
    with torch.no_grad():
        trained.conv.weight[0, 0, 0, 0] += 2**-20
        assert not torch.equal(reference(IMAGES)["heads"][0], elsewhere(IMAGES)["heads"][0])
    task = FeatureFidelity(IMAGES)
    digest = task.with_reference(reference).digest()
    assert task.with_reference(elsewhere).digest() == digest
    assert FeatureFidelity(IMAGES, batch_size=1).with_reference(reference).digest() == digest
    assert task.with_reference(trained).digest() != digest


def test_images_of_several_sizes_are_refused_in_one_batch_and_run_one_by_one() -> None:
    images = [torch.rand(3, 8, 8), torch.rand(3, 12, 8)]
    with pytest.raises(TaskError, match=r"2 kinds, e\.g\. float32 \(3, 12, 8\) and float32 \(3, 8, 8\).*batch_size=1"):
        FeatureFidelity(images)
    model = torch.nn.Conv2d(3, 2, 3)
    task = FeatureFidelity(images, batch_size=1).with_reference(model)
    predictions = predict_all(task, model)
    assert task.score(predictions)["sqnr_db"] == CEILING_DB


def test_images_with_a_nan_are_refused_where_they_stand() -> None:
    images = torch.rand(4, 3, 8, 8)
    images[2, 0, 0, 0] = float("nan")
    with pytest.raises(TaskError, match=r"inputs\[2\], a tensor of shape \(3, 8, 8\), holds NaN"):
        FeatureFidelity(images)


def test_images_that_the_model_cannot_take_are_told_with_their_type_and_shape() -> None:
    wrapped = sv.wrap(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3)).eval(), torch.rand(1, 3, 8, 8))
    for images in ((torch.rand(4, 3, 8, 8) * 255).to(torch.uint8), torch.rand(4, 5, 8, 8)):
        kind = str(images.dtype).removeprefix("torch.")
        with pytest.raises(PredictionError, match=rf"failed on a batch of the task, {kind} \(4, \d, 8, 8\): Runtime"):
            wrapped.evaluate(FeatureFidelity(images))
        with pytest.raises(PredictionError, match=rf"failed on a batch of the task, {kind} \(4, \d, 8, 8\): Runtime"):
            wrapped.analyze(FeatureFidelity(images), sv.INT8_WEIGHTS, progress=False)


def test_the_reference_of_a_sweep_is_of_the_models_weights() -> None:
    model = TwoHeads().eval()
    received: list[Any] = []

    class Watched(FeatureFidelity):
        def with_reference(self, model: Any) -> Any:
            received.append(model)
            return super().with_reference(model)

    wrapped = sv.wrap(model, IMAGES[:1])
    wrapped.evaluate(Watched(IMAGES))
    assert received == [model], "not a function, which has no device and no weights"
    assert not model._forward_pre_hooks


class TwoInputs(nn.Module):
    """Called with two arguments, of which the second may be left out or given by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, *, weights: torch.Tensor) -> torch.Tensor:
        return self.head((self.conv(x) * weights).mean((2, 3)))


class Positional(TwoInputs):
    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x, weights=weights)


def several_arguments(form: str) -> tuple[nn.Module, list[Any]]:
    model, weights = (TwoInputs() if form == "dict" else Positional()).eval(), torch.tensor([0.5, 1.0, 2.0, 4.0])
    items = [(image[None], weights.reshape(1, 4, 1, 1)) for image in IMAGES]
    return model, items if form == "tuple" else [{"x": x, "weights": weights} for x, weights in items]


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_models_of_several_arguments_are_measured_on_what_they_are_calibrated_on(form: str) -> None:
    model, inputs = several_arguments(form)
    wrapped = sv.wrap(model, inputs[0])
    wrapped.calibrate(inputs)
    task, scheme = sv.FeatureFidelity(inputs, batch_size=2), sv.Scheme.all(sv.INT8)

    def outputs() -> np.ndarray[Any, Any]:
        with torch.no_grad():
            return np.stack([(model(*i) if form == "tuple" else model(**i)).double().numpy() for i in inputs])

    reference = outputs()
    with wrapped.quantized(scheme):
        noise = np.square(outputs() - reference).sum()
    expected = 10 * np.log10(np.square(reference).sum() / noise)
    assert wrapped.evaluate(task, scheme).value == pytest.approx(expected, abs=1e-9)
    study = wrapped.analyze(task, progress=False)
    assert [row.status.value for row in study.measurements] == ["measured"] * 2
    assert study.measurements[0].images == len(inputs)
    assert wrapped.verify(wrapped.deploy(scheme, "torch"), task).passed
    assert wrapped.signals(task).keys() == wrapped.signals(inputs).keys()
    assert [list(batch.images) for batch in task.batches([3, 1])] == [[3], [1]]


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_the_digest_knows_every_argument(form: str) -> None:
    model, inputs = several_arguments(form)
    reference = FeatureFidelity(inputs).with_reference(model)
    again = FeatureFidelity(copy.deepcopy(inputs)).with_reference(model)
    changed = copy.deepcopy(inputs)
    (changed[3][1] if form == "tuple" else changed[3]["weights"])[..., 0, 0] += 1
    assert reference.digest() == again.digest() != FeatureFidelity(changed).with_reference(model).digest()


def test_several_arguments_may_hold_a_mask_of_minus_infinity_and_no_nan() -> None:
    FeatureFidelity([(IMAGES[:1], torch.full((2, 2), -torch.inf))])
    with pytest.raises(TaskError, match=r"inputs\[1\], a tensor of shape \(2, 2\), holds NaN"):
        FeatureFidelity([(IMAGES[:1], torch.ones(2, 2)), (IMAGES[:1], torch.full((2, 2), torch.nan))])


@pytest.mark.parametrize("inputs", [[(IMAGES[:1], 3), IMAGES[0]], [{"x": 3}], [(1, 2)]])
def test_what_is_no_argument_of_a_model_is_refused_with_what_to_give(inputs: Any) -> None:
    with pytest.raises(TaskError, match=r"inputs= holds no tensors\. Give a tensor .* tuples or dicts of them"):
        FeatureFidelity(inputs)
