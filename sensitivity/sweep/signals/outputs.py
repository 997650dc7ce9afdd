"""What a model returns while a task runs it in a way of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sensitivity.contracts import Batch, Task
from sensitivity.errors import TaskError
from sensitivity.perturb.hooks import hooked


def outputs_inside(model: nn.Module, task: Task, batch: Batch) -> Any:
    """Run a task on a batch, and return what the model returned: for tasks whose batches hold no inputs for it.

    The task itself gets copies without gradients, so that it may turn them into numbers and write to them.

    Returns:
        The model's outputs; a list of them where the task called it several times.

    Raises:
        TaskError: If it never called the model as a whole.
    """
    outputs: list[Any] = []

    def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        outputs.append(output)
        return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, output)

    with hooked(after=[(model, keep)]):
        task.predict(model, batch)
    if not outputs:
        raise TaskError(
            f"{task.name} never calls the {type(model).__name__} as a whole, only parts or methods of it, so there are "
            "no outputs of the model to look at. Give preprocessed images in the place of the task."
        )
    return outputs[0] if len(outputs) == 1 else outputs
