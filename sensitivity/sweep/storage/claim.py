"""What results depend on, as hashes of content: results of different things are never mixed in one store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sensitivity.contracts import Store, Task
from sensitivity.errors import StoreConflictError
from sensitivity.perturb.perturber import Perturber
from sensitivity.quantize.calibration import Calibration
from sensitivity.records import Recipe
from sensitivity.sweep.plan import Variant
from sensitivity.weights import weights_digest


@dataclass(frozen=True)
class Fact:
    """One thing that all results of a store have in common.

    Attributes:
        key: Where the store keeps it.
        what: Its name in a message.
        value: Hash or short text.
    """

    key: str
    what: str
    value: str


def sweep_facts(model: nn.Module, task: Task, variants: Sequence[Variant], perturber: Perturber) -> list[Fact]:
    """What the results of a sweep depend on, beyond what each variant perturbs.

    Not among them: the code of model and task, the machine and the number of threads. Where they change what the
    unperturbed model predicts, the sweep finds out on the first batch, which is run again whenever it goes on.

    Raises:
        CalibrationError: If activations are to be quantized and no ranges are known.
    """
    device = next((parameter.device.type for parameter in model.parameters()), "cpu")
    facts = [
        Fact("fact weights", "weights", weights_digest(model)),
        Fact("fact modules", "modules of the model", _modules_digest(model)),
        Fact("fact task", "task (data or settings)", task.digest()),
        Fact("fact torch", "torch version", str(torch.__version__)),
        Fact("fact device", "device", device),
    ]
    recipes = {recipe.digest: recipe for variant in variants for recipe in variant.distinct_recipes}
    for digest, recipe in sorted(recipes.items()):
        if recipe.needs_calibration:
            calibration = perturber.calibration_for(recipe)
            ranges = calibration.digest if recipe.has_cures else _ranges_digest(calibration)
            facts.append(Fact(f"fact calibration {digest}", f"calibration of {recipe.name}", ranges))
    return facts


def calibration_images(recipes: Sequence[Recipe], perturber: Perturber) -> int | dict[str, int]:
    """Images that the ranges of recipes were measured on, 0 where none needs any; by recipe where they differ.

    Raises:
        CalibrationError: If activations are to be quantized and no ranges are known.
    """
    counts = {recipe.name: perturber.calibration_for(recipe).images for recipe in recipes if recipe.needs_calibration}
    return counts if len(set(counts.values())) > 1 else next(iter(counts.values()), 0)


def claim(store: Store, facts: Sequence[Fact]) -> None:
    """Note the facts in a store, so that it takes no results of anything else.

    Raises:
        StoreConflictError: If the store has other values for some of them.
    """
    other = [fact for fact in facts if fact.key in store and store.read(fact.key) != fact.value]
    if other:
        differences = "; ".join(f"{fact.what}: {store.read(fact.key)}, now {fact.value}" for fact in other)
        raise StoreConflictError(
            f"the store was written for something else ({differences}). Its results cannot be continued: give this run "
            "a store of its own, or bring back what it was written with."
        )
    for fact in facts:
        store.add(fact.key, fact.value)


def _modules_digest(model: nn.Module) -> str:
    """Hash of which modules the model has, with their settings as they print; addresses in memory do not count."""
    return hashlib.sha256(re.sub(r"0x[0-9a-fA-F]+", "", repr(model)).encode()).hexdigest()[:32]


def _ranges_digest(calibration: Calibration) -> str:
    text = repr(sorted(calibration.ranges.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
