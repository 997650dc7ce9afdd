"""``sensitivity evaluate``: the score of a scheme on a task, simulated, and its drop with an interval."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensitivity.cli.arguments import add_calibration, add_json, add_model, add_task
from sensitivity.cli.models import add_ranges, import_model, made_model, made_task, needing_images
from sensitivity.cli.output import Answer
from sensitivity.records import Scheme, Score
from sensitivity.records.units import drop_text, scale_of, score_text

if TYPE_CHECKING:
    from sensitivity.contracts import Task
    from sensitivity.wrapped import Wrapped

LEVEL = 0.95


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="score a scheme on a task",
        description="Score the float model and the simulated scheme on a task, and tell the drop with its 95 %% "
        "interval for other images of the same kind.",
    )
    add_model(parser)
    parser.add_argument("scheme", type=Path, metavar="SCHEME.json", help="what protect or tune wrote")
    add_task(parser)
    add_calibration(parser)
    add_json(parser, "scores, drop and interval")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    import_model(options)
    scheme = Scheme.load(options.scheme)
    needy = needing_images(scheme.recipes, options.calibration)
    model = made_model(options)
    wrapped, task = model.wrapped, made_task(options.task, model, options.limit)
    add_ranges(model, options.calibration if needy else None, needy)
    from sensitivity.perturb.reference import with_reference
    from sensitivity.score import FirstLook, score_of
    from sensitivity.sweep.stopping.paired import drop_interval

    task = with_reference(wrapped.model, task)
    in_float = _predictions(wrapped, task, Scheme())
    FirstLook(task).take(in_float)
    quantized = _predictions(wrapped, task, scheme)
    baseline, score = score_of(task, in_float), score_of(task, quantized)
    drop = (baseline.value - score.value) * (1 if task.higher_is_better else -1)
    interval = drop_interval(task, in_float, quantized, drop=drop, level=LEVEL)
    return Answer(_text(baseline, score, drop, interval), _plain(baseline, score, drop, interval))


def _predictions(wrapped: Wrapped, task: Task, scheme: Scheme) -> dict[int, Any]:
    """The predictions of the simulated model by image."""
    import torch

    from sensitivity.perturb.state.state import ModelState
    from sensitivity.score import predict

    predictions: dict[int, Any] = {}
    with wrapped.quantized(scheme) as model, torch.no_grad():
        state = ModelState(model)
        for batch in task.batches():
            with state.same_start():
                predictions |= dict(zip(batch.images, predict(task, model, batch), strict=True))
    return predictions


def _plain(baseline: Score, score: Score, drop: float, interval: tuple[float, float] | None) -> dict[str, Any]:
    low, high = interval or (None, None)
    return {
        "metric": score.metric,
        "unit": score.unit,
        "images": score.images,
        "baseline": baseline.value,
        "score": score.value,
        "drop": drop,
        "drop_low": low,
        "drop_high": high,
        "level": None if interval is None else LEVEL,
        "metrics": dict(score.metrics),
        "baseline_metrics": dict(baseline.metrics),
    }


def _text(baseline: Score, score: Score, drop: float, interval: tuple[float, float] | None) -> str:
    scale = scale_of(score.unit)
    text = f"drop {drop_text(drop * scale, score.unit)}"
    if interval is None:
        text += ", without an interval: that needs 8 images or more, and a metric that they move"
    else:
        low, high = (end * scale for end in interval)
        text += f", {LEVEL:.0%} interval {low:.4g} to {high:.4g} for other images of this kind"
    return (
        f"{score.metric} {score_text(score.value * scale, score.unit)} on {score.images} images, "
        f"{score_text(baseline.value * scale, baseline.unit)} in float\n{text}"
    )
