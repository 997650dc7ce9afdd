"""Tensors that a traced pass leaves behind outside the model get their real content.

A pass on fake tensors fills caches as any first pass does: an ``lru_cache`` around a function that makes a grid, a
dictionary of a module, a list. What is cached there would be a tensor without content, which the model's own passes
would meet later. So each one that is still alive is computed for real, from the operators that made it, and takes the
place of the fake one in whatever holds it.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from sensitivity.errors import NotRestoredError
from sensitivity.layers.trace.generators import generators_forked


@dataclass(frozen=True, slots=True)
class Made:
    """A value that stands for a tensor in the arguments of an executed operator."""

    value: int


@dataclass(frozen=True, slots=True)
class ExecutedStep:
    """One executed operator.

    Attributes:
        function: The operator; None where a write to memory that is shared gave a tensor new content.
        args: Positional arguments; tensors as ``Made``.
        kwargs: The same for keyword arguments.
        written: The values that the operator wrote to, as they were before.
        outputs: Values of what it wrote and returned, each tensor once.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    written: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass
class Execution:
    """Everything that is needed to compute a value of a traced pass again.

    Attributes:
        steps: Operators in execution order.
        leaves: Tensors that no operator made, by value.
        numbers: The tensors that are alive, each with its value.
    """

    steps: list[ExecutedStep] = field(default_factory=list)
    leaves: dict[int, Tensor] = field(default_factory=dict)
    numbers: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)

    def compute(self, values: set[int], real: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The content that values had, computed on real tensors.

        Args:
            values: Values that an operator made.
            real: The real tensor for each fake one that no operator made, by ``id``.
        """
        needed, steps = set(values), []
        for step in reversed(self.steps):
            if needed.intersection(step.outputs):
                inputs = {leaf.value for leaf in tree_flatten((step.args, step.kwargs))[0] if isinstance(leaf, Made)}
                needed |= inputs
                steps.append(step)
        known = {
            value: real.get(id(leaf), leaf).detach().clone() for value, leaf in self.leaves.items() if value in needed
        }
        for step in reversed(steps):
            _take(step, known)
        return {value: known[value] for value in values}


def _take(step: ExecutedStep, known: dict[int, Tensor]) -> None:
    """Run an operator on real tensors and note what it made."""
    if step.function is None:
        known[step.outputs[0]] = known[step.args[0].value]
        return
    args, kwargs = tree_map(
        lambda leaf: known[leaf.value] if isinstance(leaf, Made) else leaf, (step.args, dict(step.kwargs))
    )
    result = step.function(*args, **kwargs)
    tensors = [known[value] for value in step.written]
    tensors += [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
    known.update(zip(step.outputs, {id(tensor): tensor for tensor in tensors}.values(), strict=True))


def replace_leaks(mode: Any, execution: Execution, twin: nn.Module, real: Mapping[int, Tensor]) -> None:
    """Exchange every fake tensor that something besides the traced copy still holds for a real one.

    Args:
        mode: The ``FakeTensorMode`` that the pass ran in.
        execution: What the pass did.
        twin: The copy of the model that was traced.
        real: The real tensor for each fake one that no operator made, by ``id``.

    Raises:
        NotRestoredError: If one cannot be computed or exchanged.
    """
    if not _leaked(execution, twin):
        return
    gc.collect()  # what only hangs in a circle is not leaked
    leaked = _leaked(execution, twin)
    if not leaked:
        return
    execution.numbers.clear()  # weak references, beside which a tensor cannot be exchanged
    mode.fake_tensor_converter.meta_converter.tensor_memo.clear()  # others
    try:
        with generators_forked(), torch.no_grad():
            contents = execution.compute({value for _, value in leaked}, real)
        for fake, value in leaked:
            _exchange(fake, contents[value].clone())
    except Exception as error:
        shapes = ", ".join(str(tuple(fake.shape)) for fake, _ in leaked[:3])
        raise NotRestoredError(
            f"{type(twin).__name__} keeps tensors of its first pass outside itself (shapes {shapes}), and wrap() "
            f"cannot give them their content: {error}. Run the model once on real inputs, then call wrap() again in a "
            "new process."
        ) from error


def _exchange(fake: Tensor, real: Tensor) -> None:
    """Give one tensor object the content of another; ``torch.utils.swap_tensors`` refuses bases of views."""
    fake.__class__, real.__class__ = real.__class__, fake.__class__
    fake.__dict__, real.__dict__ = real.__dict__, fake.__dict__
    torch._C._swap_tensor_impl(fake, real)


def _leaked(execution: Execution, twin: nn.Module) -> list[tuple[Tensor, int]]:
    alive = [(tensor, int(value)) for tensor, value in execution.numbers.items()]  # type: ignore[no-untyped-call]
    made = [
        (tensor, value) for tensor, value in alive if isinstance(tensor, FakeTensor) and value not in execution.leaves
    ]
    if not made:
        return []
    own = {
        id(leaf)
        for module in twin.modules()
        for leaf in tree_flatten([value for name, value in vars(module).items() if name != "_modules"])[0]
        if isinstance(leaf, Tensor)
    }
    return [(tensor, value) for tensor, value in made if id(tensor) not in own]
