"""``wrapped.diagnose``: the damage of each layer on the model's output, split by cause, with its measured cure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from sensitivity.contracts import Task
from sensitivity.deploy.doctor.recipe_for import without_saturation
from sensitivity.deploy.prepare.equalized import equalized_copy
from sensitivity.errors import CalibrationError, EngineError, ExportError, SensitivityError
from sensitivity.layers.table import LayerTable
from sensitivity.perturb.calibration.arguments import CalibrationLike, Images
from sensitivity.perturb.calibration.calibrator import Calibrator
from sensitivity.perturb.calibration.distributions import CountedRecipes, input_distributions, weight_distribution
from sensitivity.perturb.calibration.images import check_images
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.state.sole_use import sole_use
from sensitivity.progress import Watcher, watching
from sensitivity.records import Layer, Recipe
from sensitivity.records.results.diagnosis import DamageCause, DiagnosisRecord, Finding
from sensitivity.search.diagnosis.comparisons import HALF_RESTS, EqualizedCopy, OnEngine, in_half
from sensitivity.search.diagnosis.treatments import Treatment, equalizing, treatments_of
from sensitivity.search.noise import OutputNoise
from sensitivity.sweep.signals.fidelity import Fidelity
from sensitivity.sweep.signals.passes import output_passes

BELOW_TYPICAL_DB = 10.0
"""A layer is hurt where it does at least ten times the damage (10 dB) of the typical one, the median."""

FEWEST_TREATED = 5
"""The worst layers are always treated, so that the causes are told of a net whose layers are all alike as well."""

AS_GOOD_DB = 0.5
"""A cheaper cure is preferred to a better one that is at most this much better."""


@dataclass(frozen=True)
class Others:
    """What else layers are compared on.

    Attributes:
        equalized: Makes the copy of the model whose channels are equalized; None does not try it.
        engine: An engine of this machine whose sums saturate; None takes what is simulated.
    """

    equalized: Callable[[], EqualizedCopy] | None = None
    engine: OnEngine | None = None


NOTHING_ELSE = Others()


def diagnose_on(
    images: Images,
    recipe: Recipe,
    *,
    calibrator: Calibrator,
    calibration: CalibrationLike,
    selected: Sequence[Layer],
    enough_db: float | None = None,
    deploy: Callable[..., Any] | None = None,
    progress: bool | None = None,
) -> DiagnosisRecord:
    """Run the images through the model for a diagnosis; where no calibration is given, they give the ranges as well.

    Args:
        images: A task, or preprocessed images.
        recipe: What is done to each layer.
        calibrator: Knows the model and its layers.
        calibration: Activation ranges or images; None measures the ranges of all recipes tried on ``images``.
        selected: The layers to look at.
        enough_db: As in ``diagnose``.
        deploy: Runs a scheme with these ranges on an engine of this machine whose sums saturate; None where none was
            named, or its sums are exact.
        progress: Show a progress bar.

    Raises:
        CalibrationError: If no ranges fit the recipe, or there are no images.
        ModelError: If the model returns no floating-point tensor.
    """
    model, layers = calibrator.model, calibrator.layers
    images = images if isinstance(images, Task) else list(check_images(images))
    _check_some(images)
    tried = [recipe, *(treatment.recipe for treatment in _treatments(recipe, saturates=deploy is not None))]

    def passes_of(model: Any) -> list[tuple[Callable[[], Any], int]]:
        return [(run, count) for run, count, _ in output_passes(model, images, calibrator.example_inputs)]

    with sole_use(model):
        if calibration is None and any(recipe.needs_calibration for recipe in tried):
            calibration = images
        ready = calibrator.ready_for(tried, calibration, progress=progress)
        equalized = partial(_equalized, calibrator, recipe, calibration, passes_of, progress=progress)
        others = Others(
            equalized if recipe.placement == "deploy" else None,
            None if deploy is None else OnEngine(partial(deploy, calibration=ready or None), passes_of, model),
        )
        with watching(None, progress) as watch:
            return diagnose(
                *(model, layers, recipe, Perturber(model, ready), passes_of(model)),
                selected=selected,
                enough_db=enough_db,
                others=others,
                tell=None if watch is None else _counting(watch),
            )


def _counting(watch: Watcher) -> Callable[[str], None]:
    """Tells a watcher of one step more, and the layer that it was about."""
    steps = itertools.count(1)
    return lambda layer: watch(next(steps), 0, layer)


def _equalized(
    calibrator: Calibrator,
    recipe: Recipe,
    calibration: CalibrationLike,
    passes_of: Callable[[Any], list[tuple[Callable[[], Any], int]]],
    *,
    progress: bool | None,
) -> EqualizedCopy:
    """The equalized copy of a model, with ranges of its own."""
    copied = equalized_copy(calibrator.model, calibrator.layers, calibrator.example_inputs)
    own = Calibrator(copied.model, copied.layers, calibrator.example_inputs)
    perturber = Perturber(copied.model, own.ready_for([recipe], calibration, progress=progress))
    return EqualizedCopy(copied.model, copied.layers, perturber, passes_of(copied.model), copied.reasons)


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
    perturber: Perturber,
    passes: Sequence[tuple[Callable[[], Any], int]],
    *,
    selected: Sequence[Layer],
    enough_db: float | None = None,
    others: Others = NOTHING_ELSE,
    tell: Callable[[str], None] | None = None,
) -> DiagnosisRecord:
    """Quantize each layer alone, and the hurt ones in other ways as well, and compare the model's outputs.

    Every number is the SQNR of all floating-point tensors that the model returns, measured by replay.

    Args:
        model: The model; left as it was.
        layers: All of its layers.
        recipe: What is done to each.
        perturber: Applies recipes, with their ranges.
        passes: Runs the model on one batch each, and how many images that has.
        selected: The layers to look at.
        enough_db: SQNR below which a layer counts as hurt; None takes 10 dB below the median layer.
        others: What else layers are compared on.
        tell: Called with a layer's name when it was compared on a batch, or on the engine.

    Raises:
        CalibrationError: If the recipe quantizes activations and no ranges fit it, or there are no images.
        ModelError: If the model returns no floating-point tensor.
    """
    _check_some(passes)
    if recipe.needs_calibration:
        perturber.calibration_for(recipe)
    failed: dict[str, str] = {}
    able = [layer for layer in selected if _fits(perturber, layer, recipe, failed)]
    noise = OutputNoise(model, perturber, passes, tell)
    simulated = noise.of([{layer: recipe} for layer in able], replay=True)
    if others.engine is None:
        fidelities = simulated
    else:
        fidelities = []
        for layer in able:
            fidelities.append(_on_engine(others.engine, layer, recipe, failed))
            if tell is not None:
                tell(layer.name)
    damages: dict[Layer, Fidelity] = {}
    for layer, fidelity in zip(able, fidelities, strict=True):
        if fidelity is not None:
            damages[layer] = fidelity
        else:
            failed.setdefault(layer.name, "the quantized model fails, or its outputs are not finite or of other shapes")
    known = [fidelity.sqnr_db for fidelity in damages.values()]
    enough = enough_db if enough_db is not None else _typical(known) - BELOW_TYPICAL_DB
    worst = sorted(damages, key=lambda layer: damages[layer].sqnr_db)
    treated = [layer for layer in worst if damages[layer].sqnr_db < enough]
    treated += [layer for layer in worst[:FEWEST_TREATED] if layer not in treated and enough_db is None]
    treatments, notes = _known_ranges(_treatments(recipe, saturates=others.engine is not None), perturber)
    results = _treat(noise, perturber, treated, treatments)
    if others.equalized is not None and treated:
        notes += _equalize(others.equalized, recipe, treated, results)
    findings = [
        replace(_finding(layer, fidelity, results.get(layer), enough), half_db=halves)
        for layer, fidelity in damages.items()
        for halves in [_in_halves(model, layers, passes, layer) if layer in results else {}]
    ]
    findings = _with_distributions(perturber, recipe, layers, _with_those_that_need_float(findings), passes)
    return DiagnosisRecord(layers.model, recipe, tuple(findings), enough, noise.images, failed, tuple(notes))


def _treatments(recipe: Recipe, *, saturates: bool) -> list[Treatment]:
    """What is tried; on an engine whose sums saturate all of it with weights in 7 bits, whose sums are exact."""
    exact = without_saturation(recipe) if saturates else recipe
    first = [] if exact == recipe else [Treatment(exact, DamageCause.SATURATION)]
    return [*first, *treatments_of(exact)]


def _on_engine(engine: OnEngine, layer: Layer, recipe: Recipe, failed: dict[str, str]) -> Fidelity | None:
    try:
        fidelity = engine.of(layer, recipe)
    except (EngineError, ExportError) as error:
        failed[layer.name] = str(error)
        return None
    return fidelity if fidelity.finite else None


def _equalize(
    make: Callable[[], EqualizedCopy], recipe: Recipe, layers: Sequence[Layer], results: Mapping[Layer, Results]
) -> list[str]:
    """Measure layers on the equalized copy as well, and say why where there is none."""
    try:
        copy = make()
        fidelities = copy.of(layers, recipe)
    except SensitivityError as error:
        return [f"equalization was not tried: {error}"]
    treatment = equalizing(recipe)
    for layer, fidelity in zip(layers, fidelities, strict=True):
        if fidelity is not None:
            results[layer][treatment] = fidelity.sqnr_db
    return []


def _in_halves(
    model: nn.Module, layers: LayerTable, passes: Sequence[tuple[Callable[[], Any], int]], layer: Layer
) -> dict[str, float]:
    """SQNR of the outputs with a layer in each half precision; what is not finite is absent."""
    fidelities = {half: in_half(model, layers, passes, layer, half) for half in HALF_RESTS}
    return {half: fidelity.sqnr_db for half, fidelity in fidelities.items() if fidelity.finite}


def _typical(known: Sequence[float]) -> float:
    return statistics.median(known) if known else 0.0


def _fits(perturber: Perturber, layer: Layer, recipe: Recipe, failed: dict[str, str]) -> bool:
    try:
        perturber.touched({layer: recipe})
    except SensitivityError as error:
        failed[layer.name] = str(error)
        return False
    return True


def _known_ranges(treatments: Sequence[Treatment], perturber: Perturber) -> tuple[list[Treatment], list[str]]:
    """The treatments whose ranges are known, and what is not told for want of ranges."""
    known, missing = [], []
    for treatment in treatments:
        try:
            if treatment.recipe.needs_calibration:
                perturber.calibration_for(treatment.recipe)
            known.append(treatment)
        except CalibrationError:
            missing.append(treatment.recipe.name)
    note = "not tried, as no ranges are at hand (calibration=images measures them): " + "; ".join(missing)
    return known, [note] if missing else []


Results = dict[Treatment, float]
"""SQNR of the outputs in dB by what was tried; what failed is absent."""


def _treat(
    noise: OutputNoise, perturber: Perturber, layers: Sequence[Layer], treatments: Sequence[Treatment]
) -> dict[Layer, Results]:
    trials = [
        (layer, treatment)
        for layer in layers
        for treatment in treatments
        if _fits(perturber, layer, treatment.recipe, {})
    ]
    fidelities = noise.of([{layer: treatment.recipe} for layer, treatment in trials], replay=True)
    results: dict[Layer, dict[Treatment, float]] = {layer: {} for layer in layers}
    for (layer, treatment), fidelity in zip(trials, fidelities, strict=True):
        if fidelity is not None:
            results[layer][treatment] = fidelity.sqnr_db
    return results


def _finding(layer: Layer, damage: Fidelity, results: Results | None, enough_db: float) -> Finding:
    output_db = damage.sqnr_db
    hurt = output_db < enough_db
    if not results:
        return Finding(layer.name, output_db, hurt)
    causes: dict[DamageCause, float] = {}
    exact = next((db for treatment, db in results.items() if treatment.cause is DamageCause.SATURATION), output_db)
    for treatment, after_db in results.items():
        if treatment.cause is not None:
            before_db = output_db if treatment.cause is DamageCause.SATURATION else exact
            causes[treatment.cause] = max(after_db - before_db, causes.get(treatment.cause, -math.inf))
    cures = {treatment: after_db for treatment, after_db in results.items() if treatment.is_cure}
    cure = _cheapest(cures, output_db, enough_db) if hurt else None
    if cure is None:
        return Finding(layer.name, output_db, hurt, causes)
    return Finding(layer.name, output_db, hurt, causes, cure.recipe, cures[cure], equalized=cure.equalized)


def _with_those_that_need_float(findings: Sequence[Finding]) -> list[Finding]:
    """The same, with the layers marked that do more damage with their cure than all others with theirs."""
    left = [10.0 ** (-_best_db(finding) / 10.0) for finding in findings]
    total = math.fsum(left)
    return [
        replace(finding, needs_float=True) if finding.hurt and own > total - own else finding
        for finding, own in zip(findings, left, strict=True)
    ]


def _with_distributions(
    perturber: Perturber,
    recipe: Recipe,
    layers: LayerTable,
    findings: Sequence[Finding],
    passes: Sequence[tuple[Callable[[], Any], int]],
) -> list[Finding]:
    """The same with the values of each layer's inputs and weight, from one more pass over the images.

    The equalized copy has other values, so that the range of a cure for it is not told.
    """
    counted = {
        layers[finding.layer]: CountedRecipes(recipe, None if finding.equalized else finding.cure)
        for finding in findings
    }
    inputs = input_distributions(perturber, counted, [run for run, _ in passes])
    weights = {layer.name: weight_distribution(perturber, layer, recipes) for layer, recipes in counted.items()}
    return [replace(each, inputs=inputs[each.layer], weights=weights[each.layer]) for each in findings]


def _best_db(finding: Finding) -> float:
    return finding.output_db if finding.cured_db is None else max(finding.cured_db, finding.output_db)


def _cheapest(cures: Results, output_db: float, enough_db: float) -> Treatment | None:
    """The first that is enough; else the first that is about as good as the best; None where nothing helps."""
    best = max(cures.values(), default=-math.inf)
    if best <= output_db:
        return None
    needed = enough_db if best >= enough_db else best - AS_GOOD_DB
    return next(treatment for treatment, after_db in cures.items() if after_db >= needed and after_db > output_db)
