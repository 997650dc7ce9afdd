"""What is asked of a search, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from sensitivity.deploy.deployed import Deployed
from sensitivity.deploy.doctor.saturation import capabilities_here
from sensitivity.deploy.engines.registry import Build, EngineKind, engine_names, kind_of
from sensitivity.deploy.prepare.plan import Plan
from sensitivity.errors import (
    CalibrationError,
    EngineError,
    MissingPackageError,
)
from sensitivity.layers.table import LayerTable
from sensitivity.perturb.perturber import Perturber
from sensitivity.quantize.calibration import Calibration
from sensitivity.records import Recipe
from sensitivity.records.results.latency import Latency
from sensitivity.records.results.tuned import Goal
from sensitivity.search.candidates import check_candidates, runnable, usual_candidates


@dataclass(frozen=True)
class Subject:
    """The model that is tuned, and what runs it.

    Attributes:
        model: The model; left as it was.
        layers: Its layers.
        example_inputs: What it accepts.
        perturber: Applies recipes to it.
        plan: What deploying a scheme means, as ``wrapped.plan``.
        deploy: Runs a scheme on an engine, as ``wrapped.deploy``.
        latency: Times every layer on an engine, as ``wrapped.latency``.
        equalized: Makes the equalized copy ready with ranges of its own; None where there is no other copy to try.
    """

    model: nn.Module
    layers: LayerTable
    example_inputs: Any
    perturber: Perturber
    plan: Callable[..., Plan]
    deploy: Callable[..., Deployed]
    latency: Callable[..., Latency]
    equalized: Callable[[], Subject] | None = None


@dataclass(frozen=True)
class Request:
    """What is asked of a search, checked before anything runs.

    Attributes:
        goal: What is to be reached.
        engine: What the scheme is for, as the caller named it; None where it is only simulated.
        kind: Its entry in the registry; None likewise.
        candidates: Recipes that it runs.
        usual: Whether the caller named no candidates.
        notes: What a reader should know, e.g. candidates that the engine does not run.
        runs_here: Whether the engine's own score and latency can be measured.
        latency: Times that were measured before; None measures them where the goal needs them.
    """

    goal: Goal
    engine: str | Build | None
    kind: EngineKind | None
    candidates: tuple[Recipe, ...]
    usual: bool
    notes: tuple[str, ...]
    runs_here: bool
    latency: Latency | None = None

    def with_ranges(self, calibrations: Sequence[Calibration]) -> Request:
        """The same with the candidates that ranges at hand serve, where the caller named none.

        Raises:
            CalibrationError: If they serve none of them.
        """
        able = [
            recipe
            for recipe in self.candidates
            if not recipe.needs_calibration or any(c.fits(recipe) for c in calibrations)
        ]
        if not self.usual or len(able) == len(self.candidates):
            return self
        if not able:
            raise CalibrationError(
                "the usual candidates quantize activations, and no ranges for them are at hand. Give "
                "calibration=images: all candidates share one pass over them."
            )
        missing = ", ".join(recipe.name for recipe in self.candidates if recipe not in able)
        note = f"no ranges are at hand for {missing}: calibration=images measures those of all candidates"
        return replace(self, candidates=tuple(able), notes=(*self.notes, note))


def request_of(goal: Goal, engine: str | Build | None, candidates: object, latency: Latency | None = None) -> Request:
    """What is asked for, if it can be asked.

    Args:
        goal: What is to be reached.
        engine: What the scheme is for; None where it is only simulated.
        candidates: Recipes, or None for the usual ones.
        latency: Times that were measured before, if any.

    Raises:
        RecipeError: If a candidate is no recipe, or two have the same name.
        EngineError: If the engine is unknown, runs none of the candidates, or cannot tell a latency asked for.
        MissingPackageError: If a latency is asked for, and the engine's package is not installed.
    """
    kind = None if engine is None else kind_of(engine)
    absence = check_can_measure(goal, kind)
    if candidates is None:
        recipes = usual_candidates(fewer_bits=goal.size_bytes is not None, saturates=_saturates(engine))
    else:
        recipes = check_candidates(candidates)
    able, refusals = runnable(recipes, None if kind is None else kind.target)
    notes = (*refusals, *([absence] if absence else []))
    runs_here = kind is not None and not absence
    return Request(goal, engine, kind, tuple(able), candidates is None, notes, runs_here, latency)


def _saturates(engine: str | Build | None) -> bool:
    """Whether sums of 8-bit products saturate on this machine, found with one convolution."""
    return engine is not None and bool(capabilities_here(engine).saturates)


def check_can_measure(goal: Goal, kind: EngineKind | None) -> str:
    """Why a scheme will not be run on the engine here; empty where it will.

    Raises:
        EngineError: If a latency is asked for, and no engine can tell it.
        MissingPackageError: If a latency is asked for, and the engine's package is not installed.
    """
    if kind is None:
        if goal.latency_s is not None:
            raise EngineError(
                python="latency_s= needs an engine to measure on: give engine=, e.g. engine='openvino'.",
                shell="--latency-s needs an engine to measure on: give --engine openvino, or another one.",
            )
        return ""
    if goal.latency_s is not None and not kind.capabilities.times_layers:
        timed = " or ".join(map(repr, engine_names(timed=True)))
        raise EngineError(
            f"latency_s= needs an engine that tells the time of single layers, and {kind.name!r} does not. "
            f"Give engine={timed}."
        )
    try:
        kind.check_runs_here()
    except (MissingPackageError, EngineError) as error:
        if goal.latency_s is not None:
            raise
        return f"{kind.title} does not run here: {error}"
    return ""
