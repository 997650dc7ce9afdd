"""Modules that look like layers and are none, and layers whose weight cannot be exchanged, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from sensitivity.layers.dataflow.operators import VIEWS
from sensitivity.layers.dataflow.products import CONVOLUTIONS, PARTS, may_be_weight, operand_positions
from sensitivity.layers.trace.tape import Ref, Tape
from sensitivity.records import SkippedModule

PLAIN = (nn.Linear, nn.modules.conv._ConvNd)
"""Modules that multiply their only argument by their weight."""


def no_layers(tape: Tape, taken: set[str]) -> list[SkippedModule]:
    """Modules that look like layers but are none, with the reason.

    Args:
        tape: What the model ran.
        taken: Paths of the modules that are layers, or that have a reason already.
    """
    called = {call.module for call in tape.calls}
    skipped = []
    for path, module in tape.modules.items():
        if path in taken or not _looks_like_a_layer(module):
            continue
        if path not in called:
            reason = "never called with the example inputs"
        elif isinstance(module, PLAIN) and "weight" in module._buffers:
            reason = "its weight is a buffer: make it a parameter (requires_grad=False keeps it frozen)"
        else:
            reason = _why_no_product(tape, path, module)
        skipped.append(SkippedModule(path, reason))
    known = taken | {module.module for module in skipped}
    return [*skipped, *_summed_products(tape, known), *_products_with_buffers(tape, known), *_unregistered(tape)]


def _why_no_product(tape: Tape, path: str, module: nn.Module) -> str:
    """What happens to the weight of a module that runs and multiplies nothing by it."""
    dot = f"{path}." if path else ""
    names = {dot + name for name, own in module._parameters.items() if own is not None and own.dim() > 1}
    waiting = [number for number, value in enumerate(tape.values) if value.parameter in names]
    if any(own is not None and own.is_complex() for own in module._parameters.values()):
        return "runs, but its weight is complex, and recipes quantize real numbers"
    seen, readers = set(waiting), dict[str, bool]()
    while waiting:
        for number in tape.consumers.get(waiting.pop(), []):
            op = tape.ops[number]
            if op.name not in VIEWS | PARTS:
                readers[op.name] = readers.get(op.name, False) or any(tape.values[v].dynamic for v in op.inputs)
            elif op.outputs[0] not in seen:
                seen.add(op.outputs[0])
                waiting.append(op.outputs[0])
    if not readers:
        return "runs, but no operator reads its weight: its forward computes with something else, e.g. a copy of it"
    operators = ", ".join(sorted(readers))
    if not any(readers.values()):
        return f"runs, but its weight meets constants alone ({operators}): no activation is multiplied by it"
    if operand_positions(next(iter(readers))) is not None:
        return f"runs, but both operands of {operators} are made of activations: no weight could be quantized once"
    return f"runs, but its weight enters {operators}, which is no convolution and no matrix product"


def _summed_products(tape: Tape, known: set[str]) -> list[SkippedModule]:
    """Matrix products that are written out as an elementwise product and a sum, by the parameter that they read."""
    skipped: dict[str, str] = {}
    for number, value in enumerate(tape.values):
        module, _, name = (value.parameter or "").rpartition(".")
        if value.parameter is None or len(value.shape) < 2 or module in known or module in skipped:
            continue
        if any(_is_contracted(tape, product, operand) for product, operand in _products_by(tape, number)):
            skipped[module] = (
                f"runs, but multiplies an activation by its {name} elementwise and sums: it is a layer where that is "
                "written as a matrix product, e.g. F.linear"
            )
    return [SkippedModule(module, reason) for module, reason in skipped.items()]


def _products_with_buffers(tape: Tape, known: set[str]) -> list[SkippedModule]:
    """Convolutions and matrix products of an activation and a buffer, by the module that holds the buffer."""
    skipped: dict[str, str] = {}
    for op in tape.ops:
        positions = operand_positions(op.name)
        operands = [op.args[position] for position in positions or ()]
        if not operands or not all(isinstance(operand, Ref) for operand in operands):
            continue
        for side in (0, 1):
            buffer = _buffer_behind(tape, operands[side].value) if may_be_weight(op.name, side) else None
            module, _, name = (buffer or "").rpartition(".")
            if buffer is not None and module not in known and tape.values[operands[1 - side].value].dynamic:
                kind = "convolves" if op.name in CONVOLUTIONS else "multiplies"
                skipped.setdefault(
                    module,
                    f"runs, but {kind} an activation with its buffer {name}: make that a parameter "
                    "(requires_grad=False keeps it frozen) if it is a weight",
                )
    return [SkippedModule(module, reason) for module, reason in skipped.items()]


def _buffer_behind(tape: Tape, value: int) -> str | None:
    """Path of the buffer that a value is a view, or a part, of; None where it is none."""
    while (op := tape.producer(value)) is not None and op.name in VIEWS | PARTS and op.inputs:
        value = op.inputs[0]
    return tape.values[value].buffer


def _products_by(tape: Tape, parameter: int) -> Iterator[tuple[int, int]]:
    """Elementwise products of a parameter and an activation: the value written, and the parameter behind views."""
    waiting, seen = [parameter], {parameter}
    while waiting:
        operand = waiting.pop()
        for reader in tape.consumers.get(operand, []):
            op = tape.ops[reader]
            if op.name == "mul" and any(tape.values[other].dynamic for other in op.inputs):
                yield op.outputs[0], operand
            elif op.name in VIEWS:
                fresh = [output for output in op.outputs if output not in seen]
                seen.update(fresh)
                waiting += fresh


def _is_contracted(tape: Tape, product: int, operand: int) -> bool:
    """Whether a product is summed next over an axis along which its operand, a parameter, has several entries."""
    shape = tape.values[product].shape
    own = (1,) * (len(shape) - len(tape.values[operand].shape)) + tape.values[operand].shape
    for reader in tape.consumers.get(product, []):
        op = tape.ops[reader]
        if op.name not in ("sum", "mean") or len(op.args) < 2 or not op.args[1]:
            continue
        if any(own[axis] > 1 for axis in op.args[1]):
            return True
    return False


def why_unchangeable(tape: Tape, module: str, parameter: str) -> str | None:
    """Why the weight of a layer cannot be exchanged for a quantized one; None where it can.

    Args:
        tape: What the model ran.
        module: Path of the layer's module.
        parameter: Path of the parameter that its weight is made of.
    """
    owner, _, name = parameter.rpartition(".")
    holders = [tape.modules[path] for path in (module, owner) if path in tape.modules]
    if any(isinstance(holder, torch.jit.ScriptModule) for holder in holders):
        return (
            "is compiled by torch.jit, whose code runs no hook and whose weights cannot be exchanged: put the module "
            "that was scripted or traced in its place"
        )
    weight = tape.modules[owner]._parameters[name] if owner in tape.modules else None
    if weight is not None and weight.layout is not torch.strided:
        layout = str(weight.layout).removeprefix("torch.")
        return f"its {name} is stored as {layout}, and recipes quantize dense weights: give it to_dense()"
    return None


def _unregistered(tape: Tape) -> list[SkippedModule]:
    """Layers in plain lists, tuples and dicts, which no path of the model leads to."""
    known = {id(module) for module in tape.modules.values()}
    reason = "is held by a plain list or dict, so that the model does not know it: use nn.ModuleList or nn.ModuleDict"
    skipped = []
    for path, module in tape.modules.items():
        for attribute, held in vars(module).items():
            if attribute.startswith("_") or not isinstance(held, (list, tuple, dict)):
                continue
            items = held.items() if isinstance(held, dict) else enumerate(held)
            inner = [(key, item) for key, item in items if isinstance(item, nn.Module) and id(item) not in known]
            for key, item in inner:
                for below, part in item.named_modules():
                    if isinstance(part, PLAIN):
                        steps = (path, attribute, str(key), below)
                        skipped.append(SkippedModule(".".join(step for step in steps if step), reason))
    return skipped


def _looks_like_a_layer(module: nn.Module) -> bool:
    no_layers = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.modules.batchnorm._NormBase, nn.GroupNorm)
    matrices = [name for name, own in module._parameters.items() if own is not None and own.dim() >= 2]
    frozen = isinstance(module, PLAIN) and "weight" in module._buffers
    return frozen or (any("weight" in name for name in matrices) and not isinstance(module, no_layers))
