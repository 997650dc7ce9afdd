"""Running the unperturbed model and its variants on one batch, in this process."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from torch import nn

from sensitivity.contracts import Batch, Task
from sensitivity.layers.trace.inputs import unchanged_inputs
from sensitivity.records import Note
from sensitivity.score import predict
from sensitivity.sweep.passes.forward import Forward, ReplayDiffersError, Run, out_of_memory
from sensitivity.sweep.plan import Variant

OnError = Literal["record", "raise"]


@dataclass(frozen=True)
class Unit:
    """What one pass over one batch found.

    Attributes:
        variant: What was perturbed; None for the unperturbed model.
        predictions: One for each image; None if the pass failed.
        failure: Why it failed; empty if it did not.
        lasting: Whether it would fail again. Memory that ran out may be there next time.
        seconds: Time it took.
        notes: What a reader of the study should know by now.
    """

    variant: Variant | None
    predictions: list[Any] | None
    failure: str = ""
    lasting: bool = True
    seconds: float = 0.0
    notes: tuple[Note, ...] = ()

    def of(self, variant: Variant | None) -> Unit:
        """The same, of another variant."""
        return replace(self, variant=variant)


class Passes(Protocol):
    """Where passes are run.

    Attributes:
        ahead: Batches that may be started before the first of them is taken in.
    """

    ahead: int

    def start(self, batch: Batch, variants: Sequence[Variant]) -> Iterator[Unit]:
        """The unperturbed model first, then every variant in the order given."""

    def cancel(self) -> None:
        """Let go of what was started and will not be taken in."""


class InProcess:
    """Runs a pass when its unit is asked for.

    Args:
        model: The model.
        task: Predicts.
        forward: Runs its passes.
        on_error: ``record`` turns a variant that fails into a unit with its reason; ``raise`` raises.
        whole: Whether all batches of the task are going to be run here.
    """

    ahead = 0

    def __init__(
        self, model: nn.Module, task: Task, forward: Forward, on_error: OnError, *, whole: bool = True
    ) -> None:
        self.model = model
        self.task = task
        self.forward = forward
        self.on_error = on_error
        self.whole = whole
        self._run: Run | None = None  # on the batch that was last started

    @property
    def runs_in_full(self) -> bool:
        """Whether variants need no record of the unperturbed model on their batch."""
        return self.forward.replayer is None

    def start_variants(self, batch: Batch, variants: Sequence[Variant]) -> Iterator[Unit]:
        """Every variant in the order given, on a batch on which the unperturbed model has run before."""
        self._run = unchanged_inputs(functools.partial(predict, self.task, self.model, batch), batch)
        yield from self.go_on(variants)

    def start(self, batch: Batch, variants: Sequence[Variant]) -> Iterator[Unit]:
        """The unperturbed model first, then every variant in the order given."""
        run = unchanged_inputs(functools.partial(predict, self.task, self.model, batch), batch)
        batches = -(-len(self.task) // len(batch.images))
        checked = len(self.task) // len(batch.images) if self.whole else 1
        expected = self.forward.baseline(run, variants, batches=checked, passes=batches * len(variants))
        self._run = run
        yield Unit(None, expected, notes=tuple(self.forward.notes))
        yield from self.go_on(variants)

    def go_on(self, variants: Sequence[Variant]) -> Iterator[Unit]:
        """Variants on the batch whose unperturbed pass was the last one."""
        if self._run is None:
            raise RuntimeError("no batch was started")
        for variant in variants:
            yield self._unit(variant, self._run)

    def cancel(self) -> None:
        """Nothing runs ahead."""

    def _unit(self, variant: Variant, run: Run) -> Unit:
        started = time.perf_counter()
        predictions, failure, lasting = None, "", True
        try:
            predictions = self.forward.variant(run, variant)
        except ReplayDiffersError:
            raise
        except Exception as error:
            if interrupted(error):
                raise KeyboardInterrupt from error
            if self.on_error == "raise":
                raise
            failure, lasting = f"{type(error).__name__}: {error}", not out_of_memory(error)
        seconds = time.perf_counter() - started + self.forward.spent_before_s
        return Unit(variant, predictions, failure, lasting, seconds, tuple(self.forward.notes))


def interrupted(error: BaseException | None) -> bool:
    """Whether an error came of a Ctrl-C, while something was put back."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
