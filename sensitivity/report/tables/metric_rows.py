"""A study as papers on detectors print it: every metric of the task in a column, parameters, FLOPs and time."""

from __future__ import annotations

from math import isfinite

from sensitivity.records import Layer, Measurement
from sensitivity.records.results.study import RecipeLike
from sensitivity.records.units import ABSENT
from sensitivity.report.reading import Reading
from sensitivity.report.tables.rows import NOT_ANALYSED, Rows

BASELINE = "baseline"


def metric_rows(reading: Reading, recipe: RecipeLike | None = None) -> Rows:
    """The unperturbed model, then one row for each layer in execution order.

    ``drop (%)`` is the drop as a part of the baseline. FLOPs are multiply-adds, as these papers count them; the
    baseline's parameters and FLOPs are the sums over all layers. Seconds are for one run of the example inputs with
    this layer quantized alone; they are there where ``Study.with_latency`` added times.

    Args:
        reading: What there is to show.
        recipe: One recipe; None for all, told apart by a column of their own.

    Raises:
        StudyError: If the recipe is unknown.
    """
    study, names = reading.study, reading.recipes(recipe)
    metrics = list(dict.fromkeys([*study.baseline.metrics, *(key for m in study.measurements for key in m.metrics)]))
    body = [_baseline(reading, metrics), *(row for name in names for row in _layers(reading, name, metrics))]
    seconds = [key for key in ("s/run",) if any(key in row for row in body)]
    recipes = ["recipe"] if len(names) > 1 else []
    texts = ["layer", *recipes]
    columns = [*texts, "drop", "drop (%)", *(_of_metric(key) for key in metrics), "parameters", "FLOPs (G)", *seconds]
    units = {"drop": f"drop ({reading.drop_unit.strip()})" if reading.drop_unit else "drop"}
    units |= {_of_metric(key): f"{key}{_unit(reading)}" for key in metrics}
    return Rows(
        header=tuple(units.get(column, column) for column in columns),
        numeric=tuple(column not in texts for column in columns),
        body=tuple(tuple(row.get(column) or ABSENT for column in columns) for row in body),
    )


def _of_metric(key: str) -> str:
    """The column of a metric, whatever it is called."""
    return f"metric {key}"


def _unit(reading: Reading) -> str:
    return f" ({reading.score_unit.strip()})" if reading.score_unit else ""


def _baseline(reading: Reading, metrics: list[str]) -> dict[str, str]:
    study = reading.study
    row = {"layer": BASELINE, "recipe": ABSENT} | _costs(*study.layers)
    times = next(iter((study.info.latency or {}).values()), None)
    if times is not None:
        row["s/run"] = f"{times.float_s:.3g}"
    return row | _metrics(reading, dict(study.baseline.metrics), metrics)


def _layers(reading: Reading, recipe: str, metrics: list[str]) -> list[dict[str, str]]:
    study = reading.study
    measured = {measurement.layer: measurement for measurement in study.of_recipe(recipe)}
    times = (study.info.latency or {}).get(recipe)
    rows = []
    for layer in study.layers:
        row = {"layer": layer.name, "recipe": recipe} | _costs(layer)
        if times is not None and layer.name in times.layers:
            quantized, in_float = times.layers[layer.name]
            row["s/run"] = f"{times.float_s + quantized - in_float:.3g}"
        measurement = measured.get(layer.name)
        if measurement is None:
            rows.append(row | {"drop": NOT_ANALYSED})
            continue
        drops = {"drop": reading.drop(measurement), "drop (%)": _relative(reading, measurement)}
        rows.append(row | drops | _metrics(reading, dict(measurement.metrics), metrics))
    return rows


def _relative(reading: Reading, measurement: Measurement) -> str:
    """The drop in percent of the baseline; empty where either is absent or the baseline is zero."""
    baseline = reading.study.baseline.value
    if measurement.drop is None or not isfinite(measurement.drop) or not baseline or not isfinite(baseline):
        return ""
    return f"{100 * measurement.drop / abs(baseline):.2f}"


def _metrics(reading: Reading, values: dict[str, float], metrics: list[str]) -> dict[str, str]:
    return {_of_metric(key): reading.shown(values[key]) for key in metrics if key in values and isfinite(values[key])}


def _costs(*layers: Layer) -> dict[str, str]:
    """Sums over layers; no FLOPs where one's are not known."""
    macs = [layer.macs for layer in layers]
    known = [count for count in macs if count is not None]
    flops = f"{sum(known) / 1e9:.3g}" if len(known) == len(macs) else ""
    return {"parameters": f"{sum(layer.parameters for layer in layers):,}", "FLOPs (G)": flops}
