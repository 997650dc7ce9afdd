"""Tasks that compare with the unperturbed model's outputs, given those outputs."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from sensitivity.contracts import NeedsReference, Task
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.restore import untouched


def with_reference(model: nn.Module, task: Task) -> Task:
    """The task, given the unperturbed model's outputs first where it compares with them.

    Args:
        model: The unperturbed model; left as it was.
        task: A task that compares with nothing is returned as it is.
    """
    if not isinstance(task, NeedsReference) or not task.needs_reference:
        return task
    with untouched(model) as before, torch.no_grad():
        state, begun = before.for_passes(), contextlib.ExitStack()

        def begin(*_: Any) -> None:
            begun.close()  # of a pass that failed
            begun.enter_context(state.same_start())

        def end(*_: Any) -> None:
            begun.close()

        # the module itself is given: a task asks it for its device and its weights
        with begun, hooked(before=[(model, begin)], after=[(model, end)]):
            return task.with_reference(model)
