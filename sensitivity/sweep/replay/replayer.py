"""Exact replay: after one recorded pass, recompute only what a disturbed layer can change.

The first pass of a model is *surveyed*: which call makes which value from which, and how long it takes. From that it is
foreseen which outputs each variant can be answered with; only they are kept when a pass is *recorded*, and each only
until the last variant that needs it has run. When the pass is run again with a layer disturbed, a module call is
answered from the record, without running, if its module neither holds a disturbed layer nor called one or read its
weight in the surveyed pass, and

- it ended before the first disturbed call began (nothing can have changed yet), or
- everything it is given is a recorded object at its recorded version (a branch the disturbance cannot reach);

and a torch function called between modules is answered by the second rule, where that is worth its look-up. So a
replayed pass computes what a full one would, bit for bit; nothing is estimated. A tensor that the record does not know
is a reason to run, so it fails towards running too much. The rules hold for modules that are functions of their inputs.
Those that are not are found while surveying and never answered from the record: modules that write to their arguments,
keep state, or carry somebody's hooks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch import nn

from sensitivity.sweep.replay.answers import Answers
from sensitivity.sweep.replay.foresight import Disturbed, Foresight, Output, Plan
from sensitivity.sweep.replay.identity import state_of, version_of
from sensitivity.sweep.replay.record import Record, Recorder
from sensitivity.sweep.replay.survey import Survey, survey
from sensitivity.sweep.replay.watching import all_but_attention, forward_of, watchable

__all__ = ["Counts", "Replayer", "version_of"]


@dataclass
class Counts:
    """What replay saved.

    Attributes:
        answered: Calls answered from the record.
        run: Module calls run.
    """

    answered: int = 0
    run: int = 0


class Replayer:
    """Records a pass of one model and replays it with layers disturbed.

    Args:
        model: The model; its modules must stay the same objects.
        memory_limit: Most bytes that a record may keep; None for no limit. With less memory more is computed again;
            the result is the same.
        modules: Answer module calls. False answers torch functions alone, which is slower and trusts no module to be
            a function of its inputs.
        operators: Answer torch functions between modules where that pays. False answers modules alone.

    Attributes:
        counts: What was saved so far.
    """

    def __init__(
        self, model: nn.Module, *, memory_limit: int | None = None, modules: bool = True, operators: bool = True
    ) -> None:
        self.model = model
        self.memory_limit = memory_limit
        self.modules = modules
        self.counts = Counts()
        self._containers = _containers(model)
        self._users = self._containers  # with those that the survey found
        self._readers: Mapping[int, Set[int]] = {}
        self._classes = _classes(model, watchable(model) if modules else all_but_attention(model)) if operators else {}
        self._chains = {id(m) for m in model.modules() if forward_of(m) is nn.Sequential.forward} if modules else set()
        self._foresight: Foresight | None = None
        self._overwritten: set[int] = set()
        self._changing: set[Output] = set()
        self._plan = Plan()
        self._record = Record()

    def record(self, run: Callable[[], Any], variants: Sequence[Iterable[nn.Module]]) -> Any:
        """Run a pass and keep what will answer calls of the variants; the former record is dropped.

        Args:
            run: The pass, e.g. ``lambda: task.predict(model, batch)``; called again where it is the first one or goes
                another way through the model than before.
            variants: The modules that each variant will disturb, in the order in which they will run. A variant that
                is not among them is still replayed right, and may be slow.

        Returns:
            What ``run`` returned.
        """
        self.forget()
        modules_of = [list(modules) for modules in variants]
        if not modules_of:
            return run()
        disturbed = self._all_disturbed(modules_of)
        result = self._recorded(run, disturbed) if self._foresight is not None else None
        if result is None or not self._as_surveyed():
            self.forget()
            self._survey(run)
            disturbed = self._all_disturbed(modules_of)
            result = self._recorded(run, disturbed, first=True)
        assert self._foresight is not None
        self._record.chained = self._foresight.survey.chained
        barred = self._around(self._barred())
        modules = self._record.modules
        self._record.answering = {number for number in self._foresight.answering if modules[number] not in barred}
        self._record.close(self.model, [self._plan.uses[one].outputs for one in disturbed])
        return result[0]

    def by_operators(self) -> Replayer:
        """A replayer of the same model that trusts no module to be a function of its inputs."""
        return Replayer(self.model, memory_limit=self.memory_limit, modules=False)

    @contextlib.contextmanager
    def replaying(self, disturbed: Iterable[nn.Module]) -> Iterator[None]:
        """Passes inside are answered from the record as far as the disturbed modules allow.

        Args:
            disturbed: Every module whose output may differ from the record: hooked, or with another weight.
        """
        touched = self._disturbed(disturbed)
        known, blocked = self._containers.keys(), self._around(touched)
        answers = Answers(self._record, known, touched, blocked, self._plan.watched)
        try:
            with answers.watching():
                yield
        finally:
            self.counts.answered += answers.answered
            self.counts.run += answers.ran

    def done(self, disturbed: Iterable[nn.Module]) -> None:
        """A variant will not run again on this batch: drop what only it needed."""
        uses = self._plan.uses.get(self._disturbed(disturbed))
        if uses is not None:
            self._record.done(uses.outputs)

    def intact(self) -> bool:
        """Whether no kept output was written to since it was recorded."""
        return self._record.intact()

    def forget(self) -> None:
        """Drop the record and its memory."""
        self._record = Record()

    @property
    def kept_bytes(self) -> int:
        """Bytes of the outputs that the record keeps; memory shared between outputs counts once."""
        return self._record.kept_bytes

    @property
    def looked_up(self) -> list[str]:
        """Classes in whose bodies torch functions are looked up."""
        return sorted({str(self._classes[body]) for body in self._plan.watched})

    def _survey(self, run: Callable[[], Any]) -> None:
        states = {id(module): state_of(module) for module in self.model.modules()}
        found = survey(run, states, self._classes.keys(), self._chains)
        self._readers = found.readers
        self._users = {
            module: containers | found.callers.get(module, set()) for module, containers in self._containers.items()
        }
        self._foresight = Foresight(found, self._around, self._around(self._barred(found)), modules=self.modules)
        self._overwritten = {call.number for call in found.calls if call.clone}

    def _recorded(self, run: Callable[[], Any], variants: Sequence[Disturbed], *, first: bool = False) -> tuple[Any]:
        """Run and keep. After the first time what was kept is compared with what it was when it was returned."""
        assert self._foresight is not None
        self._plan = self._foresight.plan(variants, self._classes, self.memory_limit)
        recorder = Recorder(
            self.model,
            self._containers.keys(),
            self._plan,
            overwritten=self._overwritten,
            given=self._foresight.given,
            limit=self.memory_limit,
            barred=self._changing,
            summed=first,
        )
        with recorder.watching():
            result = run()
        changed = recorder.changed()
        if changed:
            self._overwritten |= {output for output in changed if isinstance(output, int)}
            self._changing |= changed - self._overwritten
            return self._recorded(run, variants, first=True)
        self._record = recorder.record
        return (result,)

    def _as_surveyed(self) -> bool:
        assert self._foresight is not None
        return self._record.modules[1:] == self._foresight.survey.sequence

    def _barred(self, found: Survey | None = None) -> set[int]:
        """Modules that must run each time: they keep state, or carry hooks."""
        if found is None:
            assert self._foresight is not None
            found = self._foresight.survey
        return found.stateful | {id(m) for m in self.model.modules() if m._forward_hooks or m._forward_pre_hooks}

    def _all_disturbed(self, variants: Iterable[Iterable[nn.Module]]) -> list[Disturbed]:
        return [self._disturbed(modules) for modules in variants]

    def _disturbed(self, modules: Iterable[nn.Module]) -> Disturbed:
        """Modules whose output may differ: these, and those that read a parameter of one in their own bodies."""
        touched = set(map(id, modules))
        return frozenset(touched.union(*(self._readers.get(module, ()) for module in touched)))

    def _around(self, modules: Iterable[int]) -> set[int]:
        """These modules and all that contain one of them, or called one in the surveyed pass."""
        return set().union(*(self._users.get(module, {module}) for module in modules))


def _containers(model: nn.Module) -> dict[int, set[int]]:
    """For every module the modules that contain it, itself included."""
    containers: dict[int, set[int]] = {}
    for outer in model.modules():
        for inner in outer.modules():
            containers.setdefault(id(inner), set()).add(id(outer))
    return containers


def _classes(model: nn.Module, bodies: set[int]) -> dict[int, Hashable]:
    """Bodies that may be watched, each with its class."""
    return {id(m): type(m).__name__ for m in model.modules() if id(m) in bodies}
