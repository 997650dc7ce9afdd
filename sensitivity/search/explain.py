"""What a search will cost, from a short probe: nothing is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sensitivity.contracts import Task
from sensitivity.markup.elements import element, listed
from sensitivity.markup.view import view
from sensitivity.search.proposals import CURED_GROUPS, SUSPECTS
from sensitivity.search.request import Request, Subject
from sensitivity.search.search import EQUALIZED_CANDIDATES, RELEASED, ROUNDS
from sensitivity.search.space import Space
from sensitivity.search.tune import COMPARED_IMAGES, space_of
from sensitivity.sweep.explain import duration, explain
from sensitivity.sweep.plan import Variant
from sensitivity.sweep.settings import Sweep
from sensitivity.sweep.stopping.race import Confidence


@dataclass(frozen=True)
class TuneExplanation:
    """What a search will cost in this process.

    Seconds are those of passes, scores and intervals. Calibration, the engine's own score, and the time of single
    layers on it come on top.

    Attributes:
        candidates: Recipes that are tried for the whole network.
        groups: Groups of layers that move together.
        images: Images of the task.
        pass_s: Seconds that the unperturbed model takes for all images.
        quantized_pass_s: Seconds that a quantized network takes for all images, as the mean of the candidates.
        least_passes: Passes over the task where a whole network meets the target, the unperturbed model's included.
        least_s: Seconds of these, as measured by the probe.
        most_passes: Passes over the task where every step of the search has to be taken.
        most_s: Seconds of these.
        at_most: Whether a stop may make it less.
        notes: What else matters.
    """

    candidates: int
    groups: int
    images: int
    pass_s: float
    quantized_pass_s: float
    least_passes: float
    least_s: float
    most_passes: float
    most_s: float
    at_most: bool = False
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        about = "at most about" if self.at_most else "about"
        tried = "1 candidate" if self.candidates == 1 else f"{self.candidates} candidates"
        lines = [
            f"{tried} on {self.images} images: {about} {duration(self.least_s)} and "
            f"{self.least_passes:.1f} passes where one of them meets the target for the whole network",
            f"at most {duration(self.most_s)} and {self.most_passes:.0f} passes where layers are cured and protected "
            f"one by one, in {self.groups} groups",
            f"a pass takes {duration(self.pass_s)} unperturbed and {duration(self.quantized_pass_s)} quantized",
        ]
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self) -> str:
        title, *facts = str(self).split("\n")
        return view(element("strong", title), listed(facts))


def explain_tune(subject: Subject, task: Task, request: Request, *, stop: Confidence | None) -> TuneExplanation:
    """Run the first batches unperturbed and the first one quantized, and tell what the search will take.

    Args:
        subject: The model, and what runs it.
        task: Data and metric.
        request: What is asked for.
        stop: When a drop is known well enough; what is told is then the most that it can take.

    Raises:
        TaskError: If the task has no images.
        CalibrationError: If a candidate quantizes activations and no ranges fit it.
        EngineError: If no candidate fits any layer.
    """
    space, notes = space_of(subject, task, request)
    whole = [space.everywhere(recipe) for recipe in space.candidates]
    variants = [Variant(assignment, *next(iter(assignment.items()))) for assignment in whole if assignment]
    in_full = Sweep(replay=False, workers=None)
    probe = explain(subject.model, task, variants, subject.perturber, stop=stop, settings=in_full)
    each = max(0.0, probe.passes - 1.0) / len(variants)  # passes of the unperturbed model that a quantized one takes
    seconds = probe.seconds / (1 + len(variants) * each)  # of one unperturbed pass with its share of scoring
    measured, compared = _most(space, len(task), may_equalize=subject.equalized is not None)
    return TuneExplanation(
        candidates=len(variants),
        groups=len(space.groups),
        images=probe.images,
        pass_s=probe.pass_s,
        quantized_pass_s=probe.pass_s * each,
        least_passes=1.0 + len(variants),
        least_s=probe.seconds,
        most_passes=1.0 + len(variants) + measured + compared,
        most_s=probe.seconds + seconds * each * (measured + compared),
        at_most=stop is not None,
        notes=(*request.notes, *notes, *probe.notes),
    )


def _most(space: Space, images: int, *, may_equalize: bool) -> tuple[float, float]:
    """Passes beyond those of whole networks: for schemes that are measured, and for comparing outputs on few images."""
    share = min(1.0, COMPARED_IMAGES / max(1, images))
    groups, candidates = len(space.groups), len(space.candidates)
    measured = compared = 0.0
    if space.goal.size_bytes is not None or space.goal.latency_s is not None:
        measured += 1
        compared += share * (1 + groups * candidates)
    if space.goal.max_drop is not None:
        cured = min(CURED_GROUPS, groups)
        measured += ROUNDS * (_rungs(cured) + 2 * _rungs(groups)) + min(RELEASED, groups)
        measured += may_equalize * (1 + min(EQUALIZED_CANDIDATES, candidates))
        inside = 1 + groups + min(SUSPECTS, groups) + cured * candidates
        compared += ROUNDS * share * inside
    return measured, compared


def _rungs(count: int) -> int:
    """Schemes of a ladder of doubled steps up to a count."""
    return 1 + math.ceil(math.log2(count)) if count > 0 else 0
