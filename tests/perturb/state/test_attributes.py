"""Counters, lists, arrays and generators of a model are the same at the start of every pass, and in the end."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import Batch
from sensitivity.errors import NotRestoredError
from sensitivity.quantize.weights import quantize_weight
from tests.perturb.stateful import KINDS, Iterating, Listing, Memoised, Net, OfItsClass, net
from tests.sweep.mean_task import MeanTask

LAYERS = ["first", "last"]


class MeanOutputs(MeanTask):
    """The mean of what the model gives for each image."""

    def predict(self, model: Callable[..., Any], batch: Batch) -> list[Any]:
        return model(*batch.inputs).double().mean((1, 2, 3)).tolist()


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        yield executor


def seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def by_hand(model: Net, layer: str | None, task: MeanTask) -> float:
    """The score of copies of a model, each as new for its batch, with the weights of one layer in 4 bits."""
    means: list[float] = []
    for batch in task.batches():
        fresh = pickle.loads(pickle.dumps(model))
        OfItsClass.calls = 0
        OfItsClass.seen.clear()
        Memoised.of_size.cache_clear()
        seeded()
        if layer is not None:
            weight = getattr(fresh, layer).weight
            weight.data = quantize_weight(weight.data, sv.INT4_WEIGHTS.weights, output_axis=0)
        with torch.no_grad():
            means += fresh(*batch.inputs).double().mean((1, 2, 3)).tolist()
    OfItsClass.calls = 0
    OfItsClass.seen.clear()
    Memoised.of_size.cache_clear()
    seeded()
    return float(np.mean(means))


class Dumping(pickle.Pickler):
    """Writes tensors as lists: equal ones are equal bytes."""

    def reducer_override(self, value: Any) -> Any:
        return (list, (value.tolist(),)) if isinstance(value, Tensor) else NotImplemented


def state_of(model: nn.Module) -> bytes:
    """All that a model and its process would draw or count from, but for its cache of a method."""
    stream = io.BytesIO()
    classes = (OfItsClass.calls, list(OfItsClass.seen))
    Dumping(stream).dump((model, classes, random.getstate(), np.random.get_state(), torch.get_rng_state()))
    return stream.getvalue()


def scores_of(wrapped: sv.Wrapped, study: sv.Study) -> dict[str | None, float]:
    """The scores by path of the module, and that of the unperturbed model."""
    paths = {layer.name: layer.module for layer in wrapped.layers}
    return {None: study.baseline.value} | {paths[row.layer]: row.score for row in study.measurements}


@pytest.mark.parametrize("replay", [True, False], ids=["replayed", "in full"])
@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_every_variant_starts_as_a_new_process_would(
    kind: Callable[[], nn.Module], batch_size: int, replay: bool
) -> None:
    model, task = net(kind), MeanOutputs(8, batch_size=batch_size)
    expected = {layer: by_hand(model, layer, task) for layer in [None, *LAYERS]}
    before = state_of(model)
    wrapped = sv.wrap(model, task.inputs[:1])
    assert state_of(model) == before, "after wrap"
    study = wrapped.analyze(task, sv.INT4_WEIGHTS, replay=replay, progress=False)
    assert scores_of(wrapped, study) == expected
    assert state_of(model) == before, "after analyze"
    alone = wrapped.evaluate(task, sv.Scheme.only(["last"], sv.INT4_WEIGHTS))
    assert alone.value == expected["last"]
    assert state_of(model) == before, "after evaluate"


@pytest.mark.parametrize("kind", KINDS)
def test_workers_start_as_a_new_process_would(kind: Callable[[], nn.Module], processes: Executor) -> None:
    model, task = net(kind), MeanOutputs(8, batch_size=4)
    expected = {layer: by_hand(model, layer, task) for layer in [None, *LAYERS]}
    wrapped = sv.wrap(model, task.inputs[:1])
    study = wrapped.analyze(task, sv.INT4_WEIGHTS, executor=processes, progress=False)
    assert scores_of(wrapped, study) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_and_signals_see_every_batch_from_the_same_state(kind: Callable[[], nn.Module]) -> None:
    model, task = net(kind), MeanOutputs(1)
    seeded()
    before = state_of(model)
    wrapped = sv.wrap(model, task.inputs)
    once = wrapped.calibrate([task.inputs], sv.INT8_MINMAX)
    again = wrapped.calibrate([task.inputs] * 3, sv.INT8_MINMAX)
    assert again.ranges == once.ranges
    signals = [dict(wrapped.signals([task.inputs] * count, sv.INT4_WEIGHTS)) for count in (1, 3)]
    assert len(signals[0]) == 2
    for name, once_found in signals[0].items():
        assert signals[1][name] == pytest.approx(once_found, nan_ok=True)
    assert state_of(model) == before


@pytest.mark.parametrize("kind", [Iterating, Listing])
@pytest.mark.parametrize("act", ["analyze", "evaluate"])
def test_an_iterator_that_a_pass_moved_is_named(kind: Callable[[], nn.Module], act: str) -> None:
    task = MeanOutputs(2)
    wrapped = sv.wrap(net(kind), task.inputs[:1])
    acts: dict[str, Callable[[], object]] = {
        "analyze": lambda: wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False),
        "evaluate": lambda: wrapped.evaluate(task),
    }
    with pytest.raises(NotRestoredError, match=r"Net chang.*cannot be put back.*between\.steps"):
        acts[act]()


def test_numbers_that_a_loader_draws_are_not_those_of_a_pass() -> None:
    class Augmented(MeanOutputs):
        drawn: list[float]

        def batches(self, images: Any = None) -> Iterator[Batch]:
            self.drawn = []
            for batch in super().batches(images):
                self.drawn.append(random.random() + float(np.random.rand()) + float(torch.rand(())))
                yield batch

    task = Augmented(8, batch_size=2)
    wrapped = sv.wrap(net(KINDS[0]), task.inputs[:1])
    for act in (
        lambda: wrapped.analyze(task, sv.INT4_WEIGHTS, progress=False),
        lambda: wrapped.evaluate(task),
        lambda: wrapped.calibrate(task),
    ):
        act()
        assert len(set(task.drawn)) == 4
