"""Measuring schemes with the task's metric: each once, by the machinery of a sweep, kept in the same store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from sensitivity.contracts import Store, Task
from sensitivity.perturb.perturber import Perturber
from sensitivity.progress import Watcher
from sensitivity.records import Measurement, NoteKind, Score
from sensitivity.search.assignment import Assignment
from sensitivity.sweep.plan import Variant
from sensitivity.sweep.run import Settings, sweep
from sensitivity.sweep.storage.spilled import SpilledStore


@dataclass(frozen=True)
class Trial:
    """One scheme, measured.

    Attributes:
        assignment: What each quantized layer gets.
        measurement: Score and drop with its interval.
        passes: Passes over the task that it cost.
        equalized: Whether it was measured on the equalized copy of the model.
    """

    assignment: Assignment
    measurement: Measurement
    passes: float
    equalized: bool = False


class Trials:
    """Measures schemes of one model on one task.

    Args:
        model: The model; left as it was.
        task: Data and metric.
        perturber: Applies recipes to the model.
        settings: How passes run. Whole networks leave nothing to replay, so they run in full.
        store: Keeps what was measured.
        watch: Told of progress.

    Attributes:
        passes: Passes over the task so far.
        notes: What a reader should know of how it was measured.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        perturber: Perturber,
        *,
        settings: Settings,
        store: Store | None,
        watch: Watcher | None = None,
    ) -> None:
        self._model = model
        self._task = task
        self._perturber = perturber
        self._settings = replace(settings, replay=False)
        self._store = SpilledStore() if store is None else store
        self._watch = watch
        self._baseline: Score | None = None
        self._any: list[Assignment] = []  # one that was measured: a sweep needs one to run the float model everywhere
        self.passes = 0.0
        self.notes: list[str] = []

    def measure(self, assignments: Sequence[Assignment], *, all_images: bool = False) -> list[Trial]:
        """Score these schemes, in the order given.

        Args:
            assignments: What each quantized layer gets; empty ones leave the model in float.
            all_images: Score on every image, also where a stop was set.

        Raises:
            KeyboardInterrupt: On Ctrl-C; the store has what was measured.
        """
        quantized = [assignment for assignment in assignments if assignment]
        if not quantized and not all_images:
            return [Trial(assignment, _in_float(self.baseline), 0.0) for assignment in assignments]
        self._any = (quantized or self._any)[:1]
        outcome = sweep(
            self._model,
            self._task,
            [Variant(assignment, *next(iter(assignment.items()))) for assignment in quantized or self._any],
            self._perturber,
            settings=replace(self._settings, stop=None) if all_images else self._settings,
            store=self._store,
            watch=self._watch,
        )
        if any(note.kind is NoteKind.INTERRUPTED for note in outcome.notes):
            raise KeyboardInterrupt  # a sweep ends early; a search would measure the same again
        known = 0 if self._baseline is None else self._baseline.images
        if self._baseline is None or outcome.baseline.images > known:
            self._baseline = outcome.baseline
        unperturbed = (self._baseline.images - known) / max(1, self.images)
        self.notes += [note for note in map(str, outcome.notes) if note not in self.notes]
        rows = iter(outcome.measurements)
        trials = []
        for number, assignment in enumerate(assignments):
            row = next(rows) if assignment else _in_float(outcome.baseline)
            passes = row.images / max(1, self.images) * bool(assignment) + (unperturbed if number == 0 else 0.0)
            trials.append(Trial(assignment, row, passes))
        self.passes += sum(trial.passes for trial in trials)
        return trials

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score is better."""
        return self._task.higher_is_better

    @property
    def images(self) -> int:
        """Images of the task."""
        return len(self._task)

    @property
    def baseline(self) -> Score:
        """Score of the unperturbed model; on all images once ``measure`` has seen them all."""
        if self._baseline is None:
            raise RuntimeError("nothing was measured yet")
        return self._baseline


def _in_float(baseline: Score) -> Measurement:
    """What a scheme that quantizes nothing scores."""
    return Measurement("", "", baseline.value, 0.0, 0.0, 0.0, images=baseline.images, metrics=baseline.metrics)
