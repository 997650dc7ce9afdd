"""Which layers probably matter, from one backward pass and one image: ESTIMATES to choose what to measure first."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.errors import CalibrationError, ModelError
from sensitivity.layers.trace.inputs import tensors_in
from sensitivity.perturb.activations import Hooks, activation_hooks, quantizer_of
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import spare_buffers, untouched
from sensitivity.perturb.weights import exchanged, is_computed, perturbed_weight
from sensitivity.records import Layer, Recipe
from sensitivity.records.results.signals import FIRST_ORDER, OUTPUT_MSE, SECOND_ORDER, Signals
from sensitivity.sweep.passes.forward import Forward
from sensitivity.sweep.signals.fidelity import Fidelity
from sensitivity.sweep.signals.measured import able_to_be_perturbed, compare_outputs

Loss = Callable[[Any, Any], Tensor]
"""What is differentiated: the model's outputs and the batch they are of in, a scalar out."""

_SEED = 20_077


@dataclass
class _Estimate:
    """Taylor terms of one layer, added up over batches."""

    first: float = 0.0
    second: float = 0.0
    passes: int = 0


@dataclass
class _Changes:
    """What a recipe would change in one pass: the tensors to differentiate by, and how far each would move."""

    leaves: dict[str, list[Tensor]] = field(default_factory=dict)
    moves: dict[str, list[Tensor]] = field(default_factory=dict)

    def note(self, layer: str, leaf: Tensor, move: Tensor) -> None:
        """Remember a leaf and how far the recipe moves it."""
        self.leaves.setdefault(layer, []).append(leaf)
        self.moves.setdefault(layer, []).append(move)


def estimate_signals(
    perturber: Perturber,
    layers: Sequence[Layer],
    recipe: Recipe,
    passes: Iterable[tuple[Callable[[], Any], int, Any]],
    *,
    name: str,
    loss: Loss | None = None,
) -> Signals:
    """Estimate how much each layer matters. These are guesses, not drops: measure what they put first.

    With g the gradient of the loss by a weight or an activation, and d how far the recipe moves it:

    - ``estimate_first_order``: mean over batches of abs(sum of g * d);
    - ``estimate_second_order``: mean over batches of half the sum of (g * d) ** 2, the diagonal of the empirical Fisher
      information in the place of the Hessian. A batch of one image is what that is defined for;
    - ``estimate_output_mse``: mean squared change of the model's outputs on the first batch, with the layer really
      perturbed. The best of the three on the models it was tried on, and the dearest: one replayed pass for each layer.

    Without a loss, the sum of all outputs is differentiated, each with a random sign from a fixed seed and divided by
    the root of their number: the square of what it says of a perturbation has the mean squared change of the outputs as
    its expectation.

    Args:
        perturber: Applies the recipe to its model, whose weights, gradients, mode and random state are left as they
            were.
        layers: Layers to estimate.
        recipe: What would be done to each.
        passes: One item a batch: a function that runs the model on it, the number of its images, and the batch for
            the loss. Each is run once with gradients, which keeps all activations of that batch in memory.
        name: Name of the model.
        loss: Takes the outputs and the batch, gives a scalar tensor.

    Returns:
        The estimates. A layer that the loss does not depend on, or that the recipe does not fit, is in ``failed``.

    Raises:
        CalibrationError: If the recipe quantizes activations and no ranges fit it, or there are no images.
        ModelError: If the loss is no scalar or cannot be differentiated.

    Source:
        First order: Molchanov et al. 2019, "Importance estimation for neural network pruning", with the
        recipe's change in the place of the removed weight. Second: Fisher information as in the same paper and
        in Dong et al. 2020, "HAWQ-V2" (trace weighted by the squared perturbation).
    """
    model = perturber.model
    if recipe.needs_calibration:
        perturber.calibration_for(recipe)
    failed: dict[str, str] = {}
    able = [
        layer
        for layer in able_to_be_perturbed(layers, recipe, perturber, failed)
        if not _is_hidden(layer, recipe, failed)
    ]
    estimates = {layer.name: _Estimate() for layer in able}
    outputs = {layer.name: Fidelity() for layer in able}
    images = 0
    with untouched(model) as before:
        state = before.for_passes()
        for run, count, batch in passes:
            if not images:
                with torch.no_grad():
                    forward = Forward(model, perturber, replay=True, state=before)
                    compare_outputs(forward, run, dict.fromkeys(able, recipe), outputs, failed)
            images += count
            value_of = functools.partial(_value, run, batch, loss)
            with state.same_start():
                _differentiate(perturber, able, recipe, value_of, estimates)
    if not images:
        raise CalibrationError("no image was given to estimate with. Pass at least one batch; one is usual.")
    for layer in able:
        if not estimates[layer.name].passes and layer.name not in failed:
            failed[layer.name] = "the loss does not depend on this layer through differentiable operations"
    signals = {
        layer.name: _signals(estimates[layer.name], outputs[layer.name]) for layer in able if layer.name not in failed
    }
    return Signals(name, recipe, signals, images, failed)


def _is_hidden(layer: Layer, recipe: Recipe, failed: dict[str, str]) -> bool:
    """Whether what a recipe changes of a layer exists below autograd only; such a layer is noted in ``failed``."""
    changes_input = layer.runs_in is not None and recipe.activations is not None
    hidden = changes_input or is_computed(layer)
    if hidden:
        failed[layer.name] = (
            "what it multiplies is met at its operator, below autograd, where no gradient can be asked of it: use "
            "wrapped.signals, which needs none"
        )
    return hidden


def _differentiate(
    perturber: Perturber,
    layers: Sequence[Layer],
    recipe: Recipe,
    value_of: Callable[[], Tensor],
    estimates: Mapping[str, _Estimate],
) -> None:
    """One pass forward and one back; adds to the estimates."""
    model, changes = perturber.model, _Changes()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(spare_buffers(model))
        hooks = Hooks()
        for layer in layers:
            _watch_weight(stack, model, layer, recipe, changes)
            own = _activation_hooks(model, layer, recipe, perturber, changes)
            hooks.before += own.before
            hooks.after += own.after
        stack.enter_context(hooked(before=hooks.before, after=hooks.after))
        value = value_of()
        names = [name for name, leaves in changes.leaves.items() for _ in leaves]
        leaves = [leaf for leaves in changes.leaves.values() for leaf in leaves]
        moves = [move for moves in changes.moves.values() for move in moves]
        gradients = torch.autograd.grad(value, leaves, allow_unused=True) if leaves else ()
    terms: dict[str, list[Tensor]] = {}
    for name, gradient, move in zip(names, gradients, moves, strict=True):
        if gradient is not None:
            terms.setdefault(name, []).append(gradient.double() * move)
    for name, products in terms.items():
        estimates[name].first += abs(sum(float(product.sum()) for product in products))
        estimates[name].second += sum(float(product.square().sum()) for product in products) / 2
        estimates[name].passes += 1


def _watch_weight(
    stack: contextlib.ExitStack, model: nn.Module, layer: Layer, recipe: Recipe, changes: _Changes
) -> None:
    """A weight of the same content that gradients are asked of, for as long as the stack is open."""
    perturbed = perturbed_weight(model, layer, recipe)
    if perturbed is None:
        return
    module = model.get_submodule(layer.module)
    weight = getattr(module, layer.weight).detach()
    own = weight.clone() if weight.is_inference() else weight  # autograd refuses tensors made in inference mode
    leaf = stack.enter_context(exchanged(module, layer.weight, own, requires_grad=True))
    changes.note(layer.name, leaf, (perturbed - weight).double())


def _activation_hooks(model: nn.Module, layer: Layer, recipe: Recipe, perturber: Perturber, changes: _Changes) -> Hooks:
    """Hooks that add a zero to every tensor that the recipe quantizes, so that gradients can be asked of it."""
    if recipe.activations is None:
        return Hooks()
    quantizers = perturber.quantizers(layer, recipe)

    def add_zero(place: str, call: int, x: Tensor) -> Tensor | None:
        quantize = quantizer_of(quantizers, layer.name, place, call, x)
        if quantize is None:
            return None
        zero = torch.zeros_like(x, requires_grad=True)
        changes.note(layer.name, zero, quantize(x.detach()).double() - x.detach())
        return x + zero

    return activation_hooks(model, layer, recipe, add_zero, strict=True)


def _value(run: Callable[[], Any], batch: Any, loss: Loss | None) -> Tensor:
    """The scalar to differentiate.

    Raises:
        ModelError: If there is none.
    """
    outputs = run()
    value = _random_signs(outputs) if loss is None else loss(outputs, batch)
    if not isinstance(value, Tensor) or value.numel() != 1:
        given_form = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ModelError(f"loss= must return a scalar tensor, not {given_form}. Reduce it, e.g. with .mean().")
    if not value.requires_grad:
        raise ModelError(
            "the loss cannot be differentiated: no gradient flows from the model's outputs to its layers. Give a model "
            "without torch.no_grad() and detach() in forward, or use wrapped.signals, which needs no gradient."
        )
    return value.reshape(())


def _random_signs(outputs: Any) -> Tensor:
    tensors = [tensor for tensor in tensors_in(outputs) if tensor.is_floating_point()]
    if not tensors:
        raise ModelError("the model returns no floating-point tensor to differentiate. Give a loss=.")
    generator = torch.Generator().manual_seed(_SEED)
    total = tensors[0].new_zeros((), dtype=torch.float64)
    for tensor in tensors:
        signs = torch.randint(0, 2, tensor.shape, generator=generator, dtype=torch.int8) * 2 - 1
        total = total + (tensor * signs.to(tensor)).double().sum().to(total.device)
    elements = sum(tensor.numel() for tensor in tensors)
    return total / math.sqrt(max(1, elements))


def _signals(estimate: _Estimate, output: Fidelity) -> dict[str, float]:
    signals = {FIRST_ORDER: estimate.first / estimate.passes, SECOND_ORDER: estimate.second / estimate.passes}
    return signals | ({OUTPUT_MSE: output.mse} if output.finite else {})
