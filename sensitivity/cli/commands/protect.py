"""``sensitivity protect``: which layers to keep in high precision. Needs no torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from sensitivity.cli.arguments import add_imports, add_json, add_tolerance, count, size, time_above_zero, tolerance
from sensitivity.cli.output import Answer, writing
from sensitivity.errors import StudyError
from sensitivity.records import Scheme
from sensitivity.records.results.latency import latency_of
from sensitivity.records.units import drop_text
from sensitivity.study import Study


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "protect",
        help="choose the layers to keep in high precision",
        description="Quantize every layer but those that hurt most. The predicted drop adds up single drops, which "
        "real models do not: measure the scheme before relying on it.",
    )
    parser.add_argument("study", type=Path, metavar="STUDY.json", help="what analyze wrote")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--max-drop", type=tolerance, metavar="POINTS", help="until the predicted drop is at most this")
    how.add_argument("--top", type=count, metavar="N", help="the worst N layers")
    size_help = "what fits into this many bytes, e.g. 20MiB"
    how.add_argument("--size-bytes", "--size", dest="size", type=size, metavar="BYTES", help=size_help)
    how.add_argument(
        "--latency-s",
        type=time_above_zero,
        metavar="SECONDS",
        help="what fits into a run of so long, by the times in the study",
    )
    how.add_argument("--latency", type=time_above_zero, metavar="MS", help="the same in milliseconds")
    parser.add_argument("--recipe", metavar="NAME", help="what the other layers get, where the study has several")
    parser.add_argument("--out", type=Path, metavar="SCHEME.json", help="write the scheme, for deploy and verify")
    add_tolerance(parser)
    add_imports(parser)
    add_json(parser, "the scheme")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    study = Study.load(options.study)
    if options.tolerance is not None:
        study = study.with_tolerance(options.tolerance)
    recipes = [options.recipe] if options.recipe else list(study.recipes)
    latency_s = options.latency_s if options.latency is None else options.latency / 1000
    if latency_s is not None and not any(latency_of(study, name) for name in recipes):
        raise StudyError(
            f"{options.study} has no times of {', '.join(recipes)}: sensitivity analyze --latency ENGINE adds them."
        )
    scheme = study.protect(
        top=options.top,
        max_drop=options.max_drop,
        size_bytes=options.size,
        latency_s=latency_s,
        recipe=options.recipe,
    )
    if options.out is not None:
        with writing(options.out):
            scheme.save(options.out)
    wrote = [] if options.out is None else [f"wrote {options.out}"]
    return Answer("\n".join([_told(study, scheme), *wrote]), scheme.to_json())


def _told(study: Study, scheme: Scheme) -> str:
    """The scheme in words."""
    quantized = " ".join(recipe.name for recipe in scheme.recipes) or "nothing"
    lines = [f"{quantized} for all {len(study.layers)} layers but {len(scheme.reasons)}:"]
    lines += [f"  {name}: {reason}" for name, reason in scheme.reasons.items()]
    if scheme.predicted_drop is not None:
        shown = drop_text(scheme.predicted_drop * study.scale, study.unit, ".3g")
        lines.append(f"predicted drop {shown}, a sum of single drops")
    if scheme.miss_probability is not None:
        lines.append(f"beyond the largest drop asked for on other images of this kind: {scheme.shown_chance}")
    if scheme.size_bytes is not None:
        lines.append(f"parameters {scheme.size_bytes / 2**10:.0f} KiB")
    return "\n".join([*lines, *_latencies(study, scheme)])


def _latencies(study: Study, scheme: Scheme) -> Iterator[str]:
    """What the study's times tell of a scheme."""
    for recipe in scheme.recipes:
        latency = latency_of(study, recipe.name)
        if latency is not None:
            seconds = latency.quantized_s + sum(map(latency.extra_s, scheme.reasons))
            yield (
                f"expected {seconds * 1000:.3g} ms on {latency.engine}, of {latency.quantized_s * 1000:.3g} ms with "
                f"nothing protected and {latency.float_s * 1000:.3g} ms in float, a sum of single layers"
            )
