"""Rows of a study measured again on an engine: what the sweep simulated, one layer at a time, as it is deployed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from sensitivity.contracts import Task
from sensitivity.deploy.deployed import Deployed
from sensitivity.errors import EngineBuildError, ExportError, StudyError
from sensitivity.records import Layer, Measurement, Recipe, Scheme, Status, StudyRecord
from sensitivity.records.verification import Gates
from sensitivity.score import evaluate

DEPLOYED_SCORE, DEPLOYED_DROP = "deployed_score", "deployed_drop"
"""Signals of a measurement that was repeated on an engine."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """One measurement on an engine.

    Attributes:
        score: The task's metric.
        executed: Precision that the engine ran the layer in; None where it does not tell, or not of every call.
        planned: Precision that the plan says.
        left_out: Why the layer could not be deployed; empty if it was.
    """

    score: float
    executed: str | None
    planned: str
    left_out: str = ""


def verify_measurements(
    study: StudyRecord,
    deploy: Callable[[Scheme], Deployed],
    task: Task,
    layers: Sequence[Layer],
    gates: Gates | None = None,
    recipe: Recipe | str | None = None,
) -> tuple[Measurement, ...]:
    """The study's measurements, those of some layers repeated on an engine.

    A row becomes ``verified`` when the engine ran the layer as planned and the drop there is the simulated one within
    the gates; else its status stays, and the reason says what was found. Where the engine ran, its score and drop are
    among the row's signals; where a row cannot be deployed, or cannot be compared, nothing is run for it.

    Args:
        study: What was simulated.
        deploy: Makes an engine of a scheme.
        task: The task of the study.
        layers: Layers to repeat.
        gates: What counts as the same; None for the usual numbers.
        recipe: Repeat the rows of this recipe of the study alone; None for all.

    Raises:
        StudyError: If the study has another task or number of images, or no such recipe.
        CalibrationError: If activations are to be quantized and no ranges are known.
    """
    if (task.metric, len(task)) != (study.metric, study.baseline.images):
        raise StudyError(
            f"the study measured {study.metric} on {study.baseline.images} images, this task has {task.metric} on "
            f"{len(task)}. Give the task that the study was made with."
        )
    name = _recipe_name(study, recipe)
    wanted = {layer.name: layer for layer in layers}
    rows = []
    for row in study.measurements:
        if row.layer not in wanted or row.score is None or name not in (None, row.recipe):
            rows.append(row)
        else:
            rows.append(_repeated(study, row, deploy, wanted[row.layer], task, gates or Gates()))
    return tuple(rows)


def _recipe_name(study: StudyRecord, recipe: Recipe | str | None) -> str | None:
    name = recipe.name if isinstance(recipe, Recipe) else recipe
    if name is not None and name not in study.recipes:
        raise StudyError(f"the study has no recipe {name!r}. It has {', '.join(study.recipes)}.")
    return name


def _repeated(
    study: StudyRecord,
    row: Measurement,
    deploy: Callable[[Scheme], Deployed],
    layer: Layer,
    task: Task,
    gates: Gates,
) -> Measurement:
    if row.images != len(task) or row.drop is None:
        return _with_reason(
            row, f"measured on {row.images} of {len(task)} images: no drop to compare with the engine's"
        )
    try:
        deployed = deploy(_scheme(study, row))
    except (ExportError, EngineBuildError) as error:
        return _with_reason(row, f"not on the engine: {error}")
    return _judged(study, row, _repeat(deployed, layer, task), gates)


def _with_reason(row: Measurement, reason: str) -> Measurement:
    if reason in row.reason:  # told before
        return row
    return replace(row, reason="; ".join(part for part in (row.reason, reason) if part))


def _scheme(study: StudyRecord, row: Measurement) -> Scheme:
    """What the row was measured under: its layer alone, or the others of the sweep."""
    recipe = study.recipes[row.recipe]
    if study.direction == "one-at-a-time":
        return Scheme.only(row.layer, recipe)
    others = [one.layer for one in study.measurements if one.recipe == row.recipe and one.layer != row.layer]
    return Scheme.only(others, recipe) if others else Scheme()


def _repeat(deployed: Deployed, layer: Layer, task: Task) -> Repeated:
    with torch.no_grad():
        score = evaluate(deployed, task).value
    ran: Mapping[str, str] = {
        node: one.precision for engine in deployed.engines for one in engine.layer_info() for node in one.nodes
    }
    nodes = [name for part in deployed.parts for name in part.qdq.nodes.get(layer.name, ())]
    told = all(node in ran for node in nodes)
    executed = "+".join(sorted({ran[node] for node in nodes})) or None if told else None
    planned = deployed.plan.expected_precision(deployed.plan.layers[layer.name])
    return Repeated(score, executed, planned, deployed.plan.left_out.get(layer.name, ""))


def _judged(study: StudyRecord, row: Measurement, found: Repeated, gates: Gates) -> Measurement:
    sign = 1.0 if study.higher_is_better else -1.0
    drop = sign * (study.baseline.value - found.score)
    signals = {**row.signals, DEPLOYED_SCORE: found.score, DEPLOYED_DROP: drop}
    reason = _difference(study, row, found, drop, gates)
    if reason is None:
        return replace(row, status=Status.VERIFIED, signals=signals)
    return _with_reason(replace(row, signals=signals), reason)


def _difference(study: StudyRecord, row: Measurement, found: Repeated, drop: float, gates: Gates) -> str | None:
    """Why a row is not verified; None if it is."""
    if found.left_out:
        return found.left_out
    if found.executed != found.planned:
        return f"planned in {found.planned}, the engine ran {found.executed or 'it does not tell what'}"
    assert row.drop is not None
    allowed = gates.metric_tolerance(study.unit, row.drop, single_layer=study.direction == "one-at-a-time")
    if not abs(drop - row.drop) <= allowed:  # NaN is no agreement
        scale = study.scale
        return f"the engine drops {scale * drop:.3f} and not {scale * row.drop:.3f} ({scale * allowed:.3f} may differ)"
    return None
