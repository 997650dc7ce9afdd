"""Studies made from a seed: drops, intervals, failures and names as a test needs them, no model behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sensitivity.records import Layer, Measurement, QuantSpec, Recipe, Score, SkippedModule, Status
from sensitivity.study import Study

INT8 = Recipe("INT8", weights=QuantSpec(granularity="per-channel"), activations=QuantSpec())
INT4 = Recipe("INT4", weights=QuantSpec(format="int4", granularity="per-channel"))

# role, kind, flags, kernel, groups as a share of the channels
_PATTERN: tuple[tuple[Any, ...], ...] = (
    ("expand", "mb", {"no-norm"}, 1),
    ("depthwise", "mb", {"depthwise"}, 3),
    ("exit", "mb", {"exit", "no-activation"}, 1),
    ("conv", "res", set(), 3),
    ("exit", "fmb", {"exit", "no-activation"}, 1),
    ("scale-pointwise", "att", {"attention-pointwise", "no-norm", "no-activation"}, 1),
    ("neck", "independent", {"no-activation"}, 1),
)


def make_layer(order: int, *, stages: int = 5, layers: int = 10, channels: int = 16) -> Layer:
    role, kind, flags, side = _PATTERN[order % len(_PATTERN)]
    groups = channels if role == "depthwise" else 1
    elements = channels * channels // groups * side * side
    per_stage = max(1, layers // stages)
    stage = min(order // per_stage, stages - 1)
    place = order - stage * per_stage
    return Layer(
        name=f"stage{stage}:{place // 3}:{place % 3}",
        module=f"backbone.stages.{stage}.blocks.{place // 3}.conv{place % 3}",
        kind=kind,
        role=role,
        flags=frozenset(flags),
        norm="BatchNorm2d",
        activation=None if "no-activation" in flags else "ReLU",
        calls=1,
        order=order,
        conv_type="Conv2d",
        kernel_size=(side, side),
        stride=(1, 1),
        groups=groups,
        in_channels=channels,
        out_channels=channels,
        parameters=elements + channels,
        weight_bytes=4 * elements,
        macs=elements * 64,
        activation_elements=channels * 64,
    )


def make_study(drops: list[float | None], *, baseline: float = 0.785, **changes: Any) -> Study:
    """A study of one recipe with these drops (fractions), None for a failed layer."""
    layers = tuple(make_layer(order, layers=len(drops)) for order in range(len(drops)))
    measurements = tuple(_measurement(layer.name, drop, baseline) for layer, drop in zip(layers, drops, strict=True))
    plain: dict[str, Any] = {
        "model": "TinyNet",
        "task": "generated scenes",
        "metric": "miou",
        "unit": "%",
        "higher_is_better": True,
        "baseline": Score(baseline, {"miou": baseline, "miou_small": baseline - 0.05}, "miou", "%", 50),
        "layers": layers,
        "measurements": measurements,
        "recipes": {"INT8": INT8},
        "skipped": (SkippedModule("head.unused", "never called with the example inputs"),),
        "notes": ("made from a seed",),
    }
    return Study(**(plain | changes))


def random_study(layers: int, *, seed: int = 0, worst: float = 0.3, failed: int = 0) -> Study:
    """Many small drops, some of them gains, and a few large ones."""
    generator = np.random.default_rng(seed)
    drops: list[float | None] = [float(d) for d in generator.normal(0.0005, 0.0008, layers)]
    for place, share in zip(generator.permutation(layers), (1.0, 0.6, 0.5, 0.3, 0.2, 0.1, 0.05), strict=False):
        drops[int(place)] = worst * share
    for place in generator.permutation(layers)[:failed]:
        drops[int(place)] = None
    return make_study(drops)


def with_intervals(study: Study, half: float = 0.004) -> Study:
    """The same study with an interval around every drop, wider for larger ones (fractions)."""
    widened = [
        m if m.drop is None else replace(m, drop_low=m.drop - half - m.drop / 8, drop_high=m.drop + half + m.drop / 8)
        for m in study.measurements
    ]
    return replace(study, measurements=tuple(widened))


def with_second_recipe(study: Study) -> Study:
    """The same layers under a harsher recipe as well: every drop three times as large."""
    harsher = []
    for m in study.measurements:
        harsher.append(replace(m, recipe="INT4", drop_low=None, drop_high=None))
        if m.drop is not None:
            harsher[-1] = replace(harsher[-1], drop=3 * m.drop, score=study.baseline.value - 3 * m.drop)
    return replace(study, recipes={"INT8": INT8, "INT4": INT4}, measurements=(*study.measurements, *harsher))


def _measurement(layer: str, drop: float | None, baseline: float) -> Measurement:
    if drop is None:
        return Measurement(layer, "INT8", None, None, status=Status.FAILED, reason="NaN in the output")
    score = baseline - drop
    metrics = {"miou": score, "miou_small": score - 0.05}
    return Measurement(layer, "INT8", score, drop, images=50, metrics=metrics, signals={"output_sqnr_db": 30.0})
