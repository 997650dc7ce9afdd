"""What a store is about is seen whenever it is used again: model, task, and failures that need not last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.errors import StoreConflictError
from tests.sweep.storage.stored_sweeps import Net, StoredTask, analyze, images, known


def test_a_model_whose_code_changed_is_found_out(wrapped: sv.Wrapped, path: Path) -> None:
    analyze(wrapped, StoredTask(images(2)), path, layers="first")

    class Changed(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1e-6

    Changed.__name__ = "Net"
    for layers in ("*", "first"):  # more layers than the store has, and not one more
        with pytest.raises(StoreConflictError, match="predicts something else on the images 0 than"):
            analyze(sv.wrap(Changed().eval(), images(1)[0]), StoredTask(images(2)), path, layers=layers)


def test_a_task_whose_code_changed_is_found_out_also_where_the_store_has_everything(
    wrapped: sv.Wrapped, path: Path
) -> None:
    class Doubled(StoredTask):
        def predict(self, model: Any, batch: Any) -> list[Any]:
            return super().predict(model, replace(batch, inputs=(2 * batch.inputs[0],)))

    analyze(wrapped, StoredTask(images(2)), path)
    with pytest.raises(StoreConflictError, match="predicts something else on the images 0 than"):
        analyze(wrapped, Doubled(images(2)), path)


def test_a_store_of_the_same_weights_in_other_modules_is_refused(path: Path) -> None:
    def build(activation: nn.Module) -> sv.Wrapped:
        torch.manual_seed(0)
        return sv.wrap(nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Conv2d(4, 2, 1)).eval(), images(1)[0])

    study = analyze(build(nn.ReLU()), StoredTask(images(2)), path)
    with pytest.raises(StoreConflictError, match=r"\(modules of the model: \w+, now \w+\)"):
        analyze(build(nn.Tanh()), StoredTask(images(2)), path)
    assert known(analyze(build(nn.ReLU()), StoredTask(images(2)), path)) == known(study)


def test_addresses_in_what_a_module_prints_do_not_count(path: Path) -> None:
    class Printed(Net):
        def extra_repr(self) -> str:
            return f"made of {object()!r}"

    for _ in range(2):
        analyze(sv.wrap(Printed().eval(), images(1)[0]), StoredTask(images(2)), path)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_layer_that_ran_out_of_memory_is_tried_again_when_resumed(
    wrapped: sv.Wrapped, path: Path, error: Exception
) -> None:
    def fail(outputs: Any) -> bool:
        if task.predicted > 5 and second.weight is not original:
            raise error
        return False

    task, second = StoredTask(images(3)), wrapped.model.get_submodule("second")
    original = second.weight
    task.fail_on = fail
    study = analyze(wrapped, task, path, replay=False)
    assert [m.status for m in study.measurements] == ["measured", "failed", "measured"]
    assert study.measurements[1].reason == f"{type(error).__name__}: {error}"
    healthy = StoredTask(images(3))
    assert known(analyze(wrapped, healthy, path, replay=False)) == known(analyze(wrapped, StoredTask(images(3))))
    assert healthy.predicted == 2 + 1, "its two batches, and the first baseline"
