"""How far one layer's own output is from unperturbed, on the inputs that it has in the unperturbed model."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.perturb.activations import activation_hooks, one_call, quantizer
from sensitivity.perturb.hooks import After, Counting, hooked, modules_around
from sensitivity.perturb.operators import AtOperator, Unnested
from sensitivity.perturb.parameters import parameter_place
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.perturb.weights import changed_in_passing, exchanged
from sensitivity.records import Layer, Recipe
from sensitivity.sweep.signals.fidelity import Fidelity


@dataclass
class Turn:
    """Shared by all comparisons of a pass: whether one of them runs a module, which the others must not look at.

    Attributes:
        taken: Whether one does.
    """

    taken: bool = False


class Local(Counting):
    """Runs a module once more on each of its unperturbed inputs, and compares what one layer in it gives.

    Args:
        layer: The layer.
        recipe: What is done to it.
        perturber: Does it.
        turn: Shared by all comparisons.
    """

    def __init__(self, layer: Layer, recipe: Recipe, perturber: Perturber, turn: Turn) -> None:
        self.module = perturber.model.get_submodule(layer.module if layer.runs_in is None else layer.runs_in)
        super().__init__(modules_around(perturber.model, self.module) if layer.calls > 1 else ())
        self.layer = layer
        self.fidelity = Fidelity()
        self.failure = ""
        self._recipe = recipe
        self._perturber = perturber
        self._turn = turn
        self._started = 0

    @property
    def is_alone(self) -> bool:
        """Whether a failure says that the layer cannot be run perturbed at all."""
        return self.layer.runs_in is None

    @property
    def after(self) -> After | None:
        """What runs on the module's output."""
        return None

    def start_pass(self) -> None:
        """The next call is the first one."""
        self._started = 0

    def _compare(self, *arguments: Any) -> None:
        """Run the module once more and compare.

        Raises:
            Exception: Whatever the module raises.
        """
        raise NotImplementedError

    def _attempt(self, *arguments: Any) -> None:
        self._turn.taken = True
        try:
            self._compare(*arguments)
        except Exception as error:  # noqa: BLE001 - as in a sweep: the layer is reported, the rest goes on
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._turn.taken = False


class LocalModule(Local):
    """For a layer whose module does nothing else: the module's output."""

    _arguments: tuple[tuple[Any, ...], dict[str, Any]] = (), {}

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember what the layer is called with."""
        if not self._turn.taken:
            self._started += 1
            self._arguments = args, kwargs

    @property
    def after(self) -> After:
        """Call it again, perturbed."""
        return self._again

    def _again(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if not self._turn.taken:
            self._attempt(output)
            self._arguments = (), {}

    def _compare(self, output: Any) -> None:
        args, kwargs = self._arguments
        with self._perturber.applied({self.layer: self._recipe}, call=self._started - 1):
            perturbed = self.module(*args, **kwargs)
        self.fidelity.add(_first(output), _first(perturbed))


class LocalProduct(Local):
    """For a layer that is met at its operator: the products that it gives in a call of the module around it.

    The module runs twice more: as it is, and with the layer perturbed, where each product is compared and then
    exchanged for the unperturbed one, so that the next product of the layer reads what it would have read.
    """

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run what is about to be called."""
        if not self._turn.taken and not self.failure:
            self._attempt(args, kwargs)

    def _compare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        layer, recipe, perturber = self.layer, self._recipe, self._perturber
        recorder = _Recorder(perturber.model, layer)
        quantize = quantizer(perturber.quantizers(layer, recipe), layer.name)
        pending: list[Tensor] = []

        def change(place: str, call: int, tensor: Tensor) -> Tensor | None:
            changed = quantize(place, call, tensor)
            if place != "output":
                return changed
            unperturbed = pending.pop(0)
            self.fidelity.add(unperturbed, tensor if changed is None else changed)
            return unperturbed

        change_weight = changed_in_passing(perturber.model, layer, recipe)
        hooks = activation_hooks(perturber.model, layer, recipe, change, change_weight=change_weight, outputs=True)
        unnested = [(module, hook) for module, hook in hooks.before if isinstance(hook, Unnested)]
        with hooked(before=[(self.module, recorder), *unnested]):
            self._run(args, kwargs)
        pending += recorder.products
        one_call(hooks, self._started)
        self._started += len(recorder.products)
        weight = perturber.changed_weight(layer, recipe)
        with contextlib.ExitStack() as stack:
            if weight is not None:
                stack.enter_context(exchanged(perturber.model.get_submodule(layer.module), layer.weight, weight))
            stack.enter_context(hooked(before=hooks.before, after=hooks.after))
            self._run(args, kwargs)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        copied: tuple[tuple[Any, ...], dict[str, Any]] = tree_map(_Copies(), (args, kwargs))
        with untouched(self.module):
            self.module(*copied[0], **copied[1])


class _Recorder(AtOperator):
    """Keeps the products of one layer."""

    def __init__(self, model: nn.Module, layer: Layer) -> None:
        self.parameter = parameter_place(model, layer)
        self.dynamic_kernel = layer.has_dynamic_kernel
        self.products: list[Tensor] = []

    def operand(self, tensor: Tensor) -> Tensor:
        """Leave it."""
        return tensor

    def weight(self, tensor: Tensor, _: int) -> Tensor:
        """Leave it."""
        return tensor

    def product(self, tensor: Tensor) -> Tensor:
        """Keep a copy."""
        self.products.append(tensor.detach().clone())
        return tensor


def local_of(layer: Layer, recipe: Recipe, perturber: Perturber, turn: Turn) -> Local:
    """What compares the own output of a layer."""
    return (LocalModule if layer.runs_in is None else LocalProduct)(layer, recipe, perturber, turn)


class _Copies:
    """Tensors of their own, since a module may write to what it is called with; one for each object.

    Attention tells by the object whether query, key and value are the same.
    """

    def __init__(self) -> None:
        self._copies: dict[int, Tensor] = {}

    def __call__(self, value: Any) -> Any:
        """A copy of a tensor; anything else itself."""
        return self._copies.setdefault(id(value), value.clone()) if isinstance(value, Tensor) else value


def _first(output: Any) -> Tensor:
    return next(tensor for tensor in tensors_in(output) if tensor.is_floating_point())
