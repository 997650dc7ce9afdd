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

from sensitivity.contracts import Batch, Condenses, LeavesOut, MeanOfInstances, ScoresPart, ShowsImages, Task


class TaskSuite:
    """The tests; the file of the subclass gives the fixtures ``task`` and ``model``.

    Attributes:
        tolerance: Largest difference of two scores that are summed in another order, relative and absolute.
    """

    tolerance = 1e-6

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
        for batch, predictions in _predicted(task, model):
            assert len(predictions) == len(batch.images)

    def test_predictions_are_data(self, task: Task, model: Any) -> None:
        """A store keeps dicts, lists, tuples, numpy arrays, numbers, text and None; nothing else, and no subclass."""
        for prediction in _predictions(task, model).values():
            for leaf in _leaves(prediction):
                assert _is_data(leaf), f"a store cannot keep a {type(leaf).__name__}: {leaf!r:.80}"

    def test_a_model_predicts_the_same_again(self, task: Task, model: Any) -> None:
        """So that a difference is the work of a perturbation."""
        for first, second in zip(_predictions(task, model).values(), _predictions(task, model).values(), strict=True):
            assert [_bits(leaf) for leaf in _leaves(first)] == [_bits(leaf) for leaf in _leaves(second)]

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
        parts = [predictions, *_halves(predictions), dict(reversed(predictions.items()))]
        first = [task.score(part) for part in parts]
        again = [task.score(part) for part in reversed(parts)][::-1]
        for result, expected in [*zip(first, again, strict=True), (first[0], first[-1])]:
            assert result.keys() == expected.keys()
            assert all(self._close(result[name], expected[name]) for name in result)
        for result, expected in zip(untouched.values(), predictions.values(), strict=True):
            assert [_bits(leaf) for leaf in _leaves(result)] == [_bits(leaf) for leaf in _leaves(expected)]

    def test_some_of_the_images_can_be_scored(self, task: Task, model: Any) -> None:
        """The metric is then over these images alone; it may be NaN."""
        predictions = _predictions(task, model)
        scores = [task.score(part)[task.metric] for part in [predictions, *_halves(predictions)]]
        assert len(set(scores)) > 1, (
            f"the score is {scores[0]} of all images and of each half: it does not look at what it is given. If it "
            "does, give the suite images that the model is not equally good at."
        )

    def test_a_digest_is_text_that_stays(self, task: Task) -> None:
        """It is kept in stores: made with ``hash()`` it would be another one in the next process."""
        assert isinstance(task.digest(), str)
        assert task.digest() == task.digest() == copy.deepcopy(task).digest()

    def test_it_can_be_sent_to_a_worker(self, task: Task) -> None:
        """Executors pickle tasks. Override this with ``pass`` where yours shall run in one process alone."""
        assert pickle.loads(pickle.dumps(task)).digest() == task.digest()

    def test_a_mean_over_instances_is_the_metric(self, task: Task, model: Any) -> None:
        """What a stop races on is what is scored: over all images, and on each by itself."""
        counts = task.instances() if isinstance(task, MeanOfInstances) else None
        if not isinstance(task, MeanOfInstances) or counts is None:
            return
        predictions = _predictions(task, model)
        assert len(counts) == len(task)
        mean = sum(task.instance_sum(prediction) for prediction in predictions.values()) / sum(counts)
        assert self._close(mean, task.score(predictions)[task.metric])
        for image, prediction in predictions.items():
            if counts[image]:
                alone = task.score({image: prediction})[task.metric]
                assert self._close(task.instance_sum(prediction) / counts[image], alone), f"on image {image}"

    def test_leaving_images_out_is_scoring_the_rest(self, task: Task, model: Any) -> None:
        """Also where not all images of the task are predicted, in any order."""
        if not isinstance(task, LeavesOut):
            return
        everything = _predictions(task, model)
        for predictions in (everything, dict(list(everything.items())[:0:-1])):
            groups: list[list[int]] = [[], list(predictions)[:1], list(predictions)[1::2]]
            for group, score in zip(groups, task.scores_without(predictions, groups), strict=True):
                remaining = {image: prediction for image, prediction in predictions.items() if image not in group}
                if remaining:
                    assert self._close(score, task.score(remaining)[task.metric])

    def test_the_part_that_is_kept_scores_the_same(self, task: Task, model: Any) -> None:
        """In every way that a task scores; and the prediction that it was taken from stays whole."""
        if not isinstance(task, ScoresPart):
            return
        predictions = _predictions(task, model)
        whole = task.score(predictions)
        parts = {image: task.scored_part(prediction) for image, prediction in predictions.items()}
        for scores in (task.score(parts), task.score(predictions)):
            assert all(self._close(whole[name], scores[name]) for name in whole)
        if isinstance(task, MeanOfInstances) and task.instances() is not None:
            for image, prediction in predictions.items():
                assert self._close(task.instance_sum(prediction), task.instance_sum(parts[image]))
        if isinstance(task, LeavesOut):
            of_whole, of_parts = (task.scores_without(some, [[]])[0] for some in (predictions, parts))
            assert self._close(of_whole, of_parts)

    def test_images_and_what_a_model_says_about_them_can_be_looked_at(self, task: Task, model: Any) -> None:
        """An image is RGB of 8 bits, boxes have a class and a score each, and pixels are those of the image."""
        if not isinstance(task, ShowsImages):
            return
        for batch in task.batches():
            with torch.no_grad():
                answers = task.seen(model, batch)
            assert len(answers) == len(batch.images)
            for image, seen in zip(batch.images, answers, strict=True):
                shown = task.picture(image)
                assert shown.name
                assert shown.pixels.dtype == np.uint8
                assert (shown.pixels.ndim, shown.pixels.shape[-1]) == (3, 3)
                assert len(seen.boxes) == len(seen.labels) == len(seen.scores)
                assert list(seen.scores) == sorted(seen.scores, reverse=True), "the best box comes first"
                if seen.pixels is not None:
                    assert seen.pixels.shape == shown.pixels.shape[:2]

    def test_condensed_predictions_score_the_same(self, task: Task, model: Any) -> None:
        """In every way that a task scores; and the prediction that it was made of stays whole."""
        if not isinstance(task, Condenses):
            return
        predictions = _predictions(task, model)
        whole = task.score(predictions)
        less = task.condensed(predictions)
        for scores in (task.score(less), task.score(predictions)):
            assert all(self._close(whole[name], scores[name]) for name in whole)
        if isinstance(task, LeavesOut):
            groups = [[], list(predictions)[:1]]
            of_whole, of_less = (task.scores_without(some, groups) for some in (predictions, less))
            assert all(map(self._close, of_whole, of_less))

    def _close(self, first: float, second: float) -> bool:
        near = math.isclose(first, second, rel_tol=self.tolerance, abs_tol=self.tolerance)
        return near or (math.isnan(first) and math.isnan(second))


def _halves(predictions: dict[int, Any]) -> list[dict[int, Any]]:
    items = list(predictions.items())
    return [dict(items[: len(items) // 2]), dict(items[len(items) // 2 :])]


def _positions(task: Task, images: Sequence[int] | None = None) -> list[int]:
    return [position for batch in task.batches(images) for position in batch.images]


def _predictions(task: Task, model: Any) -> dict[int, Any]:
    return {
        image: prediction
        for batch, predictions in _predicted(task, model)
        for image, prediction in zip(batch.images, predictions, strict=True)
    }


def _predicted(task: Task, model: Any) -> Iterator[tuple[Batch, list[Any]]]:
    """Every batch with its predictions, without gradients, as a sweep runs them."""
    for batch in task.batches():
        with torch.no_grad():
            predictions = task.predict(model, batch)
        yield batch, predictions


def _leaves(tree: Any) -> Iterator[Any]:
    """Everything in a tree of dicts, lists and tuples that is none of them, and the keys of its dicts."""
    if type(tree) is dict:
        for key, value in tree.items():
            yield from _leaves(key)
            yield from _leaves(value)
    elif type(tree) in (list, tuple):
        for value in tree:
            yield from _leaves(value)
    else:
        yield tree


def _is_data(leaf: Any) -> bool:
    if type(leaf) is np.ndarray or isinstance(leaf, np.generic):
        return not leaf.dtype.hasobject and leaf.dtype.kind != "V"
    return type(leaf) in (type(None), bool, int, float, str, bytes)


def _bits(leaf: Any) -> Any:
    return (leaf.dtype, leaf.shape, leaf.tobytes()) if isinstance(leaf, np.ndarray) else repr(leaf)
