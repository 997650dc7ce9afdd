"""Passes on every core: the first ones here, and the rest in copies of this process where that is faster.

Passes then compute with one thread each, here as in the copies, so that the study does not depend on where they ran.
A job so small that its passes do not fill the cores keeps torch's threads, and stays here. A copy that dies, does not
answer, or cannot send what it found is given up together with the others: what they had is run here.
"""

from __future__ import annotations

import functools
import itertools
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sensitivity.contracts import Batch, StaysInProcess, Task
from sensitivity.errors import ExecutorError
from sensitivity.perturb.state.state import ModelState
from sensitivity.sweep.passes.cores import processes_that_fit, usable_cores
from sensitivity.sweep.passes.forked import ForkedWorkers, Pace, can_fork
from sensitivity.sweep.passes.in_process import InProcess, Unit
from sensitivity.sweep.passes.workers import (
    SHARDS_A_WORKER,
    Job,
    Shared,
    groups,
    job_of,
    pickled,
    run_shard,
)
from sensitivity.sweep.plan import Variant

PASSES_A_CORE = 4  # fewer, and the cores are better used by torch's threads within a pass
TIMED = 3  # passes after which the time of one is known well enough
PROCESS_BYTES = 2**28  # that a worker needs beside what replay keeps


def processes_for(model: nn.Module, task: Task) -> int:
    """Processes that a sweep may use: one for each thread that torch would use, as far as there are cores.

    1 where workers cannot be forked, the model is not on the CPU, or the task is to stay in its process.
    """
    processes = min(torch.get_num_threads(), usable_cores())
    stays = isinstance(task, StaysInProcess) and task.stays_in_process
    if processes == 1 or stays or not can_fork():
        return 1
    tensors = itertools.chain(model.parameters(), model.buffers())
    return processes if all(tensor.device.type == "cpu" for tensor in tensors) else 1


@dataclass(frozen=True, kw_only=True)
class WarmJob(Job):
    """A job whose passes have begun: a forked worker goes on with them as they are.

    Attributes:
        warm: The passes.
    """

    warm: InProcess

    def passes(self, state: ModelState | None = None) -> InProcess:  # noqa: ARG002 - they have it
        """Those that this process had when it was forked."""
        return self.warm


@dataclass(frozen=True)
class _Shard:
    """Work that a worker has.

    Attributes:
        batch: What it runs on; None for the batch that was under way when the workers were forked.
        variants: What it runs.
        leads: Whether its pass of the unperturbed model is the one that counts.
        future: What it finds; None where the workers were given up before.
    """

    batch: Batch | None
    variants: Sequence[Variant]
    leads: bool
    future: Future[Any] | None


class EveryCore:
    """Runs passes here until their pace is known, then on all cores if that is faster.

    Args:
        here: Runs passes in this process.
        job: What workers need.
        processes: How many there may be.

    Attributes:
        ahead: Batches that may be started before the first of them is taken in.
    """

    def __init__(self, in_process: InProcess, job: Job, processes: int) -> None:
        self.ahead = 0
        self._in_process = in_process
        self._job = job
        self._processes = processes
        self._threads = torch.get_num_threads()
        self._batches: int | None = None  # of the whole task; None before the first
        self._begun = 0  # batches
        self._pace = Pace()
        self._workers: ForkedWorkers | None = None
        self._shared: Shared | None = None
        self._positions = {variant: number for number, variant in enumerate(job.variants)}

    def start(self, batch: Batch, variants: Sequence[Variant]) -> Iterator[Unit]:
        """The unperturbed model first, then every variant in the order given."""
        if self._batches is None:
            self._look_at(batch)
        self._begun += 1
        if self._workers is None and self._pays(len(variants)):
            self._fork()
        if self._workers is None:
            return self._begin_in_process(batch, variants)
        sent = pickled(batch)
        some = groups(batch, variants, images=len(self._job.task), workers=self._workers.workers)
        submit = functools.partial(self._submit, run_shard)
        shards = [_Shard(batch, group, number == 0, submit(group, sent)) for number, group in enumerate(some)]
        return self._taken(shards)

    def cancel(self) -> None:
        """End the workers, and give torch its threads back."""
        self._give_up()
        torch.set_num_threads(self._threads)

    def _look_at(self, batch: Batch) -> None:
        """Choose threads within passes, or processes: by numbers alone, so that the same sweep always does the same."""
        self._batches = max(1, -(-len(self._job.task) // len(batch.images)))
        if self._batches * len(self._job.variants) < PASSES_A_CORE * self._processes:
            self._processes = 1
        if self._processes > 1:
            torch.set_num_threads(1)

    def _pays(self, variants: int) -> bool:
        """Whether it is time for workers.

        Args:
            variants: Passes that are left on the batch at hand.
        """
        later = max(0, (self._batches or 1) - self._begun) * variants
        known = len(self._pace.seconds) >= TIMED
        return self._processes > 1 and known and self._pace.is_worth(variants + later)

    def _begin_in_process(self, batch: Batch, variants: Sequence[Variant]) -> Iterator[Unit]:
        """Run the first passes on a batch here, before anything is returned; then the rest, in workers if that pays.

        So whoever takes the units can read the next batch while the workers are busy.
        """
        units = self._timed(self._in_process.start(batch, variants))
        begun = list(itertools.islice(units, 1 + TIMED))
        rest = variants[TIMED:]
        if self._pays(len(rest)):
            self._fork()
        return itertools.chain(begun, units if self._workers is None else self._taken(self._rest(rest)))

    def _timed(self, units: Iterator[Unit]) -> Iterator[Unit]:
        """The same units; their times are noted."""
        for unit in units:
            if unit.variant is not None:
                self._pace.seconds.append(unit.seconds)
            yield unit

    def _rest(self, variants: Sequence[Variant]) -> list[_Shard]:
        """What is left of the batch under way, in small pieces: the workers have its recorded pass already."""
        size = max(1, len(variants) // (PASSES_A_CORE * self._processes))
        parts = [variants[start : start + size] for start in range(0, len(variants), size)]
        return [_Shard(None, part, False, self._submit(_run_rest, part)) for part in parts]

    def _fork(self) -> None:
        """Make the workers: copies of this process with all that it has found so far."""
        replayer = self._in_process.forward.replayer
        kept_bytes = replayer.kept_bytes if replayer is not None else 0
        self._processes = min(self._processes, processes_that_fit(2 * kept_bytes + PROCESS_BYTES))
        if self._processes == 1:
            return
        job = WarmJob(**(vars(self._job) | {"threads": 1}), warm=self._in_process)
        self._workers = ForkedWorkers(self._processes)
        self._shared = Shared(f"forked {id(self)}", self._workers.share(job))
        self.ahead = SHARDS_A_WORKER * self._processes

    def _submit(self, run: Callable[..., bytes], variants: Sequence[Variant], *batch: bytes) -> Future[bytes] | None:
        if self._workers is None:
            return None
        positions = [self._positions[variant] for variant in variants]
        try:
            return self._workers.submit(run, self._shared, *batch, positions)
        except (BrokenExecutor, OSError):  # a worker died, or there cannot be another process
            self._give_up()
            return None

    def _taken(self, shards: Sequence[_Shard]) -> Iterator[Unit]:
        """What workers find, in order; what they cannot say is found here."""
        for shard in shards:
            units = self._answer(shard)
            if units is None:
                self._give_up()
                units = self._run_in_process(shard)
            yield from units

    def _answer(self, shard: _Shard) -> Iterator[Unit] | None:
        """A worker's answer; None if there is none.

        Raises:
            Exception: What the passes raised, as they would have here.
        """
        if shard.future is None:
            return None
        done, _ = wait([shard.future], self._pace.patience_s(SHARDS_A_WORKER * (1 + len(shard.variants))))
        if not done:
            return None
        try:
            answer: list[tuple[int | None, Unit]] = pickle.loads(shard.future.result())
        except (BrokenExecutor, CancelledError, ExecutorError):
            return None
        named = ((None if place is None else self._job.variants[place], unit) for place, unit in answer)
        return (unit.of(variant) for variant, unit in named if shard.leads or variant is not None)

    def _run_in_process(self, shard: _Shard) -> Iterator[Unit]:
        if shard.batch is None:
            return self._in_process.go_on(shard.variants)
        units = self._in_process.start(shard.batch, shard.variants)
        return (unit for unit in units if shard.leads or unit.variant is not None)

    def _give_up(self) -> None:
        """Do without workers from now on."""
        if self._workers is not None:
            self._workers.end()
        self._workers, self.ahead = None, 0
        if self._begun:
            self._processes = 1


def _run_rest(shared: Shared, positions: Sequence[int]) -> bytes:
    """In a worker: variants on the batch that was under way when it was forked."""
    job, passes = job_of(shared)
    with torch.no_grad():
        units = list(passes.go_on([job.variants[position] for position in positions]))
    return pickled(list(zip(positions, (unit.of(None) for unit in units), strict=True)))
