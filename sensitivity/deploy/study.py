"""Rows of a study measured again on an engine: what the sweep simulated, one layer at a time, as it is deployed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sensitivity.contracts import Task
from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.verify import score_of
from sensitivity.errors import StudyError
from sensitivity.records import Layer, Measurement, Recipe, Scheme, StudyRecord
from sensitivity.records.verification import VERIFIED, Gates

DEPLOYED_SCORE, DEPLOYED_DROP = "deployed_score", "deployed_drop"
"""Signals of a measurement that was repeated on an engine."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """One measurement on an engine.

    Attributes:
        score: The task's metric.
        executed: Precision that the engine ran the layer in; None where it does not tell.
        planned: Precision that the plan says.
        images: Images scored.
        left_out: Why the layer could not be deployed; empty if it was.
    """

    score: float
    executed: str | None
    planned: str
    images: int
    left_out: str = ""


def verify_measurements(
    study: StudyRecord,
    deploy: Callable[[Scheme], Deployed],
    task: Task,
    layers: Sequence[Layer],
    gates: Gates | None = None,
) -> tuple[Measurement, ...]:
    """The study's measurements, those of some layers repeated on an engine.

    A row becomes ``verified`` when the engine ran the layer as planned and the drop there is the simulated one within
    the gates; else its status stays, and the reason says what was found. Either way the engine's score and drop are
    among its signals.

    Args:
        study: What was simulated.
        deploy: Makes an engine of a scheme.
        task: The task of the study.
        layers: Layers to repeat.
        gates: What counts as the same; None for the usual numbers.

    Raises:
        StudyError: If the study has another task or number of images.
        ExportError: If a recipe cannot be deployed.
        EngineBuildError: If an engine cannot be built.
    """
    if (task.metric, len(task)) != (study.metric, study.baseline.images):
        raise StudyError(
            f"the study measured {study.metric} on {study.baseline.images} images, this task has {task.metric} on "
            f"{len(task)}. Give the task that the study was made with."
        )
    wanted = {layer.name: layer for layer in layers}
    rows = []
    for row in study.measurements:
        if row.layer not in wanted or row.score is None:
            rows.append(row)
            continue
        scheme = _scheme(study, row.layer, study.recipes[row.recipe])
        rows.append(_judged(study, row, _repeat(deploy(scheme), wanted[row.layer], task), gates or Gates()))
    return tuple(rows)


def _scheme(study: StudyRecord, layer: str, recipe: Recipe) -> Scheme:
    return Scheme.only(layer, recipe) if study.direction == "one-at-a-time" else Scheme.all(recipe).protect(layer)


def _repeat(deployed: Deployed, layer: Layer, task: Task) -> Repeated:
    score, images = score_of(task, deployed)
    ran: Mapping[str, str] = {
        node: one.precision for engine in deployed.engines for one in engine.layer_info() for node in one.nodes
    }
    nodes = [name for part in deployed.parts for name in part.qdq.nodes.get(layer.name, ())]
    executed = "+".join(sorted({ran[node] for node in nodes if node in ran})) or None
    planned = deployed.plan.expected_precision(deployed.plan.layers[layer.name])
    return Repeated(score, executed, planned, images, deployed.plan.left_out.get(layer.name, ""))


def _judged(study: StudyRecord, row: Measurement, found: Repeated, gates: Gates) -> Measurement:
    sign = 1.0 if study.higher_is_better else -1.0
    drop = sign * (study.baseline.value - found.score)
    signals = {**row.signals, DEPLOYED_SCORE: found.score, DEPLOYED_DROP: drop}
    reason = _difference(study, row, found, drop, gates)
    if reason is None:
        return replace(row, status=VERIFIED, signals=signals)
    return replace(row, signals=signals, reason="; ".join(part for part in (row.reason, reason) if part))


def _difference(study: StudyRecord, row: Measurement, found: Repeated, drop: float, gates: Gates) -> str | None:
    """Why a row is not verified; None if it is."""
    if found.left_out:
        return found.left_out
    if found.executed != found.planned:
        return f"planned in {found.planned}, the engine ran {found.executed or 'it does not tell what'}"
    if row.images != found.images or row.drop is None:
        return f"simulated on {row.images} images, the engine ran {found.images}: drops are not comparable"
    points = gates.metric_points / 100.0 if study.unit == "%" else gates.metric_points
    allowed = max(points, gates.metric_share * abs(row.drop))
    if abs(drop - row.drop) > allowed:
        scale = study.scale
        return f"the engine drops {scale * drop:.3f} and not {scale * row.drop:.3f} ({scale * allowed:.3f} may differ)"
    return None
