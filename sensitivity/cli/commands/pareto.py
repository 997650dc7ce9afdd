"""``sensitivity pareto``: accuracy against size or latency, as predicted and as measured. Needs no torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sensitivity.advise.protect import costs
from sensitivity.cli.arguments import add_imports, add_json, add_picture
from sensitivity.cli.output import Answer, check_place, write_all
from sensitivity.errors import StudyError
from sensitivity.records.results.latency import latency_of
from sensitivity.records.results.tuned import TunedRecord
from sensitivity.records.units import after_score, drop_text
from sensitivity.study import Study
from sensitivity.tradeoff import pareto

COSTS = {"size": ("size_bytes", 2.0**20, "MiB"), "latency": ("latency_s", 1e-3, "ms")}
Curves = Mapping[str, Sequence[tuple[float, float]]]
Point = tuple[str, float, float]
"""Label, bytes or seconds, and score in the unit people see."""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "pareto",
        help="draw accuracy against size or latency",
        description="Draw the score that is predicted when the worst layers are protected one after the other, against "
        "the size of all parameters or the time of one run, and the schemes that tune has measured. The prediction "
        "adds up single drops, which real models do not.",
    )
    parser.add_argument("study", type=Path, metavar="STUDY.json", help="what analyze wrote")
    parser.add_argument(
        "--tuned",
        action="append",
        type=Path,
        default=[],
        metavar="TUNED.json",
        help="what tune wrote on the same task: the schemes that it chose are drawn as measured; may be given again",
    )
    parser.add_argument(
        "--against", choices=tuple(COSTS), default="size", help="what accuracy is drawn against (default: %(default)s)"
    )
    add_picture(parser, "--out", "where to draw", "pareto.png")
    add_imports(parser)
    add_json(parser, "the predicted curves and the measured schemes")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    check_place(options.out)
    study = Study.load(options.study)
    if options.against == "latency" and not any(latency_of(study, name) for name in study.recipes):
        raise StudyError(f"{options.study} has no times: sensitivity analyze --latency ENGINE adds them.")
    measured = [point for path in options.tuned for point in _measured(study, path, options.against)]
    curves = {name: costs(study, name, options.against) for name in study.recipes}
    written = write_all(
        {options.out: lambda path: pareto(study, against=options.against, measured=measured, path=path)}
    )
    text = "\n".join([*_lines(study, curves, measured, options.against), *written])
    return Answer(text, _plain(study, curves, measured, options.against))


def _measured(study: Study, path: Path, against: str) -> list[Point]:
    """The schemes that a search chose one after the other; for latency the last one, which an engine ran."""
    tuned = TunedRecord.load(path)
    if (tuned.metric, tuned.unit, tuned.model) != (study.metric, study.unit, study.model):
        raise StudyError(
            f"{path} is about {tuned.metric} of {tuned.model}, and the study about {study.metric} of {study.model}: "
            "only schemes of the same model and metric can be drawn together."
        )
    if against == "size":
        chosen = [step for step in tuned.steps if step.chosen and step.score is not None]
        return [(step.what, step.size_bytes, float(step.score or 0.0) * tuned.scale) for step in chosen]
    if tuned.engine is None or tuned.engine.latency_s is None:
        raise StudyError(f"{path} has no times: tune measures them with --latency-s, on an engine.")
    return [(f"tuned, on {tuned.engine.engine}", tuned.engine.latency_s, tuned.engine.score * tuned.scale)]


def _lines(study: Study, curves: Curves, measured: Sequence[Point], against: str) -> list[str]:
    """A few points of each curve, and every measured scheme."""
    _, scale, unit = COSTS[against]
    lines = [f"{study.metric} of {study.model} on {study.task}, predicted from single drops"]
    for name, curve in curves.items():
        for protected in _shown(len(curve)):
            cost, drop = curve[protected]
            lines.append(
                f"  {name}, {protected} layers protected: {cost / scale:.4g} {unit}, "
                f"drop {drop_text(drop * study.scale, study.unit, '.3g')}"
            )
    lines += [
        f"  measured, {label}: {cost / scale:.4g} {unit}, {score:.4g}{after_score(study.unit)}"
        for label, cost, score in measured
    ]
    return lines


def _shown(count: int) -> list[int]:
    """0, 1, 2, 4, 8 ... and the last one."""
    doubled = [0, *(2**power for power in range(count.bit_length()) if 2**power < count)]
    return sorted({*doubled, count - 1}) if count else []


def _plain(study: Study, curves: Curves, measured: Sequence[Point], against: str) -> dict[str, Any]:
    cost = COSTS[against][0]
    return {
        "metric": study.metric,
        "unit": study.unit,
        "baseline": study.baseline.value,
        "predicted": {
            name: [{"protected": number, cost: point[0], "drop": point[1]} for number, point in enumerate(curve)]
            for name, curve in curves.items()
        },
        "measured": [{"label": label, cost: value, "score": score / study.scale} for label, value, score in measured],
    }
