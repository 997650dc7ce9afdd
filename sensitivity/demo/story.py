"""What ``sensitivity demo`` prints; every number in it was computed in that run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

import sensitivity as sv

BAR_WIDTH = 10

NEXT_STEP = """
Next, your own model and data:
  wrapped = sv.wrap(model, example_inputs)
  study = wrapped.analyze(task, sv.INT8, calibration=images)"""


def tell_setting(console: Console, wrapped: sv.Wrapped, task: sv.PromptedMasks, *, calibration_images: int) -> None:
    """What is analysed, and on what."""
    objects = len(task.annotations.annotations)
    parameters = sum(layer.parameters for layer in wrapped.layers)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("model", f"image encoder of {wrapped.name}: {len(wrapped.layers)} layers, {parameters:,} parameters")
    facts.add_row("task", f"cut out {objects} things in {len(task)} drawn scenes, each pointed at with its box")
    facts.add_row("metric", f"{task.metric}: overlap of mask and truth, mean over things")
    facts.add_row("ranges", f"of int8 activations from {calibration_images} other scenes")
    console.print("\n[bold]Which layers break when they are quantized, one at a time?[/]\n")
    console.print(facts, "")


def tell_layers(console: Console, study: sv.Study) -> None:
    """Every layer with its drop under every recipe, then the dips by name."""
    verdicts = {recipe: study.verdicts(recipe) for recipe in study.recipes}
    drops = {recipe: {m.layer: m.drop for m in study.of_recipe(recipe)} for recipe in study.recipes}
    longest = max(drop or 0.0 for layer_drops in drops.values() for drop in layer_drops.values())
    table = _table("layer", "kind", "role", numbers=[*study.recipes, ""])
    for layer in study.layers:
        row = [drops[recipe][layer.name] for recipe in study.recipes]
        cells = [_drop(study, drop, verdicts[recipe].get(layer.name)) for recipe, drop in zip(drops, row, strict=True)]
        bar = Bar(longest, 0, max(0.0, *(drop or 0.0 for drop in row)), width=BAR_WIDTH, color="red")
        table.add_row(layer.name, layer.kind, layer.role, *cells, bar)
    baseline = f"[bold]{_shown(study, study.baseline.value)} {study.unit}[/]"
    console.print(f"With nothing quantized, {study.metric} is {baseline}. Points lost with one layer quantized:", table)
    for recipe, of_layer in verdicts.items():
        dips = [name for name, verdict in of_layer.items() if verdict == "dip"]
        dips.sort(key=lambda name: -(drops[recipe][name] or 0.0))
        undecided = sum(verdict == "undecided" for verdict in of_layer.values())
        more = f"; undecided on so few images: {undecided}" if undecided else ""
        console.print(f"[bold]{recipe}[/], dips: {', '.join(dips) or 'none'}{more}", highlight=False)


def tell_schemes(console: Console, study: sv.Study, measured: Sequence[tuple[sv.Scheme, sv.Score]]) -> None:
    """What whole schemes were predicted to lose, what was measured, and what each protects."""
    table = _table("scheme", numbers=["weights", study.metric, "points lost", "predicted"])
    weights = sum(layer.weight_bytes for layer in study.layers)
    table.add_row("nothing quantized", _kibibytes(weights), _shown(study, study.baseline.value), "", "")
    for scheme, score in measured:
        lost = study.baseline.value - score.value
        numbers = (_shown(study, number) for number in (score.value, lost, scheme.predicted_drop))
        table.add_row(_title(scheme), _kibibytes(scheme.size_bytes), *numbers)
    console.print("\nMany layers at once, measured (predicted is the sum of the drops above):", table)
    for scheme, _ in measured:
        if scheme.reasons:
            console.print(f"[bold]{_title(scheme)}[/]: {', '.join(scheme.reasons)}", highlight=False)


def tell_files(console: Console, folder: Path, written: Mapping[Path, str], *, seconds: float) -> None:
    """Where the results are and what to do with them."""
    console.print(f"\nWritten to [bold]{folder.resolve()}[/] after {seconds:.0f} s:", soft_wrap=True)
    files = Table.grid(padding=(0, 2))
    for path, words in written.items():
        files.add_row(f"  {path.relative_to(folder)}", words)
    console.print(files)
    console.print(NEXT_STEP, highlight=False)


def _table(*texts: str, numbers: Iterable[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in texts:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, no_wrap=True, justify="right")
    return table


def _title(scheme: sv.Scheme) -> str:
    recipes = ", ".join(recipe.name for recipe in scheme.recipes)
    return f"{recipes}, {len(scheme.reasons) or 'nothing'} protected"


def _drop(study: sv.Study, drop: float | None, verdict: str | None) -> Text:
    style = {"dip": "bold red", "harmless": "dim"}.get(verdict or "", "")
    return Text("failed" if drop is None else _shown(study, drop), style)


def _shown(study: sv.Study, stored: float | None) -> str:
    """Two decimals in the unit people see, and never a negative zero."""
    return "" if stored is None else f"{round(stored * study.scale, 2) + 0.0:.2f}"


def _kibibytes(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 1024:.0f} KiB"
