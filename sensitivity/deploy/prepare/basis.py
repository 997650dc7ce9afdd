"""What all plans of one model share: its copy with batch norms folded, and one example pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sensitivity.contracts.task import arguments_of
from sensitivity.deploy.prepare.folded import folded_copy
from sensitivity.deploy.prepare.multiplied import Multiplied, find_multiplied
from sensitivity.deploy.prepare.signature import signature_of
from sensitivity.layers.table import LayerTable
from sensitivity.layers.trace.inputs import on_device_of, tensors_in
from sensitivity.perturb.half.kept import KeptModules
from sensitivity.perturb.restore import untouched
from sensitivity.perturb.state.sole_use import sole_use
from sensitivity.weights import modules_digest, weights_digest


@dataclass(frozen=True, eq=False)
class Basis:
    """What all plans of one model share: it is folded once, and exported once for each choice of parts.

    Attributes:
        model: A frozen copy of the model in eval mode, batch norms folded.
        layers: The layers of that copy.
        unfolded: Layers whose norm could not be folded, with the reason.
        args: Positional arguments of one example pass, cut to one sample where that is possible.
        kwargs: Keyword arguments likewise.
        digest: Of the weights that the copy was made of.
        modules: Of the paths and classes of the model's modules then.
        settings: Of these with their plain attributes.
        multiplied: For layers that are met at their operator, the weight of each call as it is multiplied.
        exports: Kept by ``deploy.export.export``.
        kept: Kept by ``Plan.kept``.
    """

    model: nn.Module
    layers: LayerTable
    unfolded: Mapping[str, str]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    digest: str
    modules: str
    settings: str
    multiplied: Mapping[str, tuple[Multiplied, ...]] = field(default_factory=dict, repr=False)
    exports: dict[Any, Any] = field(default_factory=dict, repr=False)
    kept: dict[Any, KeptModules] = field(default_factory=dict, repr=False)


def make_basis(model: nn.Module, layers: LayerTable, example_inputs: Any) -> Basis:
    """A folded copy of a model, to plan with.

    Args:
        model: Any module; not changed.
        layers: Its layers.
        example_inputs: What it accepts: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Raises:
        ExportError: If the model cannot be copied.
        TracingError: If it fails with these inputs.
        ModelInUseError: If the model is perturbed now, or another thread measures it.
    """
    arguments = on_device_of(model, arguments_of(example_inputs))
    args, kwargs = one_sample(arguments)
    with sole_use(model):
        if not _runs_singly(model, args, kwargs):
            args, kwargs = arguments
        folded = folded_copy(model, layers, args, kwargs)
        multiplied = find_multiplied(folded.model, folded.layers, args, kwargs)
        digests = weights_digest(model), modules_digest(model), modules_digest(model, settings=True)
        return Basis(folded.model, folded.layers, folded.kept, args, kwargs, *digests, multiplied)


def _runs_singly(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the model can be run sample by sample, so that a graph for one serves any number."""
    with untouched(model):
        try:
            return signature_of(model, args, kwargs).splits
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            return False  # it does not take one sample alone


def one_sample(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with every tensor that counts samples cut to the first one.

    A tensor counts samples where its first axis is as long as that of the first tensor.
    """
    first = next(tensors_in(arguments), None)
    if first is None or first.dim() == 0 or first.shape[0] <= 1:
        return arguments
    samples = first.shape[0]

    def cut(leaf: Any) -> Any:
        counts = isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == samples
        return leaf[:1] if counts else leaf

    cut_args, cut_kwargs = tree_map(cut, arguments)
    return tuple(cut_args), dict(cut_kwargs)
