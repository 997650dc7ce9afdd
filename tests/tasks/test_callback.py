from __future__ import annotations

from typing import Any

import pytest

from sensitivity.contracts import Task
from sensitivity.errors import PredictionError, TaskError
from sensitivity.tasks.callback import callback_task
from tests.tasks.made_scenes import predict_all


def accuracy(model: Any) -> float:
    return float(model(2.0)) / 4


def errors(model: Any) -> dict[str, float]:
    return {"error": float(model(2.0)), "worst": 7}


def test_a_number_is_the_metric() -> None:
    task = callback_task(accuracy, metric="accuracy", unit="%", name="mine")
    assert isinstance(task, Task)
    assert (task.name, task.metric, task.unit, task.higher_is_better, len(task)) == ("mine", "accuracy", "%", True, 1)
    assert task.score(predict_all(task, lambda x: x)) == {"accuracy": 0.5}


def test_a_dict_has_the_metric_among_others_and_lower_may_be_better() -> None:
    task = callback_task(errors, metric="error", higher_is_better=False)
    assert task.score(predict_all(task, lambda x: x)) == {"error": 2.0, "worst": 7.0}
    assert not task.higher_is_better


def test_the_data_are_one_image() -> None:
    task = callback_task(accuracy)
    assert [batch.images for batch in task.batches()] == [(0,)]
    assert list(task.batches([])) == []
    with pytest.raises(TaskError, match=r"no image at position 1. This task has 1"):
        task.batches([0, 1])
    with pytest.raises(TaskError, match="no prediction to score"):
        task.score({})


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"loss": 1.0}, r"returned no 'score', only \['loss'\]"),
        ("good", "returned 'good'; expected a number"),
        (None, "returned None; expected a number"),
        (float("nan"), "returned nan as 'score'; expected a finite number"),
        ({"score": float("inf")}, "returned inf as 'score'"),
    ],
)
def test_results_that_are_no_metric_are_refused(result: Any, message: str) -> None:
    with pytest.raises(PredictionError, match=message):
        predict_all(callback_task(lambda model: result), abs)


def test_the_digest_depends_on_the_function_the_key_and_the_metric() -> None:
    base = callback_task(accuracy)
    assert callback_task(accuracy, name="other").digest() == base.digest()
    others = [callback_task(errors), callback_task(accuracy, key="v2"), callback_task(accuracy, metric="top1")]
    assert len({base.digest(), *(other.digest() for other in others)}) == 4
