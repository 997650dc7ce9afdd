"""What ``sensitivity demo`` prints; every number in it was computed in that run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
  study = wrapped.analyze(task, sv.INT8, calibration=images)
  tuned = wrapped.tune(task, max_drop=0.5, calibration=images)"""


def tell_setting(console: Console, wrapped: sv.Wrapped, task: sv.PromptedMasks, *, calibration_images: int) -> None:
    """What is analysed, and on what."""
    objects = len(task.annotations.annotations)
    parameters = sum(layer.parameters for layer in wrapped.layers)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("model", f"image encoder of {wrapped.name}: {len(wrapped.layers)} layers, {parameters:,} parameters,")
    facts.add_row("", "trained on drawn scenes. A few channels were then made as large as in")
    facts.add_row("", "networks that int8 breaks; what it computes hardly changes")
    facts.add_row("task", f"cut out {objects} things in {len(task)} other scenes, each pointed at with its box")
    facts.add_row("metric", f"{task.metric}: overlap of mask and truth, mean over things")
    facts.add_row("ranges", f"of int8 activations from {calibration_images} scenes that are not scored")
    console.print("\n[bold]1. Which layers break when they are quantized, one at a time?[/]\n")
    console.print(facts, "")


def tell_layers(console: Console, study: sv.Study) -> None:
    """Every layer with its drop under every recipe, then the dips by name."""
    verdicts = {recipe: study.verdicts(recipe) for recipe in study.recipes}
    drops = {recipe: {m.layer: m.drop for m in study.of_recipe(recipe)} for recipe in study.recipes}
    longest = max(drop or 0.0 for of_layer in drops.values() for drop in of_layer.values())
    table = _table("layer", "kind", "role", numbers=[*study.recipes, ""])
    for layer in study.layers:
        of_recipes = [drops[recipe][layer.name] for recipe in study.recipes]
        cells = [
            _drop(study, drop, verdicts[recipe].get(layer.name)) for recipe, drop in zip(drops, of_recipes, strict=True)
        ]
        bar = Bar(longest, 0, max(0.0, *(drop or 0.0 for drop in of_recipes)), width=BAR_WIDTH, color="red")
        table.add_row(layer.name, layer.kind, layer.role, *cells, bar)
    baseline = f"[bold]{_shown(study, study.baseline.value)} {study.unit}[/]"
    console.print(f"With nothing quantized, {study.metric} is {baseline}. Points lost with one layer quantized:", table)
    for recipe, of_layer in verdicts.items():
        dips = [name for name, verdict in of_layer.items() if verdict == "dip"]
        dips.sort(key=lambda name: -(drops[recipe][name] or 0.0))
        undecided = sum(verdict == "undecided" for verdict in of_layer.values())
        more = f"; undecided on so few images: {undecided}" if undecided else ""
        console.print(f"[bold]{recipe}[/], dips: {', '.join(dips) or 'none'}{more}", highlight=False)


def tell_causes(console: Console, diagnosis: sv.Diagnosis) -> None:
    """What the layers that are hurt suffer from, what the cheapest cure does, and which are beyond cure."""
    console.print("\n[bold]2. Why do they break, and what cures them?[/]\n")
    if not diagnosis.hurt:
        console.print(f"No layer is hurt: all leave the outputs {diagnosis.enough_db:.0f} dB or more.")
        return
    table = _table("layer", "cause", "cheapest cure", numbers=["int8", "cured"])
    for finding in diagnosis.hurt:
        cure = "" if finding.cure is None else finding.cure.name
        cured = "" if finding.cured_db is None else f"{finding.cured_db:.1f}"
        table.add_row(finding.layer, str(finding.cause or ""), cure, f"{finding.output_db:.1f}", cured)
    console.print(
        f"Signal to noise of the encoder's output in dB, on {diagnosis.images} scenes, with the layer quantized alone:",
        table,
    )
    beyond = [f.layer for f in diagnosis.hurt if f.cured_db is None or f.cured_db < diagnosis.enough_db]
    console.print(
        f"Beyond cure, below {diagnosis.enough_db:.0f} dB also when cured: {', '.join(beyond) or 'none'}",
        highlight=False,
    )


def tell_cures(
    console: Console, tuned: sv.Tuned, study: sv.Study, protected: sv.Scheme, protected_score: sv.Score
) -> None:
    """All layers at once: as they are, cured, cured and protected; and protected without a cure."""
    console.print("\n[bold]3. All layers at once, measured[/]")
    table = _table("scheme", numbers=["weights", tuned.metric, "lost", "float"])

    def add(words: str, size_bytes: int | None, score: float | None, in_float: int) -> None:
        lost = None if score is None else study.baseline.value - score
        table.add_row(words, _kibibytes(size_bytes), _shown(study, score), _shown(study, lost), str(in_float))

    candidates = [step for step in tuned.steps if step.kind == "candidate" and step.score is not None]
    add("nothing quantized", sum(layer.weight_bytes for layer in study.layers), tuned.baseline.value, len(study.layers))
    if candidates:
        best = max(candidates, key=lambda step: step.score or 0.0)
        for step in dict.fromkeys([candidates[0], best]):
            add(step.what, step.size_bytes, step.score, step.in_float)
    add("tune: cured, then protected", tuned.size_bytes, tuned.score.value, len(tuned.in_float))
    add("int8, worst protected, no cure", protected.size_bytes, protected_score.value, len(protected.reasons))
    console.print(table)
    met = "meets" if tuned.met else "does not meet"
    console.print(
        f"tune {met} {tuned.goal.text(tuned.unit)} with {tuned.quantized} of {len(tuned.layers)} layers in 8 bits"
        + (" on the equalized copy." if tuned.equalized else "."),
        f"What is beyond cure stays in float: {', '.join(tuned.in_float) or 'nothing'}",
        sep="\n",
        highlight=False,
    )


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


def _drop(study: sv.Study, drop: float | None, verdict: str | None) -> Text:
    style = {"dip": "bold red", "harmless": "dim"}.get(verdict or "", "")
    return Text("failed" if drop is None else _shown(study, drop), style)


def _shown(study: sv.Study, stored: float | None) -> str:
    """Two decimals in the unit people see, and never a negative zero."""
    return "" if stored is None else f"{round(stored * study.scale, 2) + 0.0:.2f}"


def _kibibytes(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 1024:.0f} KiB"
