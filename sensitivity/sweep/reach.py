"""Layers that the images did not reach: what quantizing them costs is not known, and their rows say so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sensitivity.contracts import StaysInProcess, Task
from sensitivity.errors import SensitivityError
from sensitivity.perturb.hooks import hooked
from sensitivity.perturb.perturber import Perturber
from sensitivity.records import Layer, Note, NoteKind
from sensitivity.sweep.plan import AllBut, Variant
from sensitivity.sweep.storage.results import Results


def find_unreached(
    model: nn.Module, task: Task, variants: Sequence[Variant], perturber: Perturber, results: Results
) -> dict[str, str]:
    """Why a layer was not reached, by the digest of the variant that measures it.

    Calibration says which layers had no images; where all layers but one are perturbed, that is the one left out. A
    layer of the task is asked about only where perturbing it changed no prediction at all: the unperturbed model then
    runs until every such layer was reached, or the images end. A pass is not run to its end where nothing of the task's
    own sees it: it is left as soon as the last of them is called.

    Args:
        model: The model, in eval mode.
        task: Gives the images.
        variants: What was measured.
        perturber: Knows the ranges.
        results: What was predicted.
    """
    reasons = {variant.digest: reason for variant in variants if (reason := _not_calibrated(variant, perturber))}
    alone = [variant for variant in variants if not isinstance(variant.recipes, AllBut)]
    silent = [variant for variant in alone if variant.digest not in reasons and _changed_nothing(variant, results)]
    if silent:
        missing = _not_run(model, task, {variant.layer for variant in silent})
        text = f"none of the {len(task)} images of {task.name} reached it"
        reasons |= {variant.digest: text for variant in silent if variant.layer in missing}
    return reasons


def note_of(unreached: Iterable[str]) -> Note:
    """What a reader of a study should know of layers that were not reached.

    Args:
        unreached: Their names.
    """
    names = list(dict.fromkeys(unreached))
    rows = "their rows have" if len(names) > 1 else "its row has"
    text = f"{', '.join(names)} not reached: {rows} the reason. Give images that reach every branch of the model."
    return Note(NoteKind.NOT_REACHED, text)


def _not_calibrated(variant: Variant, perturber: Perturber) -> str:
    try:
        return perturber.why_unreached(variant.layer, variant.recipe)
    except SensitivityError:
        return ""  # it cannot be observed at all: its row has that reason


def _changed_nothing(variant: Variant, results: Results) -> bool:
    return results.failure(variant) is None and bool(results.images_of(variant)) and not results.changed(variant)


class _AllReached(BaseException):
    """Leaves a pass whose rest tells nothing; no ``except Exception`` of the model is to catch it."""


def _not_run(model: nn.Module, task: Task, layers: set[Layer]) -> set[Layer]:
    """The layers that no image of a task reaches with any values."""
    missing = set(layers)
    whole_passes = isinstance(task, StaysInProcess) and task.stays_in_process

    def reach(layer: Layer) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if any(leaf.numel() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)):
                missing.discard(layer)
                if not missing and not whole_passes:
                    raise _AllReached

        return note

    hooks = [(model.get_submodule(layer.runs_in or layer.module), reach(layer)) for layer in layers]
    with contextlib.suppress(_AllReached), hooked(before=hooks):
        for batch in task.batches():
            task.predict(model, batch)
            if not missing:
                break
    return missing
