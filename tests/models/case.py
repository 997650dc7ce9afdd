"""One awkward model, and what any correct reading of it must say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

POSITION_FLAGS = frozenset({"stem", "output", "exit", "depthwise", "attention-pointwise"})
"""Flags that a case states in full; ``no-norm``, ``no-activation`` and ``shared`` follow from the other facts."""

Name = str | None
Names = Name | tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class ExpectedLayer:
    """Facts about one layer, written by hand from the model's source.

    Attributes:
        module: Qualified path.
        norms: Every name that is right for the normalisation; a set of one wherever the name is certain.
        activations: Every name that is right for the activation.
        has: Flags that must be there.
        lacks: Flags that must not be there.
        calls: Runs in one forward pass.
        kind: Block type, or None where the definitions leave a choice.
        role: Place within the block, or None where the definitions leave a choice.
        conv_type: Class of the operator, or None where the module is of a class of its own.
    """

    module: str
    norms: frozenset[Name]
    activations: frozenset[Name]
    has: frozenset[str]
    lacks: frozenset[str]
    calls: int = 1
    kind: str | None = None
    role: str | None = None
    conv_type: str | None = None


def layer(
    module: str,
    norm: Names = None,
    activation: Names = None,
    flags: str = "",
    *,
    unsure: str = "",
    calls: int = 1,
    kind: str | None = None,
    role: str | None = None,
    conv_type: str | None = None,
) -> ExpectedLayer:
    """Expect a layer; flags of position that are neither in ``flags`` nor in ``unsure`` must be absent.

    Args:
        module: Qualified path.
        norm: Name of the normalisation; a tuple where several names are right.
        activation: Name of the activation; a tuple where several names are right.
        flags: Flags of position, separated by spaces.
        unsure: Flags of position on which the definitions are silent.
        calls: Runs in one forward pass.
        kind: Block type where sure.
        role: Place within the block where sure.
        conv_type: Class of the operator where worth a check.
    """
    norms = frozenset(norm if isinstance(norm, tuple) else (norm,))
    activations = frozenset(activation if isinstance(activation, tuple) else (activation,))
    has = set(flags.split())
    lacks = set(POSITION_FLAGS) - has - set(unsure.split())
    (has if calls > 1 else lacks).add("shared")
    for names, flag in ((norms, "no-norm"), (activations, "no-activation")):
        if names == {None}:
            has.add(flag)
        elif None not in names:
            lacks.add(flag)
    return ExpectedLayer(module, norms, activations, frozenset(has), frozenset(lacks), calls, kind, role, conv_type)


def seeded(seed: int, make: Callable[[], Any]) -> Any:
    """What ``make`` returns from this seed, with the caller's generator left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


@dataclass(frozen=True, slots=True)
class Case:
    """One model of the zoo.

    Attributes:
        name: Unique, and a Python identifier.
        make: Makes the model from torch's current seed.
        example: Makes the inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        layers: Every layer in execution order.
        skipped: Path of a module in no layer, to a word of the reason that must be given.
        either: Paths that may be a layer or be skipped with a reason, but not be forgotten.
        in_training: The model is handed over in training mode.
    """

    name: str
    make: Callable[[], nn.Module]
    example: Callable[[], Any]
    layers: Sequence[ExpectedLayer]
    skipped: dict[str, str] = field(default_factory=dict)
    either: frozenset[str] = frozenset()
    in_training: bool = False

    def build(self, seed: int = 0) -> nn.Module:
        """A new model with weights from this seed, in evaluation mode unless the case is about training mode."""
        model: nn.Module = seeded(seed, self.make)
        return model if self.in_training else model.eval()

    @property
    def inputs(self) -> Any:
        """New example inputs, the same values each time."""
        return seeded(1234, self.example)


def image(
    size: int = 16, *, batch: int = 1, channels: int = 3, dtype: torch.dtype = torch.float32
) -> Callable[[], Tensor]:
    """Maker of an image batch (N, C, size, size) of normal noise."""
    return lambda: torch.randn(batch, channels, size, size).to(dtype)


def conv_norm_act(read: int, write: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm and ReLU under the names ``conv``, ``norm`` and ``act``."""
    block = nn.Sequential()
    block.add_module("conv", nn.Conv2d(read, write, kernel, stride, kernel // 2, groups=groups, bias=False))
    block.add_module("norm", nn.BatchNorm2d(write))
    block.add_module("act", nn.ReLU())
    return block
