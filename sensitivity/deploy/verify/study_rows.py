"""Rows of a study measured again on an engine: what the sweep simulated, one layer at a time, as it is deployed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from sensitivity.contracts import Task
from sensitivity.deploy.deployed import Deployed
from sensitivity.errors import EngineBuildError, ExportError, StudyError
from sensitivity.records import Layer, Measurement, Recipe, Scheme, Status, StudyRecord
from sensitivity.records.results.signals import DEPLOYED_DROP, DEPLOYED_SCORE
from sensitivity.records.results.verification import Gates
from sensitivity.records.units import after_drop
from sensitivity.score import evaluate

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


@dataclass(frozen=True)
class Chosen:
    """Rows of a study.

    Attributes:
        layers: Those of these layers.
        recipe: Those of this recipe of the study alone; None for all.
    """

    layers: Sequence[Layer]
    recipe: Recipe | str | None = None


def verify_measurements(
    study: StudyRecord,
    deploy: Callable[[Scheme], Deployed],
    task: Task,
    *,
    chosen: Chosen,
    gates: Gates | None = None,
) -> tuple[Measurement, ...]:
    """The study's measurements, those of some layers repeated on an engine.

    A row becomes ``verified`` when the engine ran the layer as planned and the drop there is the simulated one within
    the thresholds; else its ``engine_reason`` says what was found, and it is no longer verified if it was. Where the
    engine ran, its score and drop are among the row's signals; where a row cannot be deployed, or cannot be compared,
    nothing is run for it.

    Args:
        study: What was simulated.
        deploy: Makes an engine of a scheme.
        task: The task of the study.
        chosen: Rows to repeat.
        gates: What counts as the same; None for the usual numbers.

    Raises:
        StudyError: If the study has another task or number of images, or no such recipe.
        CalibrationError: If activations are to be quantized and no ranges are known.
    """
    if (task.metric, len(task)) != (study.metric, study.baseline.images):
        raise StudyError(
            f"the study measured {study.metric} on {study.baseline.images} images, this task has {task.metric} on "
            f"{len(task)}. Give the task that the study was made with."
        )
    name = _recipe_name(study, chosen.recipe)
    layers = {layer.name: layer for layer in chosen.layers}
    engine = _OnEngine(study, deploy, task, gates or Gates())
    return tuple(
        row
        if row.layer not in layers or row.score is None or name not in (None, row.recipe)
        else engine.repeated(row, layers[row.layer])
        for row in study.measurements
    )


def _recipe_name(study: StudyRecord, recipe: Recipe | str | None) -> str | None:
    name = recipe.name if isinstance(recipe, Recipe) else recipe
    if name is not None and name not in study.recipes:
        raise StudyError(f"the study has no recipe {name!r}. It has {', '.join(study.recipes)}.")
    return name


@dataclass(frozen=True)
class _OnEngine:
    """What the rows of a study are measured again with."""

    study: StudyRecord
    deploy: Callable[[Scheme], Deployed]
    task: Task
    thresholds: Gates

    def repeated(self, row: Measurement, layer: Layer) -> Measurement:
        """The row, measured again where that can be compared with what was simulated."""
        if row.images != len(self.task) or row.drop is None:
            reason = f"measured on {row.images} of {len(self.task)} images: no drop to compare with the engine's"
            return _unverified(row, reason)
        try:
            deployed = self.deploy(_scheme(self.study, row))
        except (ExportError, EngineBuildError) as error:
            return _unverified(row, f"not on the engine: {error}")
        return _judged(self.study, row, _repeat(deployed, layer, self.task), self.thresholds)


def _unverified(row: Measurement, reason: str) -> Measurement:
    """The row with this reason in the place of what an earlier repetition said of it."""
    status = Status.MEASURED if row.status is Status.VERIFIED else row.status
    return replace(row, status=status, engine_reason=reason)


def _scheme(study: StudyRecord, row: Measurement) -> Scheme:
    """What the row was measured under: its layer alone, or the others of the sweep."""
    recipe = study.recipes[row.recipe]
    if study.direction == "one-at-a-time":
        return Scheme.only(row.layer, recipe)
    other_layers = [
        other.layer for other in study.measurements if other.recipe == row.recipe and other.layer != row.layer
    ]
    return Scheme.only(other_layers, recipe) if other_layers else Scheme()


def _repeat(deployed: Deployed, layer: Layer, task: Task) -> Repeated:
    with torch.no_grad():
        score = evaluate(deployed, task).value
    ran: Mapping[str, str] = {
        node: operation.precision
        for engine in deployed.engines
        for operation in engine.layer_info()
        for node in operation.nodes
    }
    nodes = [name for part in deployed.parts for name in part.qdq.nodes.get(layer.name, ())]
    all_known = all(node in ran for node in nodes)
    executed = "+".join(sorted({ran[node] for node in nodes})) or None if all_known else None
    planned = deployed.plan.expected_precision(deployed.plan.layers[layer.name])
    return Repeated(score, executed, planned, deployed.plan.left_out.get(layer.name, ""))


def _judged(study: StudyRecord, row: Measurement, repeated: Repeated, thresholds: Gates) -> Measurement:
    sign = 1.0 if study.higher_is_better else -1.0
    drop = sign * (study.baseline.value - repeated.score)
    signals = {**row.signals, DEPLOYED_SCORE: repeated.score, DEPLOYED_DROP: drop}
    reason = _difference(study, row, repeated, drop, thresholds)
    if reason is None:
        return replace(row, status=Status.VERIFIED, signals=signals, engine_reason="")
    return _unverified(replace(row, signals=signals), reason)


def _difference(study: StudyRecord, row: Measurement, repeated: Repeated, drop: float, thresholds: Gates) -> str | None:
    """Why a row is not verified; None if it is."""
    if repeated.left_out:
        return repeated.left_out
    if repeated.executed != repeated.planned:
        return f"planned in {repeated.planned}, the engine ran {repeated.executed or 'it does not tell what'}"
    assert row.drop is not None
    allowed = thresholds.metric_tolerance(study.unit, row.drop, single_layer=study.direction == "one-at-a-time")
    if not abs(drop - row.drop) <= allowed:  # NaN is no agreement
        scale, unit = study.scale, after_drop(study.unit)
        return (
            f"the engine drops {scale * drop:.3f}{unit} and not {scale * row.drop:.3f} ({scale * allowed:.3f} may "
            "differ)"
        )
    return None
