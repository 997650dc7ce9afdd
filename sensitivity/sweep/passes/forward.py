"""The passes of a sweep: the baseline recorded, the variants replayed where that is safe, run in full where not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sensitivity.errors import NotRestoredError
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.state.state import ModelState
from sensitivity.records import Layer, Note, NoteKind, Recipe
from sensitivity.sweep.passes.predictions import same
from sensitivity.sweep.plan import Perturbation
from sensitivity.sweep.replay.replayer import Replayer

CHECKED_VARIANTS = 4  # at least, spread over the model, on the first batch
FEWEST_REPLAYED = 20  # passes: the survey of the model and the checks take longer than fewer of them can save
LEAST_SAVED = 0.1  # share of a full pass that replay must save to go on with it,
SHORTEST_TIMED_S = 0.008  # where a full pass takes so long that its time can be told
CHECKED_SHARE = 0.005  # of all passes, if that is more: every variant from 200 batches on

Run = Callable[[], list[Any]]


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: Python's, a GPU's or the CPU's.

    This is the only place that reads the text of an error. torch raises a plain ``RuntimeError`` where the CPU's memory
    ran out, and the name of its allocator in the text is all that tells it from a bug. If torch words it differently
    one day, such a layer is recorded as failed for good instead of being tried again in a later run.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    causes = (error, error.__cause__)  # a task names the batch in an error of its own
    return any(isinstance(cause, RuntimeError) and "DefaultCPUAllocator" in str(cause) for cause in causes)


class ReplayDiffersError(Exception):
    """Replay was found to be wrong after its predictions were used; a sweep that meets it starts again without.

    Attributes:
        note: What the reader of the study should know of it.
    """

    def __init__(self, note: Note) -> None:
        super().__init__(note)
        self.note = note


def measured_again(note: Note) -> Note:
    """A note that doubts replay, said after replayed predictions had been used."""
    return Note(note.kind, f"{note}. What had been replayed before was measured again")


def _in_full(kind: NoteKind, why: str) -> Note:
    return Note(kind, f"not replayed, every pass run in full: {why}")


def _difference(layer: str) -> str:
    return f"a replayed pass of {layer} differs from a full one"


def checked_first(variants: int, batches: int) -> int:
    """How many of the variants are run in both ways on the first batch."""
    return min(variants, max(CHECKED_VARIANTS, int(CHECKED_SHARE * variants * batches)))


class Forward:
    """Runs the unperturbed model and its variants on one batch after another.

    Every pass starts from the same random state, so that a model that draws random numbers draws the same ones.

    Args:
        model: The model.
        perturber: Applies recipes to it.
        replay: Whether to replay; False runs every pass in full.
        memory_limit: Most bytes that replay may keep; None for no limit.
        state: What the model holds and every pass starts from, where that is known; None reads it.
        late_checks: On each batch after the first, run one more variant in full as well, until all were.
        resumed: Whether results of an earlier attempt may wait for these checks, so that replay goes on where it does
            not pay.
        network: What layers have in every pass, the baseline's included: variants differ from a quantized network then,
            and not from the model. None leaves the model as it is.

    Attributes:
        notes: What a reader of the study should know, e.g. why passes were run in full.
        spent_before_s: Seconds that the last variant's pass had taken already when a check ran it.
    """

    def __init__(
        self,
        model: nn.Module,
        perturber: Perturber,
        *,
        replay: bool,
        memory_limit: int | None = None,
        state: ModelState | None = None,
        late_checks: bool = False,
        resumed: bool = False,
        network: Mapping[Layer, Recipe] | None = None,
    ) -> None:
        self.perturber = perturber
        self._network = network or {}
        self.notes: list[Note] = []
        self.spent_before_s = 0.0
        self._model = model
        self._state = ModelState(model) if state is None else state.for_passes()
        if self._state.remark is not None:
            self.notes.append(Note(NoteKind.REMARK, self._state.remark))
        self._changed: Set[int] = frozenset()  # modules that the last recorded pass has changed
        self.replayer = Replayer(model, memory_limit=memory_limit, changed=lambda: self._changed) if replay else None
        self._learnt = False
        self._late_checks = late_checks
        self._resumed = resumed
        self._drew = False  # whether a pass on this batch drew random numbers
        self._checked: set[Perturbation] = set()
        self._due: Perturbation | None = None  # to be checked on this batch
        self._known: dict[Perturbation, _Pass] = {}  # what checks found on this batch

    def baseline(
        self, run: Run, variants: Sequence[Perturbation], *, batches: int = 1, passes: int | None = None
    ) -> list[Any]:
        """Predictions of the unperturbed model, or of the network that was given; recorded for what follows.

        On the first batch some of the variants are run in both ways, so that a model which cannot be replayed is found
        before any of its replayed predictions is used.

        Args:
            run: Predicts one batch.
            variants: What will follow on this batch.
            batches: How many there will be: the more, the more variants are checked on the first.
            passes: How many variants will run, on all batches; so few that replay cannot pay are run in full. None
                replays whatever their number.
        """
        self._known.clear()
        few = passes is not None and passes < FEWEST_REPLAYED
        if few and not self._learnt and not self._resumed:
            self.replayer = None
        if self.replayer is None:
            learns_by_itself = not self._learnt
            predictions = self._in_network(run)
            if not learns_by_itself:
                self._learn_state()
            return predictions
        predictions = self._recorded(self.replayer, run, variants)
        self._learn_state()
        if self.replayer is not None and not self._checked:
            self._check(run, variants, batches)
        elif self._late_checks:
            unchecked = [variant for variant in variants if variant not in self._checked]
            self._due = unchecked[len(unchecked) // 2] if unchecked else None
        return predictions

    def variant(self, run: Run, variant: Perturbation) -> list[Any]:
        """Predictions with a variant's layers perturbed; bit-identical to a full pass.

        Args:
            run: Predicts the batch that was last given to ``baseline``.
            variant: What is perturbed.

        Raises:
            ReplayDiffersError: If a late check finds that it is not.
        """
        self.spent_before_s = 0.0
        known, replayer = self._known.pop(variant, None), self.replayer
        if known is not None and (replayer is None or replayer.intact()):
            self.spent_before_s = known.seconds
            if replayer is not None:
                replayer.done(self._touched_by(variant))
            return known.predictions
        if replayer is None:
            return self._full(run, variant)
        try:
            predictions = self._replayed(replayer, run, variant)
        except Exception as error:
            self._fail_in_full(run, variant, error)
            raise
        if replayer.intact():
            replayer.done(self._touched_by(variant))
            if variant == self._due:
                self._check_late(run, variant, predictions)
            return predictions
        self._give_up("the model writes to tensors that an earlier pass returned")
        return self._full(run, variant)

    def _recorded(self, replayer: Replayer, run: Run, variants: Sequence[Perturbation]) -> list[Any]:
        """Record a pass; where the passes that this took show that no pass repeats another, replay no more."""
        passes: list[list[Any]] = []
        self._drew = False

        def one_more() -> list[Any]:
            passes.append(self._in_network(run) if self._network else unperturbed())
            return passes[-1]

        def unperturbed() -> list[Any]:
            return self._from_the_same_state(run_and_look)

        def run_and_look() -> list[Any]:
            predictions = run()
            self._changed = self._state.changed_modules()
            return predictions

        try:
            surveyed = unperturbed if self._network else None
            predictions: list[Any] = replayer.record(one_more, list(self._touched(variants)), surveyed=surveyed)
        except Exception as error:  # noqa: BLE001 - raised again by the next line if it is the model's own
            predictions = self._in_network(run)  # which may fail as well
            if out_of_memory(error):
                self._give_up("memory runs out while a pass is recorded; memory_limit= keeps less")
            else:
                self._give_up(f"a pass cannot be recorded: {type(error).__name__}: {error}")
            return predictions
        if self._drew:
            self._give_up("the model draws random numbers")
        elif not all(map(same, passes[0], predictions)):
            self._give_up("the model predicts something else each time")
        return predictions

    def _touched(self, variants: Sequence[Perturbation]) -> Iterator[set[nn.Module]]:
        for variant in variants:
            try:
                yield self._touched_by(variant)
            except Exception:  # noqa: BLE001 - a variant that fails says so when it is measured
                continue

    def _check(self, run: Run, variants: Sequence[Perturbation], batches: int) -> None:
        """Replay some variants and run them in full; where one differs trust no module, then replay no more."""
        count = checked_first(len(variants), batches)
        places = {round(place * (len(variants) - 1) / max(1, count - 1)) for place in range(count)}
        some = [variants[place] for place in sorted(places)]
        self._checked = set(some)
        different = self._different(run, some)
        if different is not None and self.replayer is not None:
            self.replayer = self.replayer.by_operators()
            self._recorded(self.replayer, run, variants)
            different = self._different(run, some)
            if different is None and self.replayer is not None:
                text = (
                    "replayed by torch functions alone, which saves less: a pass replayed by modules differs from a "
                    "full one"
                )
                self.notes.append(Note(NoteKind.REPLAYED_BY_FUNCTIONS, text))
        if different is not None:
            self._give_up(_difference(different), NoteKind.REPLAY_DIFFERS)
        elif not self._resumed and not self._pays():
            self.replayer = None

    def _pays(self) -> bool:
        """Whether the checks show that a replayed pass takes less than one in full; yes where they cannot tell."""
        replayed_s = sum(known.cpu_s for known in self._known.values())
        full_s = sum(known.full_cpu_s for known in self._known.values())
        return full_s < SHORTEST_TIMED_S * len(self._known) or replayed_s <= (1 - LEAST_SAVED) * full_s

    def _fail_in_full(self, run: Run, variant: Perturbation, error: Exception) -> None:
        """Nothing, if a variant that failed when replayed fails in full as well, or memory ran out.

        Raises:
            ReplayDiffersError: If it does not.
        """
        if out_of_memory(error):
            return
        try:
            self._full(run, variant)
        except Exception:  # noqa: BLE001 - as it should; the first error is the one that is told
            return
        why = f"{_difference(variant.name)}: it fails with {type(error).__name__}: {error}"
        raise ReplayDiffersError(measured_again(_in_full(NoteKind.REPLAY_DIFFERS, why)))

    def _check_late(self, run: Run, variant: Perturbation, replayed: list[Any]) -> None:
        """Compare with a full pass."""
        self._due = None
        self._checked.add(variant)
        if not all(map(same, replayed, self._full(run, variant))):
            why = (
                f"{_difference(variant.name)}. That was found on a later batch, and what had been replayed "
                "before was measured again"
            )
            raise ReplayDiffersError(_in_full(NoteKind.REPLAY_DIFFERS, why))

    def _different(self, run: Run, variants: Sequence[Perturbation]) -> str | None:
        """A layer of the first variant that replay gets wrong, by name."""
        for variant in variants:
            if self.replayer is None:
                break
            begun = time.thread_time()
            try:
                full = self._full(run, variant)
            except Exception:  # noqa: BLE001 - a variant that fails says so when it is measured
                continue
            started, between = time.perf_counter(), time.thread_time()
            try:
                replayed = self._replayed(self.replayer, run, variant)
            except Exception:  # noqa: BLE001 - where the full pass does not fail, that is a difference
                return variant.name
            if not all(map(same, replayed, full)):
                return variant.name
            seconds, cpu_s = time.perf_counter() - started, time.thread_time() - between
            self._known[variant] = _Pass(full, seconds, cpu_s, between - begun)
        return None

    def _replayed(self, replayer: Replayer, run: Run, variant: Perturbation) -> list[Any]:
        touched = self._touched_by(variant)
        with self.perturber.applied(variant.recipes), replayer.replaying(touched):
            return self._from_the_same_state(run)

    def _full(self, run: Run, variant: Perturbation) -> list[Any]:
        with self.perturber.applied(variant.recipes):
            return self._from_the_same_state(run)

    def _in_network(self, run: Run) -> list[Any]:
        """A pass of the model with what its layers have in every pass."""
        if not self._network:
            return self._from_the_same_state(run)
        with self.perturber.applied(self._network):
            return self._from_the_same_state(run)

    def _touched_by(self, variant: Perturbation) -> set[nn.Module]:
        return self.perturber.touched(variant.recipes, instead_of=self._network)

    def _from_the_same_state(self, run: Run) -> list[Any]:
        with self._state.same_numbers():
            self._state.reset()
            predictions = run()
            self._drew |= self._state.drew()
        if not self._learnt:
            self._learn_state()
        return predictions

    def _learn_state(self) -> None:
        """Find what an unperturbed pass has changed in the model, so that no other pass sees it.

        Raises:
            NotRestoredError: If they changed what cannot be put back.
        """
        lost = self._state.learn(weights_too=not self._learnt)
        self._learnt = True
        if lost:
            raise NotRestoredError(
                f"{type(self._model).__name__} changes what cannot be put back while it runs: {', '.join(lost[:3])}. "
                "Every variant would start from another state. Make forward() leave that alone."
            )

    def _give_up(self, why: str, kind: NoteKind = NoteKind.NOT_REPLAYED) -> None:
        self.replayer = None
        self._known.clear()
        self.notes.append(_in_full(kind, why))


@dataclass(frozen=True)
class _Pass:
    """A pass that a check has run already.

    Attributes:
        predictions: What it found, replayed and in full.
        seconds: What it took when it was replayed.
        cpu_s: CPU seconds of this thread in them.
        full_cpu_s: CPU seconds of this thread when it was run in full.
    """

    predictions: list[Any]
    seconds: float
    cpu_s: float
    full_cpu_s: float
