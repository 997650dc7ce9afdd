"""A model that schemes are tried on: the model itself, or its equalized copy, whose layers have the same names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sensitivity.contracts import Store
from sensitivity.layers.table import LayerTable
from sensitivity.records import Measurement
from sensitivity.search.assignment import Assignment
from sensitivity.search.noise import OutputNoise
from sensitivity.search.trials import Trial, Trials
from sensitivity.sweep.signals.fidelity import Fidelity


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two models. Assignments are of layers of the model itself on both.

    Attributes:
        trials: Measures schemes with the task's metric.
        noise: Compares outputs.
        layers: Layers of the equalized copy; None for the model itself.
        original: For the copy, what measures the model itself: drops are from its score, which has other last bits
            than the copy's in float.
    """

    trials: Trials
    noise: OutputNoise
    layers: LayerTable | None = None
    original: Trials | None = None

    @property
    def equalized(self) -> bool:
        """Whether this is the copy."""
        return self.layers is not None

    @property
    def images(self) -> int:
        """How many images outputs are compared on."""
        return self.noise.images

    def measure(self, assignments: Sequence[Assignment], *, all_images: bool = False) -> list[Trial]:
        """Score these schemes, in the order given; see ``Trials.measure``."""
        trials = self.trials.measure([self._own(assignment) for assignment in assignments], all_images=all_images)
        return [
            replace(trial, assignment=assignment, equalized=self.equalized, measurement=self._from_original(trial))
            for trial, assignment in zip(trials, assignments, strict=True)
        ]

    def of(
        self, assignments: Sequence[Assignment], *, replay: bool, network: Assignment | None = None
    ) -> list[Fidelity | None]:
        """Signal and noise of each scheme; see ``OutputNoise.of``."""
        own = None if network is None else self._own(network)
        return self.noise.of([self._own(assignment) for assignment in assignments], replay=replay, network=own)

    def _from_original(self, trial: Trial) -> Measurement:
        """The measurement with its drop from the score of the model itself."""
        row = trial.measurement
        if self.original is None or row.drop is None:
            return row
        more = self.original.baseline.value - self.trials.baseline.value
        more = more if self.trials.higher_is_better else -more
        low, high = (None if bound is None else bound + more for bound in (row.drop_low, row.drop_high))
        return replace(row, drop=row.drop + more, drop_low=low, drop_high=high)

    def _own(self, assignment: Assignment) -> Assignment:
        if self.layers is None:
            return assignment
        return {self.layers[layer.name]: recipe for layer, recipe in assignment.items()}


@dataclass(frozen=True)
class Apart:
    """Part of a store, whose keys are told from all others by a prefix.

    Attributes:
        store: What holds it.
        prefix: In front of every key.
    """

    store: Store
    prefix: str

    def __contains__(self, key: str) -> bool:
        return f"{self.prefix}{key}" in self.store

    def read(self, key: str) -> Any:
        """The value of a key that is in this part."""
        return self.store.read(f"{self.prefix}{key}")

    def add(self, key: str, value: Any) -> None:
        """Keep a value; a key that is there keeps its first one."""
        self.store.add(f"{self.prefix}{key}", value)


MakeSide = Callable[[], Side]
"""Makes the equalized copy ready, which takes a pass over the calibration images."""
