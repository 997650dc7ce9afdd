"""From what a module takes and returns to a flat list of tensors, as graphs know them, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from sensitivity.errors import EngineError


@dataclass(frozen=True, eq=False)
class Tree:
    """A nest of tensors and other things: which leaves are tensors, and what the others are.

    Attributes:
        spec: Shape of the nest.
        constants: Its leaves, with None in the place of tensors.
        places: Positions of the tensors among the leaves.
        shapes: Their shapes.
        dtypes: Their types.
    """

    spec: TreeSpec
    constants: tuple[Any, ...]
    places: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]

    @classmethod
    def of(cls, value: Any) -> Tree:
        """The tree of a value."""
        leaves, spec = tree_flatten(value)
        places = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        tensors = [leaves[i] for i in places]
        constants = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        return cls(spec, constants, places, tuple(tuple(t.shape) for t in tensors), tuple(t.dtype for t in tensors))

    def filled(self, tensors: Sequence[Tensor]) -> Any:
        """The nest with these tensors in it."""
        leaves = list(self.constants)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        return tree_unflatten(leaves, self.spec)

    def tensors_of(self, value: Any, what: str) -> list[Tensor]:
        """The tensors of a value that is such a nest.

        Args:
            value: The nest.
            what: What it belongs to, for the message.

        Raises:
            EngineError: If it is another nest, or something that is no tensor differs.
        """
        leaves, spec = tree_flatten(value)
        others = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        places = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        if spec != self.spec or places != self.places:
            raise EngineError(
                f"{what} was exported for arguments of the form {self.spec}, with tensors at {self.places}; it was "
                f"given {spec}, with tensors at {places}. Call it as in the example inputs, or deploy it for these."
            )
        if others != self.constants:
            raise EngineError(
                f"{what} was exported with the constant arguments {_given(self.constants)}; it was given "
                f"{_given(others)}. They are part of the graph: deploy it again for other ones."
            )
        return [leaves[place] for place in self.places]


def _given(constants: Sequence[Any]) -> str:
    return ", ".join(repr(one) for one in constants if one is not None) or "none"


@dataclass(frozen=True, eq=False)
class Signature:
    """What one graph takes and returns.

    Attributes:
        inputs: The nest (args, kwargs).
        outputs: The nest that is returned.
        batched_inputs: For each input tensor whether its first axis counts samples.
        batched_outputs: The same for outputs; empty where samples cannot be told apart, and the batch is fixed.
    """

    inputs: Tree
    outputs: Tree
    batched_inputs: tuple[bool, ...]
    batched_outputs: tuple[bool, ...]

    @property
    def batch(self) -> int:
        """Samples in one run of the graph."""
        counts = [shape[0] for shape, many in zip(self.inputs.shapes, self.batched_inputs, strict=True) if many]
        return counts[0] if counts else 1

    @property
    def splits(self) -> bool:
        """Whether a larger batch can be run in pieces."""
        return bool(self.batched_outputs)


@torch.no_grad()
def signature_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signature:
    """What a module takes and returns, and which axes count samples.

    The module is run once as it is and once with twice the samples: what grows counts samples. Where it does not run
    with twice the samples, or something other than the first axis changes, the batch is fixed.

    Args:
        module: In eval mode.
        args: Positional arguments of an example pass.
        kwargs: Keyword arguments likewise.
    """
    inputs = Tree.of((args, kwargs))
    outputs = Tree.of(module(*args, **kwargs))
    samples = inputs.shapes[0][0] if inputs.shapes and inputs.shapes[0] else None
    many = tuple(samples is not None and bool(shape) and shape[0] == samples for shape in inputs.shapes)
    twice = _run_twice(module, inputs, (args, kwargs), many)
    grows = () if twice is None or not any(many) else _growth(outputs, twice)
    return Signature(inputs, outputs, many, grows)


def _run_twice(module: nn.Module, inputs: Tree, given: Any, many: tuple[bool, ...]) -> Tree | None:
    tensors = inputs.tensors_of(given, "the module")
    doubled = [torch.cat([t, t]) if grows else t for t, grows in zip(tensors, many, strict=True)]
    try:
        args, kwargs = inputs.filled(doubled)
        return Tree.of(module(*args, **kwargs))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError):
        return None  # a fixed batch is a fact about the module, not an error


def _growth(once: Tree, twice: Tree) -> tuple[bool, ...]:
    """For each output whether its first axis doubled; empty where anything else changed."""
    if once.spec != twice.spec or once.places != twice.places:
        return ()
    grows = []
    for small, large in zip(once.shapes, twice.shapes, strict=True):
        doubled = bool(small) and large == (2 * small[0], *small[1:])
        if not doubled and small != large:
            return ()
        grows.append(doubled)
    return tuple(grows) if any(grows) else ()


class FlatModule(nn.Module):
    """A module that takes and returns tensors only: what exporters want.

    Args:
        core: The module.
        signature: Its signature.
    """

    def __init__(self, core: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.core = core
        self._signature = signature

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The output tensors in the order of the signature."""
        args, kwargs = self._signature.inputs.filled(tensors)
        leaves, _ = tree_flatten(self.core(*args, **kwargs))
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
