"""Activations of one layer, observed or quantized on their way through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.errors import CalibrationError, RecipeError
from sensitivity.perturb.hooks import After, Arguments, Before, Counting, modules_around
from sensitivity.perturb.operators import AtOperator, Unnested
from sensitivity.perturb.parameters import parameter_place
from sensitivity.perturb.rounding_mode import nothing_rounded
from sensitivity.records import Layer, Recipe

Change = Callable[[str, int, Tensor], Tensor | None]
"""What happens to a tensor: place, call number and tensor in; a new tensor or None (leave it) out."""

ChangeWeight = Callable[[Tensor, int], Tensor]
"""What happens to a weight that is computed in each pass: the weight and its axis of output channels in."""


@dataclass
class Hooks:
    """What to register for one layer or for many."""

    before: list[tuple[nn.Module, Before]] = field(default_factory=list)
    after: list[tuple[nn.Module, After]] = field(default_factory=list)


def activation_hooks(
    model: nn.Module,
    layer: Layer,
    recipe: Recipe,
    change: Change,
    *,
    strict: bool = False,
    change_weight: ChangeWeight | None = None,
    outputs: bool = False,
    adds_later: bool = False,
) -> Hooks:
    """Hooks that hand every tensor a recipe's placement quantizes to ``change``.

    ``deploy``: the layer's input. ``conv-norm-act``: also the output of the layer, of its norm and of its activation.

    Calls are numbered within a pass, the outermost call of any module that holds the layer: the k-th of a pass is
    taken for the k-th that was traced. A layer that ran once when it was traced has call 0 alone, however often it
    runs.

    Args:
        model: The model.
        layer: One of its layers.
        recipe: Its placement says which tensors.
        change: What happens to them.
        strict: Refuse passes of a part of the model in which the layer runs less often than it was traced: which of its
            calls they are cannot be known.
        change_weight: What happens to the weight, where it is not a parameter that could be exchanged.
        outputs: Hand the layer's output over as well, whatever the placement.
        adds_later: Hand it over without its bias where the layer is met at its operator, which adds it then.

    Raises:
        RecipeError: If the placement needs a tensor behind a function, which no hook can see.
    """
    module = model.get_submodule(layer.module)
    hooks = Hooks()
    calls: _Calls
    outputs = outputs or recipe.placement == "conv-norm-act"
    if layer.runs_in is None:
        calls = _Calls(model, layer, recipe, change, strict=strict)
        hooks.before.append((module, calls))
        hooks.after += [(module, calls.on_output)] if outputs else []
    else:
        calls = _Products(model, layer, recipe, change, strict=strict, change_weight=change_weight, outputs=outputs)
        calls.adds_later = adds_later
        hooks.before.append((model.get_submodule(layer.runs_in), calls))
    hooks.before += [(encoder, Unnested(encoder)) for encoder in _encoders_around(model, layer)]
    if recipe.placement == "conv-norm-act":
        for place, path, name in _behind(layer):
            if path is not None:
                hooks.after.append((model.get_submodule(path), calls.on_output_behind(place)))
            elif name is not None:
                raise RecipeError(
                    f"{layer.name}: its {place} {name} is written as a function, whose output no hook can quantize. "
                    "Use a recipe with placement 'deploy', or write it as a module."
                )
    return hooks


def _encoders_around(model: nn.Module, layer: Layer) -> list[nn.TransformerEncoder]:
    """The encoders of torch that hold a layer."""
    steps = layer.module.split(".")
    around = [model.get_submodule(".".join(steps[:number])) for number in range(len(steps))]
    return [module for module in around if isinstance(module, nn.TransformerEncoder)]


def _behind(layer: Layer) -> list[tuple[str, str | None, str | None]]:
    """Place, module and name of what follows a layer."""
    return [
        ("norm", layer.norm_module, layer.norm),
        ("activation", layer.activation_module, layer.activation),
    ]


class _Calls(Counting):
    """What happens to the tensors of one layer, call by call; called with the layer's input.

    Attributes:
        first: Number of the call that a pass starts with, where one call is run by itself; None for whole passes.
    """

    def __init__(self, model: nn.Module, layer: Layer, recipe: Recipe, change: Change, *, strict: bool) -> None:
        counts = layer.calls > 1 or recipe.placement == "conv-norm-act"
        runs_in = layer.module if layer.runs_in is None else layer.runs_in
        super().__init__(modules_around(model, model.get_submodule(runs_in)) if counts else ())
        self.first: int | None = None
        self._model = model
        self._layer = layer
        self._change = change
        self._strict = strict
        self._started = 0
        self._due: set[str] = set()  # norm and activation that have yet to run behind the last call

    def start_pass(self) -> None:
        """The next call is the first one."""
        self._started = self.first or 0
        self._due.clear()

    def end_pass(self, outermost: nn.Module) -> None:
        """Refuse a pass of a part of the model that is known to lack calls.

        Raises:
            CalibrationError: If which calls these were cannot be known.
        """
        lacks = 0 < self._started < self._layer.calls and outermost is not self._model
        if self._strict and self.first is None and lacks:
            raise CalibrationError(
                f"{self._layer.name} ran {self._started} time(s) in a call of a {type(outermost).__name__} from "
                f"outside the model, and {self._layer.calls} times when the model was traced: which of its ranges to "
                "use cannot be known. Call the model itself, or wrap it with an example in which this part runs once."
            )

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Hand the input over; the same tensor given twice is changed once."""
        self._start()
        changed: dict[int, Tensor] = {}

        def replace(value: Any) -> Any:
            usable = isinstance(value, Tensor) and value.is_floating_point()
            if not usable or (changed and id(value) not in changed):
                return value
            if id(value) not in changed:
                result = self._change("input", self._call, value)
                changed[id(value)] = value if result is None else result
            return changed[id(value)]

        return tuple(replace(value) for value in args), {key: replace(value) for key, value in kwargs.items()}

    def _start(self) -> None:
        self._started += 1
        self._due = {"norm", "activation"}

    def on_output(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        """Hand the layer's output over."""
        return self._change("output", self._call, output) if isinstance(output, Tensor) else None

    def on_output_behind(self, place: str) -> After:
        """For a norm or activation module that may serve several layers: acts only right behind its own layer."""

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            if place not in self._due or not isinstance(output, Tensor):
                return None  # another layer's turn: ours has not run since
            self._due.remove(place)
            return self._change(place, self._call, output)

        return after

    @property
    def _call(self) -> int:
        return self._started - 1 if self._layer.calls > 1 else 0


class _Products(_Calls, AtOperator):
    """What happens to the tensors of one layer where its operator multiplies them, product by product."""

    def __init__(
        self,
        model: nn.Module,
        layer: Layer,
        recipe: Recipe,
        change: Change,
        *,
        strict: bool,
        change_weight: ChangeWeight | None,
        outputs: bool,
    ) -> None:
        super().__init__(model, layer, recipe, change, strict=strict)
        self.parameter = parameter_place(model, layer)
        self.dynamic_kernel = layer.has_dynamic_kernel
        self._change_weight = change_weight
        self._behind = outputs
        in_integers = recipe.weights is not None and recipe.activations is not None
        self._exact = nothing_rounded if in_integers else contextlib.nullcontext

    def operand(self, tensor: Tensor) -> Tensor:
        """Hand the input over."""
        self._start()
        with self._exact():
            return self._changed("input", tensor, self._layer.in_channels)

    def weight(self, tensor: Tensor, axis: int) -> Tensor:
        """Hand the weight over, where it is computed; that of a dynamic convolution image by image."""
        if self._change_weight is None:
            return tensor
        if not self.dynamic_kernel:
            with self._exact():
                return self._change_weight(tensor, axis)
        transposed = self._layer.conv_type.startswith("ConvTranspose")
        kernels = torch.split(tensor, self._layer.in_channels if transposed else self._layer.out_channels)
        return torch.cat([self._change_weight(kernel, axis) for kernel in kernels])

    def product(self, tensor: Tensor) -> Tensor:
        """Hand the output over."""
        return self._changed("output", tensor, self._layer.out_channels) if self._behind else tensor

    def _changed(self, place: str, tensor: Tensor, channels: int) -> Tensor:
        """What stands for a tensor; images that a dynamic convolution reads as groups of one are told apart first."""
        images = tensor
        if self.dynamic_kernel and tensor.dim() > 2 and tensor.shape[0] == 1 and tensor.shape[1] != channels:
            images = tensor.reshape(-1, channels, *tensor.shape[2:])
        changed = self._change(place, self._call, images)
        return tensor if changed is None else changed.reshape(tensor.shape)


def one_call(hooks: Hooks, call: int | None) -> None:
    """Say that the next passes run one call of a layer by itself, and which; None for whole passes again."""
    for _, function in hooks.before:
        if isinstance(function, _Calls):
            function.first = call


Quantizers = Mapping[tuple[str, int], Callable[[Tensor], Tensor]]
"""A function for each place and call of a layer."""


def quantizer(quantizers: Quantizers, layer: str = "a layer") -> Change:
    """A change that quantizes each place of each call with its own quantizer; see ``quantizer_of``."""

    def change(place: str, call: int, tensor: Tensor) -> Tensor | None:
        function = quantizer_of(quantizers, layer, place, call, tensor)
        return None if function is None else function(tensor)

    return change


def unchanged(_: str, __: int, ___: Tensor) -> Tensor | None:
    """A change that leaves every tensor as it is."""
    return None


def quantizer_of(
    quantizers: Quantizers, layer: str, place: str, call: int, tensor: Tensor
) -> Callable[[Tensor], Tensor] | None:
    """What quantizes a tensor; None where its place is not quantized, or it is empty.

    Raises:
        CalibrationError: If other calls were calibrated there, and this one was not.
    """
    if not tensor.numel():
        return None
    function = quantizers.get((place, call))
    known = [f"#{number}" for known_place, number in sorted(quantizers) if known_place == place]
    if function is None and known:
        raise CalibrationError(
            f"call #{call} of {layer} in one pass was never calibrated, only {', '.join(known)}: no range is known for "
            "its values. Calibrate on images that make it run as often; where it runs once for each image of a batch, "
            "wrap the model with an example of one image."
        )
    return function


def observer(observe: Callable[[str, int, Tensor], None]) -> Change:
    """A change that changes nothing and looks at every tensor."""

    def change(place: str, call: int, tensor: Tensor) -> Tensor | None:
        with torch.no_grad():
            observe(place, call, tensor.detach())
        return None

    return change
