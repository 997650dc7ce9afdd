"""What every task must do, as a class of tests to inherit.

Give the test file the fixtures ``task`` and ``model`` and name the subclass ``Test...``; pytest runs the rest::

    @pytest.fixture(scope="module")
    def task(): return MyTask(images[:12])      # some images that the model can be scored on, at least two

    @pytest.fixture(scope="module")
    def model(): return my_model.eval()

    class TestMyTask(TaskSuite):
        ...

A task that ``needs_reference`` is given as ``MyTask(...).with_reference(model)``.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from sensitivity.contracts import Batch, LeavesOut, MeanOfInstances, ScoresPart, Task

TOLERANCE = 1e-12
"""Largest difference of two scores that are summed in another order, relative and absolute."""


class TaskSuite:
    """The tests; the file of the subclass gives the fixtures ``task`` and ``model``."""

    def test_it_fits_the_contract(self, task: Task) -> None:
        """It has the attributes and methods of ``Task``, and images."""
        assert isinstance(task, Task)
        assert all(isinstance(text, str) and text for text in (task.name, task.metric))
        assert isinstance(task.unit, str)
        assert isinstance(task.higher_is_better, bool)
        assert len(task) >= 2, "give the suite a task of at least two images"

    def test_batches_hold_every_image_once(self, task: Task) -> None:
        """Positions count from 0, and the order is the same each time."""
        first, second = (_positions(task) for _ in range(2))
        assert first == second
        assert sorted(first) == list(range(len(task)))

    def test_batches_hold_the_images_asked_for_in_their_order(self, task: Task) -> None:
        """A sweep with a stop visits them in an order of its own, and need not visit all."""
        backwards = list(range(len(task)))[::-1]
        assert _positions(task, backwards) == backwards
        assert _positions(task, backwards[:1]) == backwards[:1]

    def test_there_is_one_prediction_for_each_image(self, task: Task, model: Any) -> None:
        """In the order of the batch."""
        for batch, found in _predicted(task, model):
            assert len(found) == len(batch.images)

    def test_predictions_are_data(self, task: Task, model: Any) -> None:
        """A store keeps dicts, lists, tuples, numpy arrays, numbers and text, and nothing else."""
        for prediction in _predictions(task, model).values():
            for leaf in _leaves(prediction):
                assert _is_data(leaf), f"a store cannot keep a {type(leaf).__name__}: {leaf!r:.80}"

    def test_a_model_predicts_the_same_again(self, task: Task, model: Any) -> None:
        """So that a difference is the work of a disturbance."""
        for one, other in zip(_predictions(task, model).values(), _predictions(task, model).values(), strict=True):
            assert [_bits(leaf) for leaf in _leaves(one)] == [_bits(leaf) for leaf in _leaves(other)]

    def test_the_metric_is_among_the_scores(self, task: Task, model: Any) -> None:
        """All of them numbers."""
        scores = task.score(_predictions(task, model))
        assert task.metric in scores
        assert all(isinstance(value, float | int) for value in scores.values())
        assert not math.isnan(scores[task.metric]), "give the suite images and a model whose metric is a number"

    def test_scores_depend_on_the_predictions_alone(self, task: Task, model: Any) -> None:
        """Not on their order, nor on what was scored before; and they are not changed."""
        predictions = _predictions(task, model)
        untouched = copy.deepcopy(predictions)
        first, second = task.score(predictions), task.score(dict(reversed(predictions.items())))
        assert all(_close(first[name], second[name]) for name in first)
        assert first.keys() == second.keys()
        for one, other in zip(untouched.values(), predictions.values(), strict=True):
            assert [_bits(leaf) for leaf in _leaves(one)] == [_bits(leaf) for leaf in _leaves(other)]

    def test_some_of_the_images_can_be_scored(self, task: Task, model: Any) -> None:
        """The metric is then over these images alone; it may be NaN."""
        predictions = _predictions(task, model)
        for images in (list(predictions)[:-1], list(predictions)[1:]):
            assert task.metric in task.score({image: predictions[image] for image in images})

    def test_a_digest_is_text_that_stays(self, task: Task) -> None:
        """Also in another process, where a worker of an executor scores."""
        assert isinstance(task.digest(), str)
        assert task.digest() == task.digest() == pickle.loads(pickle.dumps(task)).digest()

    def test_a_mean_over_instances_is_the_metric(self, task: Task, model: Any) -> None:
        """What a stop races on is what is scored."""
        counts = task.instances() if isinstance(task, MeanOfInstances) else None
        if not isinstance(task, MeanOfInstances) or counts is None:
            return
        predictions = _predictions(task, model)
        assert len(counts) == len(task)
        mean = sum(task.instance_sum(one) for one in predictions.values()) / sum(counts)
        assert _close(mean, task.score(predictions)[task.metric])

    def test_leaving_images_out_is_scoring_the_rest(self, task: Task, model: Any) -> None:
        """To the last bits."""
        if not isinstance(task, LeavesOut):
            return
        predictions = _predictions(task, model)
        groups: list[list[int]] = [[], [0], list(range(1, len(task), 2))]
        for group, found in zip(groups, task.scores_without(predictions, groups), strict=True):
            rest = {image: one for image, one in predictions.items() if image not in group}
            assert _close(found, task.score(rest)[task.metric])

    def test_the_part_that_is_kept_scores_the_same(self, task: Task, model: Any) -> None:
        """And the prediction that it was taken from stays whole."""
        if not isinstance(task, ScoresPart):
            return
        predictions = _predictions(task, model)
        whole = task.score(predictions)
        part = task.score({image: task.scored_part(one) for image, one in predictions.items()})
        again = task.score(predictions)
        assert all(_close(whole[name], part[name]) and _close(whole[name], again[name]) for name in whole)


def _positions(task: Task, images: Sequence[int] | None = None) -> list[int]:
    return [position for batch in task.batches(images) for position in batch.images]


def _predictions(task: Task, model: Any) -> dict[int, Any]:
    return {
        image: one for batch, found in _predicted(task, model) for image, one in zip(batch.images, found, strict=True)
    }


def _predicted(task: Task, model: Any) -> Iterator[tuple[Batch, list[Any]]]:
    """Every batch with its predictions, without gradients, as a sweep runs them."""
    for batch in task.batches():
        with torch.no_grad():
            found = task.predict(model, batch)
        yield batch, found


def _leaves(tree: Any) -> Iterator[Any]:
    """Everything in a tree that holds nothing else, and the keys of its dicts."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key
            yield from _leaves(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _leaves(value)
    else:
        yield tree


def _is_data(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray):
        return not leaf.dtype.hasobject
    return leaf is None or isinstance(leaf, bool | int | float | str | bytes | np.generic)


def _bits(leaf: Any) -> Any:
    return (leaf.dtype, leaf.shape, leaf.tobytes()) if isinstance(leaf, np.ndarray) else repr(leaf)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE) or (math.isnan(one) and math.isnan(other))
