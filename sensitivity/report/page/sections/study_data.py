"""What the page of a study draws, as plain values in the units people see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensitivity.records import Layer, Measurement
from sensitivity.records.results.diagnosis import DiagnosisRecord
from sensitivity.records.results.verdict import Verdict
from sensitivity.report import style
from sensitivity.report.damage import sentence
from sensitivity.report.dip import Dip, dips_of, hang_from, stage_runs
from sensitivity.report.page.numbers import finite
from sensitivity.report.page.sections.values import values_data
from sensitivity.report.reading import Reading


def study_data(reading: Reading, recipes: tuple[str, ...], diagnosis: DiagnosisRecord | None = None) -> dict[str, Any]:
    """Layers in execution order, and what each recipe does to them.

    Args:
        reading: What there is to show.
        recipes: Names of the recipes to show.
        diagnosis: Causes and cures of layers; None where there is no diagnosis.

    Returns:
        Plain values that JSON can hold; what is absent is None.
    """
    study = reading.study
    return {
        "metric": study.metric,
        "scoreUnit": reading.score_unit,
        "higherIsBetter": study.higher_is_better,
        "baseline": finite(study.baseline.value * study.scale),
        "tolerance": finite(reading.tolerance * study.scale) if reading.one_at_a_time else None,
        "kinds": {kind: style.kind_ink(kind).plain() for kind in sorted({layer.kind for layer in study.layers})},
        "layers": [layer_data(layer) for layer in study.layers],
        "stages": [{"name": name, "first": first, "last": last} for name, first, last in stage_runs(study.layers)],
        "recipes": [_recipe_data(reading, name, diagnosis) for name in recipes],
        "values": values_data(reading, diagnosis),
    }


def layer_data(layer: Layer) -> dict[str, Any]:
    """What is told of a layer whatever was done to it."""
    return {"name": layer.name, "kind": layer.kind, "shape": style.shape_of(layer.flags)}


def _recipe_data(reading: Reading, recipe: str, diagnosis: DiagnosisRecord | None) -> dict[str, Any]:
    study = reading.study
    measurements = {m.layer: m for m in study.of_recipe(recipe)}
    causes = {} if diagnosis is None or diagnosis.recipe.name != recipe else causes_and_cures(diagnosis)
    dips = dips_of(reading, study.layers, recipe)
    places = {dip.layer.name: dip.position for dip in dips}
    return {
        "name": recipe,
        "hang": finite(hang_from(study, dips)),
        "worst": [places[m.layer] for m in reading.worst_first[recipe]],
        "dips": [
            None
            if (measurement := measurements.get(dip.layer.name)) is None
            else _dip_data(dip) | {"lines": _lines(reading, measurement, dip.layer, causes)}
            for dip in dips
        ],
    }


def causes_and_cures(diagnosis: DiagnosisRecord) -> dict[str, str]:
    """For each layer that is hurt, what its damage comes from and what cures it, in one sentence."""
    return {finding.layer: f"outputs {sentence(diagnosis, finding)}" for finding in diagnosis.hurt}


def _dip_data(dip: Dip) -> dict[str, Any]:
    ends = None if dip.ends is None else [finite(end) for end in dip.ends]
    return {
        "score": finite(dip.score),
        "ends": None if ends is None or None in ends else ends,
        "verdict": "" if dip.verdict is None else str(dip.verdict),
    }


def _lines(reading: Reading, measurement: Measurement, layer: Layer, causes: Mapping[str, str]) -> list[str]:
    """What a reader is told who points at the layer, line by line."""
    traits = sorted(reading.flags[measurement.recipe][layer.name] - {Verdict.DIP})
    drop = f"drop {reading.drop(measurement)}{reading.drop_unit} {reading.interval(measurement)}".rstrip()
    lines = (
        layer.module,
        ", ".join(dict.fromkeys([layer.kind, layer.role, *traits])),
        drop if reading.drop(measurement) else "no result",
        reading.verdict(measurement.recipe, layer.name),
        f"{measurement.status}: {measurement.reason}" if measurement.reason else "",
        causes.get(layer.name, ""),
    )
    return [line for line in lines if line]
