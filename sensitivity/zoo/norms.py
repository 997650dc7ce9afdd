"""Replace every norm of a network, to compare what quantization and pruning do to it with each kind.

::

    variants = {name: convert(model, name) for name in ("frozen-batch", "group", "evonorm-s0", "switchable")}

A norm over channels is replaced: batch, synchronised, frozen, group, instance norm and those of this module, whatever
library they come from. A ``LayerNorm`` over tokens normalises another axis and is left alone. Scale and shift of a
channel carry over, running statistics where both kinds have them. Everything else is as in the model, so only a change
between batch kinds (``batch``, ``sync-batch``, ``frozen-batch``) keeps the outputs; after the others the model needs
training. An activation behind the norm stays, behind EvoNorm too, which has one of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import gcd
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensitivity.errors import ModelError

GROUPS = 32
MOMENTUM = 0.1


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics, scale and shift are constants.

    Args:
        channels: C.
        eps: added to the variance.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, ...)`` to the same shape."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class EvoNormS0(nn.Module):
    """EvoNorm-S0: a norm and an activation in one, over groups of channels of one image.

    x * sigmoid(v * x) / sqrt(var + eps) * weight + bias, with the variance of the image's group of channels.

    Args:
        channels: C.
        groups: groups of channels; C is a multiple.
        eps: added to the variance.

    Source:
        Liu et al., *Evolving Normalization-Activation Layers*, NeurIPS 2020, table 2.
    """

    def __init__(self, channels: int, groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = groups
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, ...)`` to the same shape."""
        variance = x.reshape(x.shape[0], self.groups, -1).var(dim=2, correction=0)
        std = (variance + self.eps).sqrt().repeat_interleave(x.shape[1] // self.groups, dim=1)
        std = std.reshape(*std.shape, *[1] * (x.dim() - 2))
        v, weight, bias = (_over_channels(p, x) for p in (self.v, self.weight, self.bias))
        y: Tensor = x * torch.sigmoid(v * x) / std * weight + bias
        return y


class SwitchableNorm(nn.Module):
    """A learned mixture of instance, layer and batch norm.

    Args:
        channels: C.
        eps: added to the variance.

    Source:
        Luo et al., *Differentiable Learning-to-Normalize via Switchable Normalization*, ICLR 2019, equations 2 to 5;
        variances are biased, as in equation 4.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mean_weight = nn.Parameter(torch.ones(3))
        self.var_weight = nn.Parameter(torch.ones(3))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, ...)`` to the same shape; running statistics move in training only."""
        pixels = x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)
        mean = pixels.mean(2)
        var = pixels.var(2, correction=0)
        of_layer = mean.mean(1, keepdim=True)
        second_moment = var + mean**2
        var_of_layer = second_moment.mean(1, keepdim=True) - of_layer**2
        of_batch, var_of_batch = self._of_batch(mean, second_moment)
        mixed_mean = _mix(self.mean_weight, mean, of_layer, of_batch)
        mixed_var = _mix(self.var_weight, var, var_of_layer, var_of_batch)
        normalised = (pixels - mixed_mean.unsqueeze(2)) / (mixed_var.unsqueeze(2) + self.eps).sqrt()
        return normalised.reshape(x.shape) * _over_channels(self.weight, x) + _over_channels(self.bias, x)

    def _of_batch(self, mean: Tensor, second_moment: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.running_mean, self.running_var
        of_batch = mean.mean(0)
        var_of_batch = second_moment.mean(0) - of_batch**2
        with torch.no_grad():
            self.running_mean.lerp_(of_batch, MOMENTUM)
            self.running_var.lerp_(var_of_batch, MOMENTUM)
        return of_batch, var_of_batch


def _mix(weights: Tensor, of_instance: Tensor, of_layer: Tensor, of_batch: Tensor) -> Tensor:
    shares = weights.softmax(0)
    return shares[0] * of_instance + shares[1] * of_layer + shares[2] * of_batch


def _over_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def norm_groups(channels: int) -> int:
    """The groups of a group norm over C channels: 32, or the largest divisor of both where C is no multiple of 32."""
    return gcd(channels, GROUPS)


def _batch(channels: int, eps: float, dims: int) -> nn.Module:
    kinds = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
    return kinds[dims](channels, eps=eps)


def _instance(channels: int, eps: float, dims: int) -> nn.Module:
    kinds = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
    return kinds[dims](channels, eps=eps, affine=True)


KINDS: MappingProxyType[str, Callable[[int, float, int], nn.Module]] = MappingProxyType(
    {
        "batch": _batch,
        "sync-batch": lambda channels, eps, _: nn.SyncBatchNorm(channels, eps=eps),
        "frozen-batch": lambda channels, eps, _: FrozenBatchNorm(channels, eps),
        "group": lambda channels, eps, _: nn.GroupNorm(norm_groups(channels), channels, eps=eps),
        "layer": lambda channels, eps, _: nn.GroupNorm(1, channels, eps=eps),
        "instance": _instance,
        "evonorm-s0": lambda channels, eps, _: EvoNormS0(channels, norm_groups(channels), eps),
        "switchable": lambda channels, eps, _: SwitchableNorm(channels, eps),
    }
)
"""The kinds of norm by name: each makes one from its channels, eps and the dimensions of an image (2 for maps).

``layer`` is over all channels and pixels of an image.
"""


def convert(model: nn.Module, kind: str) -> nn.Module:
    """A copy of a model with every norm over channels replaced.

    Args:
        model: any network; not changed.
        kind: a key of :data:`KINDS`: "batch", "sync-batch", "frozen-batch", "group", "layer", "instance",
            "evonorm-s0" or "switchable".

    Returns:
        The copy, on the same device, of the same dtype and in the same mode. A norm that several places share is
        replaced by one that they share.

    Raises:
        ModelError: no norm has this name, or the model has no norm over channels.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r:.120} is no torch.nn.Module. Give the network itself.")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ModelError(f"no norm is called kind={kind!r}. Choose one of: {', '.join(map(repr, KINDS))}.")
    if is_norm(model):
        return _replacement(model, kind)
    copied = copy.deepcopy(model)
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if is_norm(child):
                replaced.setdefault(child, _replacement(child, kind))
                setattr(parent, name, replaced[child])
    if not replaced:
        raise ModelError(
            f"{type(model).__name__} has no norm over channels to replace. Give a model with batch, group or instance "
            "norms."
        )
    return copied


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises the channels of a map: torch's norms, frozen batch norms of any library, ours."""
    if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | EvoNormS0 | SwitchableNorm):
        return True
    holds = module.state_dict(keep_vars=True).keys()
    return "Norm" in type(module).__name__ and {"weight", "bias", "running_mean", "running_var"} <= holds


def _replacement(old: nn.Module, kind: str) -> nn.Module:
    new = KINDS[kind](_channels(old), float(getattr(old, "eps", 1e-5)), _dims(old))
    known = {name: tensor for name, tensor in old.state_dict().items() if tensor is not None}
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            value, target = known.get(name), getattr(new, name, None)
            if value is not None and target is not None:
                target.copy_(value)
    place = next(iter(known.values()), None)
    return new.to(device=place.device, dtype=_float_dtype(known)).train(old.training) if place is not None else new


def _channels(norm: nn.Module) -> int:
    for name in ("num_features", "num_channels"):
        if isinstance(getattr(norm, name, None), int):
            return int(getattr(norm, name))
    return len(norm.state_dict()["weight"])


def _dims(norm: nn.Module) -> int:
    """Dimensions of an image as its class tells them: BatchNorm1d is for signals or plain features."""
    suffix = type(norm).__name__[-2:]
    return int(suffix[0]) if suffix in ("1d", "3d") else 2


def _float_dtype(tensors: dict[str, Tensor]) -> torch.dtype | None:
    return next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), None)
