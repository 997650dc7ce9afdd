"""Exact replay: after one recorded pass, recompute only what a perturbed layer can change.

The first pass of a model is *surveyed*: which call makes which value from which, and how long it takes. From that a
*reuse plan* is made: which outputs each variant can be answered with. Only they are kept when a pass is *recorded*, and
each only until the last variant that needs it has run. When the pass is run again with a layer perturbed, calls are
answered from the record, without running, where the rule of ``reuse`` allows. So a replayed pass computes what a full
one would, bit for bit; nothing is estimated. A tensor that the record does not know is a reason to run, so it fails
towards running too much. The rule holds for modules that are functions of their inputs. Those that are not are found
while surveying and never answered from the record: modules that write to their arguments, keep state, or carry
somebody's hooks.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sensitivity.sweep.replay.foresight import Foresight, ReusePlan
from sensitivity.sweep.replay.identity import state_of, version_of
from sensitivity.sweep.replay.record import Record, Recorder
from sensitivity.sweep.replay.replayed_pass import ReplayedPass
from sensitivity.sweep.replay.reuse import CallOrder, Output, Perturbed
from sensitivity.sweep.replay.survey import Survey, survey
from sensitivity.sweep.replay.watching import all_but_attention, forward_of, watchable

__all__ = ["Counts", "Replayer", "version_of"]


@dataclass
class Counts:
    """What replay saved.

    Attributes:
        reused: Calls answered from the record.
        run: Module calls run.
    """

    reused: int = 0
    run: int = 0


class Replayer:
    """Records a pass of one model and replays it with layers perturbed.

    Args:
        model: The model; its modules must stay the same objects.
        memory_limit: Most bytes that a record may keep; None for no limit. With less memory more is computed again;
            the result is the same.
        modules: Answer module calls. False answers torch functions alone, which is slower and trusts no module to be
            a function of its inputs.
        operators: Answer torch functions between modules where that pays. False answers modules alone.
        changed: Gives the ``id`` of modules that a pass has changed in a way that their own attributes do not show:
            they always run.

    Attributes:
        counts: What was saved so far.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        memory_limit: int | None = None,
        modules: bool = True,
        operators: bool = True,
        changed: Callable[[], Set[int]] = frozenset,
    ) -> None:
        self.model = model
        self.memory_limit = memory_limit
        self.modules = modules
        self.counts = Counts()
        self._changed = changed
        self._structure = _Structure.of(model, modules=modules, operators=operators)
        self._surveyed: _SurveyedPass | None = None
        self._recording = _Recording(_Reach(self._structure.containers))

    def record(
        self,
        run: Callable[[], Any],
        variants: Sequence[Iterable[nn.Module]],
        *,
        surveyed: Callable[[], Any] | None = None,
    ) -> Any:
        """Run a pass and keep what will answer calls of the variants; the former record is dropped.

        Args:
            run: The pass, e.g. ``lambda: task.predict(model, batch)``; called again where it is the first one or goes
                another way through the model than before.
            variants: The modules that each variant will perturb, in the order in which they will run. A variant that
                is not among them is still replayed right, and may be slow.
            surveyed: The same pass with nothing perturbed, where ``run`` perturbs layers itself: the survey reads that
                one, in which no hook of ours hides what a module does. None surveys ``run``.

        Returns:
            What ``run`` returned.
        """
        self.forget()
        modules_of = [list(modules) for modules in variants]
        if not modules_of:
            return run()
        known = self._surveyed or self._survey(surveyed or run)
        result, self._recording = known.record(run, modules_of)
        if known is self._surveyed and not self._recording.as_surveyed:
            self.forget()
            known = self._survey(surveyed or run)
            result, self._recording = known.record(run, modules_of)
        self._surveyed = known
        return result

    def by_operators(self) -> Replayer:
        """A replayer of the same model that trusts no module to be a function of its inputs."""
        return Replayer(self.model, memory_limit=self.memory_limit, modules=False, changed=self._changed)

    @contextlib.contextmanager
    def replaying(self, perturbed: Iterable[nn.Module]) -> Iterator[None]:
        """Passes inside are answered from the record as far as the perturbed modules allow.

        Args:
            perturbed: Every module whose output may differ from the record: hooked, or with another weight.
        """
        recording = self._recording
        touched = recording.reach.perturbed(perturbed)
        blocked = recording.reach.around(touched)
        known = self._structure.containers.keys()
        replayed = ReplayedPass(recording.record, known, touched, blocked, recording.plan.watched)
        try:
            with replayed.watching():
                yield
        finally:
            self.counts.reused += replayed.reused
            self.counts.run += replayed.ran

    def done(self, perturbed: Iterable[nn.Module]) -> None:
        """A variant will not run again on this batch: drop what only it needed."""
        recording = self._recording
        reuse = recording.plan.reuses.get(recording.reach.perturbed(perturbed))
        if reuse is not None:
            recording.record.done(reuse.outputs)

    def intact(self) -> bool:
        """Whether no kept output was written to since it was recorded."""
        return self._recording.record.intact()

    def forget(self) -> None:
        """Drop the record and its memory."""
        self._recording = _Recording(self._recording.reach, self._recording.plan)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the outputs that the record keeps; memory shared between outputs counts once."""
        return self._recording.record.kept_bytes

    @property
    def looked_up(self) -> list[str]:
        """Classes in whose bodies torch functions are looked up."""
        return sorted({str(self._structure.classes[body]) for body in self._recording.plan.watched})

    def _survey(self, run: Callable[[], Any]) -> _SurveyedPass:
        """Run a pass and read it."""
        structure = self._structure
        states = {id(module): state_of(module) for module in self.model.modules()}
        read = survey(run, states, structure.classes.keys(), structure.chains)
        read.stateful.update(self._changed())
        return _SurveyedPass(self.model, structure, read, modules=self.modules, limit=self.memory_limit)


@dataclass(frozen=True)
class _Structure:
    """What is known of a model before it runs.

    Attributes:
        containers: For the ``id`` of every module those of the modules that contain it, itself included.
        classes: Bodies in which torch functions may be looked up, each with its class.
        chains: Modules that hand the output of each of their modules to the next, and do nothing else.
        parameters: For each module its own parameters.
    """

    containers: Mapping[int, Set[int]]
    classes: Mapping[int, Hashable]
    chains: Set[int]
    parameters: Mapping[int, Sequence[int]]

    @classmethod
    def of(cls, model: nn.Module, *, modules: bool, operators: bool) -> _Structure:
        """Read a model; see ``Replayer`` for the flags."""
        bodies = (watchable(model) if modules else all_but_attention(model)) if operators else set()
        classes = {id(m): type(m).__name__ for m in model.modules() if id(m) in bodies}
        chains = {id(m) for m in model.modules() if forward_of(m) is nn.Sequential.forward}
        parameters = {id(m): [id(parameter) for parameter in m._parameters.values()] for m in model.modules()}
        return cls(_containers(model), classes, chains if modules else set(), parameters)


@dataclass(frozen=True)
class _Reach:
    """Which modules a perturbed one can be met in.

    Attributes:
        users: For the ``id`` of every module those of all that contain it, or called it in the surveyed pass.
        readers: For a module those that read a parameter of it in their own bodies.
    """

    users: Mapping[int, Set[int]]
    readers: Mapping[int, Set[int]] = field(default_factory=dict)

    def perturbed(self, modules: Iterable[nn.Module]) -> Perturbed:
        """Modules whose output may differ: these, and those that read a parameter of one in their own bodies."""
        touched = set(map(id, modules))
        return frozenset(touched.union(*(self.readers.get(module, ()) for module in touched)))

    def around(self, modules: Iterable[int]) -> set[int]:
        """These modules and all that contain one of them, or called one in the surveyed pass."""
        return set().union(*(self.users.get(module, {module}) for module in modules))


@dataclass(frozen=True)
class _Recording:
    """A recorded pass with what it was recorded for; nothing, before the first one.

    Attributes:
        reach: Which modules a perturbed one can be met in.
        plan: What was to be recorded.
        record: What was.
        as_surveyed: Whether the pass went the surveyed way through the model; otherwise nothing is recorded.
    """

    reach: _Reach
    plan: ReusePlan = field(default_factory=ReusePlan)
    record: Record = field(default_factory=lambda: Record(CallOrder(), {}))
    as_surveyed: bool = True


class _SurveyedPass:
    """What one surveyed pass taught; records others that go the same way.

    Args:
        model: The model.
        structure: What was known of it before.
        survey: The pass.
        modules: Whether module calls are answered.
        limit: Most bytes to keep.
    """

    def __init__(
        self, model: nn.Module, structure: _Structure, survey: Survey, *, modules: bool, limit: int | None
    ) -> None:
        users = {module: around | survey.callers.get(module, set()) for module, around in structure.containers.items()}
        self._model = model
        self._structure = structure
        self._survey = survey
        self._limit = limit
        self._reach = _Reach(users, survey.readers)
        self._foresight = Foresight(survey, self._reach.around, self._must_run(), structure.parameters, modules=modules)
        self._overwritten = {call.number for call in survey.calls if call.clone}
        self._changing: set[Output] = set()
        self._compare = True

    def record(self, run: Callable[[], Any], variants: Sequence[Iterable[nn.Module]]) -> tuple[Any, _Recording]:
        """Run and keep. The first time, what was kept is compared with what it was when it was returned.

        Returns:
            What ``run`` returned, and what was recorded.
        """
        perturbed = [self._reach.perturbed(modules) for modules in variants]
        plan = self._foresight.plan(perturbed, self._structure.classes, self._limit)
        while True:
            recorder = self._recorder(plan)
            with recorder.watching():
                result = run()
            changed = recorder.changed()
            if not changed:
                break
            self._overwritten |= {output for output in changed if isinstance(output, int)}
            self._changing |= changed - self._overwritten
        self._compare = False
        if recorder.modules[1:] != self._survey.sequence:
            return result, _Recording(self._reach, plan, as_surveyed=False)
        must_run, order = self._must_run(), self._foresight.order
        skippable = {number for number in order.skippable if recorder.modules[number] not in must_run}
        uses = Counter(output for variant in perturbed for output in plan.reuses[variant].outputs)
        return result, _Recording(self._reach, plan, recorder.record(order.chained, skippable, uses))

    def _recorder(self, plan: ReusePlan) -> Recorder:
        return Recorder(
            self._model,
            self._structure.containers.keys(),
            plan,
            overwritten=self._overwritten,
            from_outside=self._foresight.from_outside,
            limit=self._limit,
            barred=self._changing,
            summed=self._compare,
        )

    def _must_run(self) -> set[int]:
        """Modules that must run each time, and all around them: they keep state, or carry hooks by now."""
        hooked = {id(m) for m in self._model.modules() if m._forward_hooks or m._forward_pre_hooks}
        return self._reach.around(self._survey.stateful | hooked)


def _containers(model: nn.Module) -> dict[int, set[int]]:
    """For every module the modules that contain it, itself included."""
    containers: dict[int, set[int]] = {}
    for outer in model.modules():
        for inner in outer.modules():
            containers.setdefault(id(inner), set()).add(id(outer))
    return containers
