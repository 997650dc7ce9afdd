"""From what a module takes and returns to a flat list of tensors, as graphs know them, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import GetAttrKey, TreeSpec, register_pytree_node, tree_flatten, tree_map, tree_unflatten

from sensitivity.deploy.prepare.measures import sqnr_db
from sensitivity.errors import EngineError

SAME_DB = 60.0
"""Outputs of a sample alone and beside another are the same when they agree so far: rounding alone stays above 90."""

SAME_SHARE = 0.99
"""The same for outputs that are no floats, e.g. an argmax, where rounding can move single elements."""


class _Fields:
    """An opened dataclass: its fields are a node of a nest, which pytree knows; the dataclass itself it does not."""

    def __init__(self, kind: type, values: dict[str, Any]) -> None:
        self.kind, self.values = kind, values


def _rebuilt(kind: type, values: dict[str, Any]) -> Any:
    initialized = {field.name for field in dataclasses.fields(kind) if field.init}
    made = kind(**{name: value for name, value in values.items() if name in initialized})
    for name in values.keys() - initialized:
        object.__setattr__(made, name, values[name])
    return made


register_pytree_node(  # of our own class: nothing changes for others
    _Fields,
    lambda node: (list(node.values.values()), (node.kind, tuple(node.values))),
    lambda values, structure: _rebuilt(structure[0], dict(zip(structure[1], values, strict=True))),
    flatten_with_keys_fn=lambda node: (
        [(GetAttrKey(name), value) for name, value in node.values.items()],
        (node.kind, tuple(node.values)),
    ),
)


def opened_dataclasses(value: Any) -> Any:
    """A nest with the dataclasses opened that pytree takes for leaves."""
    return tree_map(_open, value)


def _open(leaf: Any) -> Any:
    if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
        return leaf
    values = {field.name: getattr(leaf, field.name) for field in dataclasses.fields(leaf)}
    try:
        again = _rebuilt(type(leaf), values)
    except (TypeError, ValueError, AttributeError):
        return leaf  # it is not made of its fields: it cannot be filled with others
    if any(getattr(again, name, None) is not value for name, value in values.items()):
        return leaf  # it changes what it is given
    return _Fields(type(leaf), {name: opened_dataclasses(value) for name, value in values.items()})


def flatten(value: Any) -> tuple[list[Any], TreeSpec]:
    """The leaves of a nest of tuples, dicts, dataclasses and whatever pytree knows, and its shape."""
    return tree_flatten(opened_dataclasses(value))


def tensors_of_nest(value: Any) -> list[Tensor]:
    """Every tensor among the leaves of a nest, in the order in which graphs return them."""
    return [leaf for leaf in flatten(value)[0] if isinstance(leaf, Tensor)]


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
        leaves, spec = flatten(value)
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

    def tensors_of(self, value: Any, subject: str) -> list[Tensor]:
        """The tensors of a value that is such a nest.

        Args:
            value: The nest.
            subject: What the value belongs to, for the message.

        Raises:
            EngineError: If it is another nest, or something that is no tensor differs.
        """
        leaves, spec = flatten(value)
        constants = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        places = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        if spec != self.spec or places != self.places:
            raise EngineError(
                f"{subject} was exported for arguments of the form {self.spec}, with tensors at {self.places}; it was "
                f"given {spec}, with tensors at {places}. Call it as in the example inputs, or deploy it for these."
            )
        if constants != self.constants:
            raise EngineError(
                f"{subject} was exported with the constant arguments {_given(self.constants)}; it was given "
                f"{_given(constants)}. They are part of the graph: deploy it again for other ones."
            )
        return [leaves[place] for place in self.places]


def _given(constants: Sequence[Any]) -> str:
    return ", ".join(repr(constant) for constant in constants if constant is not None) or "none"


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

    The module is run with the samples given, with other ones, and with both at once. An axis counts samples where the
    outputs of the last are those of the first two, one behind the other; what does not grow must stay as it is. Where
    anything else happens (it does not run so, it puts levels before samples, one sample changes what another gives),
    the batch is fixed.

    Args:
        module: In eval mode.
        args: Positional arguments of an example pass.
        kwargs: Keyword arguments likewise.
    """
    inputs = Tree.of((args, kwargs))
    tensors = inputs.tensors_of((args, kwargs), "the module")
    samples = inputs.shapes[0][0] if inputs.shapes and inputs.shapes[0] else None
    many = tuple(samples is not None and bool(shape) and shape[0] == samples for shape in inputs.shapes)
    outputs = _run(module, inputs, tensors)
    grows = _growth(module, inputs, tensors, outputs, many) if any(many) else ()
    return Signature(inputs, Tree.of(outputs), many, grows)


def _run(module: nn.Module, inputs: Tree, tensors: Sequence[Tensor]) -> Any:
    """The module's outputs, for copies of the inputs: it may change them, and may return them."""
    args, kwargs = inputs.filled([tensor.clone() for tensor in tensors])
    return tree_map(
        lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, opened_dataclasses(module(*args, **kwargs))
    )


_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError)
"""A fixed batch is a fact about the module, not an error."""


def _growth(
    module: nn.Module, inputs: Tree, tensors: list[Tensor], once: Any, many: tuple[bool, ...]
) -> tuple[bool, ...]:
    """For each output whether its first axis counts samples; empty where samples cannot be told apart."""
    for other in _other_samples(tensors, many):
        try:
            second = _run(module, inputs, other)
        except _REFUSALS:
            continue  # samples of this kind it does not take: others perhaps
        pairs = zip(tensors, other, many, strict=True)
        try:
            both = _run(module, inputs, [torch.cat([a, b]) if grows else a for a, b, grows in pairs])
        except _REFUSALS:
            return ()
        return _compared(once, second, both)
    return ()


def _other_samples(tensors: list[Tensor], many: tuple[bool, ...]) -> list[list[Tensor]]:
    """Samples unlike those given but of their kind: mirrored, or where that is refused halved."""
    mirrored = [_mirrored(t) if grows else t for t, grows in zip(tensors, many, strict=True)]
    halved = [t / 2 if grows and t.is_floating_point() else t for t, grows in zip(tensors, many, strict=True)]
    return [mirrored, halved]


def _mirrored(tensor: Tensor) -> Tensor:
    """Each sample read backwards, and floats smaller; noise where that changes nothing."""
    turned = tensor.flip(tensor.dim() - 1) if tensor.dim() > 1 else tensor
    if not tensor.is_floating_point():
        return turned
    turned = turned * 0.75
    if not torch.equal(turned, tensor):
        return turned
    return tensor + torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor)


def _compared(first: Any, second: Any, both: Any) -> tuple[bool, ...]:
    (leaves, spec), (other_leaves, other_spec), (joined_leaves, joined_spec) = (
        flatten(first),
        flatten(second),
        flatten(both),
    )
    if not spec == other_spec == joined_spec:
        return ()
    grows = []
    for a, b, c in zip(leaves, other_leaves, joined_leaves, strict=True):
        if not all(isinstance(leaf, Tensor) for leaf in (a, b, c)):
            if isinstance(a, (bool, int, float, str)) and not a == b == c:
                return ()  # e.g. the number of samples
            continue
        if a.dim() and a.shape == b.shape and _same(torch.cat([a, b]), c):
            grows.append(True)
        elif _same(a, c):
            grows.append(False)
        else:
            return ()
    return tuple(grows) if any(grows) else ()


def _same(wanted: Tensor, computed: Tensor) -> bool:
    if wanted.shape != computed.shape or wanted.dtype != computed.dtype:
        return False
    if wanted.is_floating_point():
        return sqnr_db(wanted, computed) > SAME_DB
    return wanted.numel() == 0 or float((wanted == computed).double().mean()) >= SAME_SHARE


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
        return tuple(tensors_of_nest(self.core(*args, **kwargs)))
