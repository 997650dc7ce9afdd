"""``wrapped.diagnose``: the damage of each layer on the model's output, split by cause, with its measured cure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any

from torch import nn

from sensitivity.contracts import Task
from sensitivity.errors import CalibrationError, SensitivityError
from sensitivity.layers.table import LayerTable
from sensitivity.perturb.arguments import CalibrationLike, Images
from sensitivity.perturb.calibrator import Calibrator
from sensitivity.perturb.disturb import Disturber
from sensitivity.perturb.images import check_images
from sensitivity.perturb.sole_use import sole_use
from sensitivity.records import Layer, Recipe
from sensitivity.records.diagnosis import DamageCause, DiagnosisRecord, Finding
from sensitivity.search.noise import OutputNoise
from sensitivity.search.treatments import Treatment, treatments_of
from sensitivity.sweep.signals.fidelity import Fidelity
from sensitivity.sweep.signals.passes import output_passes

BELOW_TYPICAL_DB = 10.0
"""A layer is hurt where it does at least ten times the damage (10 dB) of the typical one, the median."""

FEWEST_TREATED = 5
"""The worst layers are always treated, so that the causes are told of a net whose layers are all alike as well."""

AS_GOOD_DB = 0.5
"""A cheaper cure is preferred to a better one that is at most this much better."""


def diagnose_on(
    images: Images,
    recipe: Recipe,
    *,
    calibrator: Calibrator,
    calibration: CalibrationLike,
    selected: Sequence[Layer],
    enough_db: float | None = None,
) -> DiagnosisRecord:
    """Run the images through the model for a diagnosis; where no calibration is given, they give the ranges as well.

    Args:
        images: A task, or preprocessed images.
        recipe: What is done to each layer.
        calibrator: Knows the model and its layers.
        calibration: Activation ranges or images; None measures the ranges of all recipes tried on ``images``.
        selected: The layers to look at.
        enough_db: As in ``diagnose``.

    Raises:
        CalibrationError: If no ranges fit the recipe, or there are no images.
        ModelError: If the model returns no floating-point tensor.
    """
    model, layers = calibrator.model, calibrator.layers
    images = images if isinstance(images, Task) else list(check_images(images))
    _check_some(images)
    tried = [recipe, *(treatment.recipe for treatment in treatments_of(recipe))]
    with sole_use(model):
        if calibration is None and any(recipe.needs_calibration for recipe in tried):
            calibration = images
        disturber = Disturber(model, calibrator.ready_for(tried, calibration))
        passes = [(run, count) for run, count, _ in output_passes(model, images, calibrator.example_inputs)]
        return diagnose(model, layers, recipe, disturber, passes, selected=selected, enough_db=enough_db)


def _check_some(images: Sized) -> None:
    """Refuse to diagnose on nothing.

    Raises:
        CalibrationError: If there are no images.
    """
    if not len(images):
        raise CalibrationError("no image was given to diagnose on. Pass at least one batch; a few are usual.")


def diagnose(
    model: nn.Module,
    layers: LayerTable,
    recipe: Recipe,
    disturber: Disturber,
    passes: Sequence[tuple[Callable[[], Any], int]],
    *,
    selected: Sequence[Layer],
    enough_db: float | None = None,
) -> DiagnosisRecord:
    """Quantize each layer alone, and the hurt ones in other ways as well, and compare the model's outputs.

    Every number is the SQNR of all floating-point tensors that the model returns, measured by replay.

    Args:
        model: The model; left as it was.
        layers: All of its layers.
        recipe: What is done to each.
        disturber: Applies recipes, with their ranges.
        passes: Runs the model on one batch each, and how many images that has.
        selected: The layers to look at.
        enough_db: SQNR below which a layer counts as hurt; None takes 10 dB below the median layer.

    Raises:
        CalibrationError: If the recipe quantizes activations and no ranges fit it, or there are no images.
        ModelError: If the model returns no floating-point tensor.
    """
    _check_some(passes)
    if recipe.needs_calibration:
        disturber.calibration_for(recipe)
    failed: dict[str, str] = {}
    able = [layer for layer in selected if _fits(disturber, layer, recipe, failed)]
    noise = OutputNoise(model, disturber, passes)
    damages: dict[Layer, Fidelity] = {}
    for layer, fidelity in zip(able, noise.of([{layer: recipe} for layer in able], replay=True), strict=True):
        if fidelity is None:
            failed[layer.name] = "the quantized model fails, or its outputs are not finite or of other shapes"
        else:
            damages[layer] = fidelity
    known = [fidelity.sqnr_db for fidelity in damages.values()]
    enough = enough_db if enough_db is not None else _typical(known) - BELOW_TYPICAL_DB
    worst = sorted(damages, key=lambda layer: damages[layer].sqnr_db)
    treated = [layer for layer in worst if damages[layer].sqnr_db < enough]
    treated += [layer for layer in worst[:FEWEST_TREATED] if layer not in treated and enough_db is None]
    treatments, notes = _known_ranges(treatments_of(recipe), disturber)
    results = _treat(noise, disturber, treated, treatments)
    findings = [_finding(layer, fidelity, results.get(layer), enough) for layer, fidelity in damages.items()]
    findings = _with_those_that_need_float(findings)
    return DiagnosisRecord(layers.model, recipe, tuple(findings), enough, noise.images, failed, tuple(notes))


def _typical(known: Sequence[float]) -> float:
    return statistics.median(known) if known else 0.0


def _fits(disturber: Disturber, layer: Layer, recipe: Recipe, failed: dict[str, str]) -> bool:
    try:
        disturber.touched({layer: recipe})
    except SensitivityError as error:
        failed[layer.name] = str(error)
        return False
    return True


def _known_ranges(treatments: Sequence[Treatment], disturber: Disturber) -> tuple[list[Treatment], list[str]]:
    """The treatments whose ranges are known, and what is not told for want of ranges."""
    known, missing = [], []
    for treatment in treatments:
        try:
            if treatment.recipe.needs_calibration:
                disturber.calibration_for(treatment.recipe)
            known.append(treatment)
        except CalibrationError:
            missing.append(treatment.recipe.name)
    note = "not tried, as no ranges are at hand (calibration=images measures them): " + "; ".join(missing)
    return known, [note] if missing else []


Results = Mapping[Treatment, float]
"""SQNR of the outputs in dB by what was tried; what failed is absent."""


def _treat(
    noise: OutputNoise, disturber: Disturber, layers: Sequence[Layer], treatments: Sequence[Treatment]
) -> dict[Layer, Results]:
    trials = [
        (layer, treatment)
        for layer in layers
        for treatment in treatments
        if _fits(disturber, layer, treatment.recipe, {})
    ]
    found = noise.of([{layer: treatment.recipe} for layer, treatment in trials], replay=True)
    results: dict[Layer, dict[Treatment, float]] = {layer: {} for layer in layers}
    for (layer, treatment), fidelity in zip(trials, found, strict=True):
        if fidelity is not None:
            results[layer][treatment] = fidelity.sqnr_db
    return dict(results)


def _finding(layer: Layer, damage: Fidelity, results: Results | None, enough_db: float) -> Finding:
    output_db = damage.sqnr_db
    hurt = output_db < enough_db
    if not results:
        return Finding(layer.name, output_db, hurt)
    causes: dict[DamageCause, float] = {}
    for treatment, after_db in results.items():
        if treatment.cause is not None:
            causes[treatment.cause] = max(after_db - output_db, causes.get(treatment.cause, -math.inf))
    cures = {treatment: after_db for treatment, after_db in results.items() if treatment.is_cure}
    cure = _cheapest(cures, output_db, enough_db) if hurt else None
    cured_db = None if cure is None else cures[cure]
    return Finding(layer.name, output_db, hurt, causes, None if cure is None else cure.recipe, cured_db)


def _with_those_that_need_float(findings: Sequence[Finding]) -> list[Finding]:
    """The same, with the layers marked that do more damage with their cure than all others with theirs."""
    left = [10.0 ** (-_best_db(finding) / 10.0) for finding in findings]
    total = math.fsum(left)
    return [
        replace(finding, needs_float=True) if finding.hurt and own > total - own else finding
        for finding, own in zip(findings, left, strict=True)
    ]


def _best_db(finding: Finding) -> float:
    return finding.output_db if finding.cured_db is None else max(finding.cured_db, finding.output_db)


def _cheapest(cures: Results, output_db: float, enough_db: float) -> Treatment | None:
    """The first that is enough; else the first that is about as good as the best; None where nothing helps."""
    best = max(cures.values(), default=-math.inf)
    if best <= output_db:
        return None
    needed = enough_db if best >= enough_db else best - AS_GOOD_DB
    return next(treatment for treatment, after_db in cures.items() if after_db >= needed and after_db > output_db)
