"""A study as a pandas table, and two studies side by side."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from sensitivity.errors import StudyError
from sensitivity.records import Layer, Measurement, StudyRecord
from sensitivity.records.correlation import spearman
from sensitivity.records.results.signals import IN_UNIT_OF_METRIC
from sensitivity.records.results.study import RecipeLike, other_recipe_name
from sensitivity.report.reading import Reading
from sensitivity.report.tables.rows import NOT_ANALYSED

_FACTS = (
    "name",
    "recipe",
    "module",
    "kind",
    "role",
    "traits",
    "drop",
    "drop_low",
    "drop_high",
    "verdict",
    "images_needed",
    "score",
    "images",
    "status",
    "reason",
)
_TEXTS = ("name", "recipe", "module", "kind", "role", "traits", "verdict", "status", "reason")
_COSTS = ("parameters", "weight_bytes", "saved_bytes", "macs")


class _Columns(NamedTuple):
    """Column of each metric and of each signal, by name, in order of first appearance."""

    metrics: dict[str, str]
    signals: dict[str, str]


def frame(reading: Reading, recipe: RecipeLike | None = None) -> pd.DataFrame:
    """One row for each layer in execution order, then one for each module that is in no layer.

    Scores, drops and metrics are in the unit people see: percent and points where the study's unit is ``%``. What is
    absent is NaN: a failed layer has its status and reason, but no drop. ``attrs`` holds ``model``, ``task``,
    ``metric``, ``unit``, ``baseline`` (percent where the unit is ``%``) and ``rank_correlation``, recipe to signal to
    Spearman's correlation with the drops.

    Args:
        reading: What there is to show.
        recipe: One recipe; None for all, one block of rows after the other, told apart by a column ``recipe``
            that a study of one recipe does not have.

    Returns:
        Columns ``name``, ``module``, ``kind``, ``role``, ``traits`` (flags as text, structural and measured), ``drop``,
        ``drop_low``, ``drop_high``, ``verdict``, ``images_needed`` (to decide an undecided layer), ``score``,
        ``images``, ``status``, ``reason``, every metric, ``parameters``, ``weight_bytes``, ``saved_bytes`` (by the
        recipe), ``macs``, every signal (in its own unit).

    Raises:
        StudyError: If the recipe is unknown.
    """
    study, names = reading.study, reading.recipes(recipe)
    named = _columns(study)
    rows = [row for name in names for row in _layer_rows(reading, name, named)]
    rows += [{"module": m.module, "status": "skipped", "reason": m.reason} for m in study.skipped]
    columns = [*_FACTS, *named.metrics.values(), *_COSTS, *named.signals.values()]
    if len(names) == 1:
        columns.remove("recipe")
    table = pd.DataFrame(rows, columns=columns)
    numbers = [column for column in columns if column not in _TEXTS]
    table[numbers] = table[numbers].astype(float)
    table.attrs = {
        "model": study.model,
        "task": study.task,
        "metric": study.metric,
        "unit": study.unit,
        "baseline": study.baseline.value * study.scale,
        "rank_correlation": {name: dict(reading.agreement.get(name, {})) for name in names},
    }
    return table


def compare(
    study: StudyRecord,
    other: StudyRecord,
    *,
    recipe: RecipeLike | None = None,
    other_recipe: RecipeLike | None = None,
) -> pd.DataFrame:
    """Two studies side by side, one row for each layer name that either of them measured.

    Args:
        study: What was measured.
        other: Another study, e.g. of the same model with another recipe, task or calibration.
        recipe: Recipe of ``study``; None where it has only one.
        other_recipe: Recipe of ``other``; None where it has only one.

    Returns:
        Columns ``name``, ``kind``, ``role``, ``drop``, ``drop_other`` (each in the unit people see in its study),
        ``rank``, ``rank_other`` (1 is the largest drop), NaN where a study does not know the layer. ``attrs`` holds
        ``rank_correlation`` (Spearman's, over the ``layers_compared`` layers that both measured; NaN where either
        study has fewer than two different drops among them).

    Raises:
        StudyError: If a recipe is unknown, or left out where there are several.
    """
    own_drops = _drops(study, recipe)
    other_drops = _drops(other, other_recipe_name(other, other_recipe))
    both = own_drops.merge(other_drops, on="name", how="outer", suffixes=("", "_other"), sort=False)
    layers = {layer.name: layer for layer in (*other.layers, *study.layers)}
    order = {name: position for position, name in enumerate(dict.fromkeys([*own_drops["name"], *other_drops["name"]]))}
    both = both.sort_values("name", key=lambda names: names.map(order), ignore_index=True)
    both.insert(1, "kind", [layers[name].kind for name in both["name"]])
    both.insert(2, "role", [layers[name].role for name in both["name"]])
    for side in ("", "_other"):
        both[f"rank{side}"] = both[f"drop{side}"].rank(ascending=False, method="min")
    common = both.dropna(subset=["drop", "drop_other"])
    both.attrs = {
        "layers_compared": len(common),
        "rank_correlation": spearman(common["drop"].tolist(), common["drop_other"].tolist()),
    }
    return both


def with_study_names(frame: pd.DataFrame, names: tuple[str, str]) -> pd.DataFrame:
    """A table of ``compare`` whose columns name the two studies.

    Raises:
        StudyError: If the names are the same, or one is empty.
    """
    if len(set(names)) != 2 or not all(names):
        raise StudyError(f"names={names!r}: give two different names.")
    columns = {fact: f"{fact}_{names[0]}" for fact in ("drop", "rank")}
    columns |= {f"{fact}_other": f"{fact}_{names[1]}" for fact in ("drop", "rank")}
    renamed = frame.rename(columns=columns)
    renamed.attrs = dict(frame.attrs)
    return renamed


def _layer_rows(reading: Reading, recipe: str, columns: _Columns) -> list[dict[str, Any]]:
    study = reading.study
    measurements = {m.layer: m for m in study.of_recipe(recipe)}
    rows = []
    for layer in study.layers:
        measurement = measurements.get(layer.name)
        result = _result(study, measurement, columns) if measurement else {"status": NOT_ANALYSED}
        rows.append(_facts(reading, layer, recipe) | result)
    return rows


def _facts(reading: Reading, layer: Layer, recipe: str) -> dict[str, Any]:
    verdict = reading.verdicts[recipe].get(layer.name)
    return {
        "name": layer.name,
        "recipe": recipe,
        "module": layer.module or None,
        "kind": layer.kind,
        "role": layer.role,
        "traits": ", ".join(sorted(reading.flags[recipe][layer.name])),
        "verdict": str(verdict) if verdict else None,
        "images_needed": reading.images_needed[recipe].get(layer.name),
        "parameters": layer.parameters,
        "weight_bytes": layer.weight_bytes,
        "saved_bytes": reading.saved_bytes[recipe][layer.name],
        "macs": layer.macs,
    }


def _result(study: StudyRecord, measurement: Measurement, columns: _Columns) -> dict[str, Any]:
    plain = {
        "drop": measurement.drop,
        "drop_low": measurement.drop_low,
        "drop_high": measurement.drop_high,
        "score": measurement.score,
    }
    metrics = {columns.metrics[name]: value for name, value in measurement.metrics.items()}
    scaled = {key: None if value is None else value * study.scale for key, value in (plain | metrics).items()}
    signals = {
        columns.signals[name]: value * (study.scale if name in IN_UNIT_OF_METRIC else 1.0)
        for name, value in measurement.signals.items()
    }
    rest = {"images": measurement.images, "status": measurement.status, "reason": measurement.remarks}
    return scaled | signals | rest


def _columns(study: StudyRecord) -> _Columns:
    """One that bears a fact's name, or a signal that bears a metric's, is told apart by its sort."""
    metrics = dict.fromkeys(name for m in study.measurements for name in m.metrics)
    signals = dict.fromkeys(name for m in study.measurements for name in m.signals)
    facts = {*_FACTS, *_COSTS}
    return _Columns(
        {name: f"{name} (metric)" if name in facts else name for name in metrics},
        {name: f"{name} (signal)" if name in facts | metrics.keys() else name for name in signals},
    )


def _drops(study: StudyRecord, recipe: RecipeLike | None) -> pd.DataFrame:
    rows = [
        {"name": m.layer, "drop": None if m.drop is None else m.drop * study.scale} for m in study.of_recipe(recipe)
    ]
    return pd.DataFrame(rows, columns=["name", "drop"]).astype({"drop": float})
