"""One place where a model can be perturbed, as facts about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from math import prod
from typing import Any

from sensitivity.errors import StudyError


@dataclass(frozen=True, slots=True)
class Layer:
    """A named module with one weight, and what follows it.

    Attributes:
        name: Unique name ``stage:block:layer``, e.g. ``stage3:0:1``; blocks and layers count from zero.
        module: Qualified path of the module in the model, e.g. ``backbone.stages.3.op_list.0.main.depth_conv.conv``.
        kind: Block type: ``independent``, ``res``, ``fmb`` (fused MBConv), ``mb`` (MBConv), ``csp`` (cross-stage
            partial) or ``att`` (attention).
        role: Place within its block: ``stem``, ``conv``, ``linear``, ``expand``, ``depthwise``, ``exit``, ``gate``,
            ``position``, ``qkv``, ``scale-depthwise``, ``scale-pointwise``, ``proj``, ``shortcut``, ``neck``,
            ``output``.
        flags: What its structure says: ``exit``, ``attention-pointwise``, ``depthwise``, ``stem``, ``output``,
            ``no-norm``, ``no-activation``, ``shared``, ``computed-weight``, ``dynamic-kernel``,
            ``batched-weight``.
        norm: Class of the normalisation that follows by data flow, or None.
        activation: Activation that follows by data flow, e.g. ``ReLU`` or ``GELU(tanh)``, or None.
        calls: How often one forward pass runs the module; more than one for a shared head.
        order: Position of its first call in execution order, from zero.
        conv_type: Class of the operator: ``Conv1d``, ``Conv2d``, ``Conv3d``, ``ConvTranspose2d`` ..., or ``Linear``.
        kernel_size: Kernel side lengths; empty for a linear layer.
        stride: Strides; empty for a linear layer.
        groups: Groups of the convolution; 1 for a linear layer.
        in_channels: Channels (features) read.
        out_channels: Channels (features) written.
        parameters: Elements of weight and bias.
        weight_bytes: Bytes of the weight as stored in the model.
        macs: Multiply-adds of all its calls in one forward pass of the example inputs.
        activation_elements: Elements written by all its calls in one forward pass of the example inputs.
        weight: Attribute of the module that holds the weight.
        norm_module: Path of the module that normalises the output, or None (no norm, or one that is no module).
        activation_module: Path of the module that is the activation, or None (none, or a function).
        parameter: Path of the parameter that the weight is made of, the largest where there are several; empty in a
            study of an older version, where it is the weight itself.
        output_axis: Axis of the parameter that counts output channels; None where what is multiplied is computed from
            the parameter, which then is quantized as it is multiplied.
        runs_in: Path of the module in whose calls the layer's operator runs, where the operator alone tells what the
            layer's input is: attention, recurrent cells, modules that use the weight of another one. None where the
            input is what the layer's own module is called with.
        norm_folds: Whether the norm module counts the channels that the layer writes, so that a batch norm can be
            folded into the weight; False where it counts tokens, or stands behind another arrangement of the channels.

    A layer found in a model has every number. In a study read from a table that does not tell, ``macs`` and
    ``activation_elements`` are None and the channels 0.
    """

    name: str
    module: str
    kind: str
    role: str
    flags: frozenset[str]
    norm: str | None
    activation: str | None
    calls: int
    order: int
    conv_type: str
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    in_channels: int
    out_channels: int
    parameters: int
    weight_bytes: int
    macs: int | None
    activation_elements: int | None
    weight: str = "weight"
    norm_module: str | None = None
    activation_module: str | None = None
    parameter: str = ""
    output_axis: int | None = 0
    runs_in: str | None = None
    norm_folds: bool = True

    @property
    def has_dynamic_kernel(self) -> bool:
        """Whether its weight depends on the model's input: a kernel that is mixed, scaled or chosen in each pass."""
        return "dynamic-kernel" in self.flags

    @property
    def stage(self) -> str:
        """Text before the block number, e.g. ``stage3`` or ``neck``."""
        return self.name.rsplit(":", 2)[0]

    @property
    def block(self) -> int:
        """Block number within the stage, from zero."""
        return int(self.name.rsplit(":", 2)[1])

    @property
    def index(self) -> int:
        """Layer number within the block, from zero."""
        return int(self.name.rsplit(":", 2)[2])

    @property
    def weight_elements(self) -> int:
        """Elements of the weight alone; of weight and bias where the channels are not known."""
        if not self.in_channels or not self.out_channels:
            return self.parameters
        return self.in_channels * self.out_channels // self.groups * prod(self.kernel_size)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` turns back into an equal layer."""
        plain = asdict(self)
        plain["flags"] = sorted(self.flags)
        plain["kernel_size"] = list(self.kernel_size)
        plain["stride"] = list(self.stride)
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Layer:
        """The layer that ``to_json`` described; keys that a newer version added are ignored.

        Raises:
            StudyError: If this is no layer.
        """
        required = {field.name for field in fields(cls) if field.default is MISSING}
        if not isinstance(plain, Mapping) or not required <= set(plain):
            raise StudyError(f"not a layer: expected what Layer.to_json gives, got {plain!r:.120}.")
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in plain.items() if key in known}
        values["flags"] = frozenset(values["flags"])
        values["kernel_size"] = tuple(values["kernel_size"])
        values["stride"] = tuple(values["stride"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class SkippedModule:
    """A module with a weight that is in no layer, and why.

    Attributes:
        module: Qualified path.
        reason: Why it cannot be perturbed, e.g. ``never called with the example inputs``.
    """

    module: str
    reason: str
