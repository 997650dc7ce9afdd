"""Running passes elsewhere: in other processes, or on a cluster.

A shard is one batch and some of the variants. A worker gets the model once, keeps it, and for each shard runs the
unperturbed model and the variants as one process would, with the same random state and the same number of threads; so
the study is the same to the last bit. Batches are taken in in their order, whichever is done first.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sensitivity.contracts import Batch, Executor, SharesOnce, Task
from sensitivity.errors import ExecutorError
from sensitivity.layers.trace.generators import RandomState
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.state.state import ModelState
from sensitivity.sweep.passes.forward import Forward
from sensitivity.sweep.passes.in_process import InProcess, OnError, Unit
from sensitivity.sweep.passes.shared_folder import shared_folder
from sensitivity.sweep.plan import Variant
from sensitivity.turns import process_state

SMALLEST_GROUP = 8  # variants that share one pass of the unperturbed model
SHARDS_A_WORKER = 2  # under way or waiting, so that no worker stands idle


@dataclass(frozen=True)
class Shared:
    """The passes of one sweep, as a worker finds them.

    Attributes:
        key: Of this sweep; a worker that has them asks no more.
        load: Gives them.
        folder: Where they lie, for workers to remove if the sweep is killed; None where nothing lies on this machine.
    """

    key: str
    load: Callable[[], Any]
    folder: Path | None = None


@dataclass(frozen=True)
class Job:
    """What a worker needs once.

    Attributes:
        model: The model.
        task: Predicts.
        perturber: Applies the variants to this model.
        replay: Whether to replay.
        memory_limit: Bytes that a recorded pass may keep; None for no limit.
        on_error: What becomes of a variant that fails.
        random_state: State of the generators that every pass starts from.
        threads: Threads of an operator; another number gives other bits.
        variants: All variants of the sweep; shards name them by position.
        whole: Whether all batches of the task are run by one process.
        resumed: Whether an earlier attempt may have left results; what it replayed has yet to stand checks of this one.
    """

    model: nn.Module
    task: Task
    perturber: Perturber
    replay: bool
    memory_limit: int | None
    on_error: OnError
    random_state: RandomState
    threads: int
    variants: Sequence[Variant]
    whole: bool = False
    resumed: bool = False

    def passes(self, state: ModelState | None = None) -> InProcess:
        """Runs them here as in one process; called once a worker, in the random state of the sweep.

        Args:
            state: What the model holds, where that was read before.
        """
        forward = Forward(
            self.model,
            self.perturber,
            replay=self.replay,
            memory_limit=self.memory_limit,
            state=state,
            late_checks=True,
            resumed=self.resumed,
        )
        return InProcess(self.model, self.task, forward, self.on_error, whole=self.whole)


class Distributed:
    """Runs passes in the workers of an executor.

    Args:
        executor: Brings functions to its workers.
        job: What the workers need.

    Raises:
        ExecutorError: If model, task or calibration cannot be pickled.
    """

    def __init__(self, executor: Executor, job: Job) -> None:
        self._executor = executor
        self._images = len(job.task)
        self._workers = _workers(executor)
        self._variants = job.variants
        self._positions = {variant: number for number, variant in enumerate(job.variants)}
        self._pending: list[Future[Any]] = []
        self._cleanup = contextlib.ExitStack()
        self._shared = self._share(job)
        self.ahead = SHARDS_A_WORKER * self._workers

    def start(self, batch: Batch, variants: Sequence[Variant]) -> Iterator[Unit]:
        """The unperturbed model first, then every variant in the order given."""
        sent = pickled(batch)
        some = groups(batch, variants, images=self._images, workers=self._workers)
        futures = [self._submit(sent, group) for group in some]
        self._pending = [future for future in self._pending if not future.done()] + futures
        return self._units(futures)

    def cancel(self) -> None:
        """Cancel shards that have not begun, and let go of what was shared."""
        for future in self._pending:
            future.cancel()
        self._cleanup.close()

    def _units(self, futures: Sequence[Future[Any]]) -> Iterator[Unit]:
        for number, future in enumerate(futures):
            for position, unit in _result(future):
                if position is not None:
                    yield unit.of(self._variants[position])
                elif number == 0:
                    yield unit

    def _submit(self, batch: bytes, variants: Sequence[Variant]) -> Future[Any]:
        positions = [self._positions[variant] for variant in variants]
        try:
            return self._executor.submit(run_shard, self._shared, batch, positions)
        except BrokenExecutor as error:
            raise _lost(error) from error

    def _share(self, job: Job) -> Shared:
        key = uuid.uuid4().hex
        if isinstance(self._executor, SharesOnce):
            return Shared(key, self._executor.share(job))
        try:
            blob = pickle.dumps(job)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ExecutorError(
                f"model, task or calibration cannot be sent to other processes: {error}. Define classes and functions "
                "at the top of a module instead of inside others, and lambdas as functions."
            ) from error
        folder = self._cleanup.enter_context(shared_folder())
        path = folder / key
        path.write_bytes(blob)
        return Shared(key, functools.partial(_read_job, path), folder)


def groups(batch: Batch, variants: Sequence[Variant], *, images: int, workers: int) -> list[Sequence[Variant]]:
    """Variants in groups of neighbours: as few as keep all workers busy.

    Args:
        batch: What they run on.
        variants: What is to be divided.
        images: Of the whole task.
        workers: How many there are.
    """
    batches = max(1, images // len(batch.images))
    wanted = -(-SHARDS_A_WORKER * workers // batches)
    count = max(1, min(wanted, len(variants) // SMALLEST_GROUP))
    size = max(1, -(-len(variants) // count))
    return [variants[start : start + size] for start in range(0, max(1, len(variants)), size)]


_at_hand: dict[str, tuple[Job, InProcess]] = {}


def run_shard(shared: Shared, batch: bytes, positions: Sequence[int]) -> bytes:
    """In a worker: the unperturbed model and some variants on one batch.

    Batch and result are pickled here and not by the executor, so that an error of pickling cannot be taken for one of
    the task, nor the other way round.

    Args:
        shared: The passes.
        batch: What to run them on, pickled.
        positions: Of the variants.

    Returns:
        A pickled list: position of the variant and its unit; None for the unperturbed model, which comes first.

    Raises:
        ExecutorError: If the predictions cannot be pickled, or an error of the task cannot.
    """
    end_with_parent(shared.folder)
    with process_state, torch.no_grad():
        before, threads = RandomState.now(), torch.get_num_threads()
        try:
            job, passes = job_of(shared)
            units = list(passes.start(pickle.loads(batch), [job.variants[position] for position in positions]))
        except Exception as error:
            _check_sendable(error)
            raise
        finally:
            before.set()
            torch.set_num_threads(threads)
    return pickled([(None, units[0]), *zip(positions, (unit.of(None) for unit in units[1:]), strict=True)])


def pickled(value: Any) -> bytes:
    """A value as bytes.

    Raises:
        ExecutorError: If it holds something that cannot be pickled.
    """
    try:
        return pickle.dumps(value)
    except Exception as error:
        raise ExecutorError(
            f"a batch, or what the task predicts for it, cannot be sent between processes: {error}. Keep tensors, "
            "numpy arrays, numbers and text in Batch.inputs, Batch.context and predictions; no lambdas, open files or "
            "locks."
        ) from error


_watching: set[int] = set()  # processes that wait for the end of their parent; a forked one inherits those of others
_to_remove: set[Path] = set()  # folders of sweeps that this process worked for


def end_with_parent(folder: Path | None = None) -> None:
    """Let this process end when the one that started it is gone, killed for instance: nobody would take its result.

    Args:
        folder: Is removed then; None where there is none.
    """
    parent = multiprocessing.parent_process()
    if folder is not None:
        _to_remove.add(folder)
    if os.getpid() in _watching:
        return
    _watching.add(os.getpid())
    if parent is None:  # a thread, or a worker that another system looks after
        return

    def wait() -> None:
        parent.join()
        for abandoned in list(_to_remove):
            shutil.rmtree(abandoned, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, name="ends with its parent", daemon=True).start()


def _check_sendable(error: Exception) -> None:
    """Nothing, if an error can be sent back: one that cannot takes a pool of processes with it.

    Raises:
        ExecutorError: If it cannot; tells it as text.
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception as cause:
        raise ExecutorError(f"a worker failed with {type(error).__name__}: {error}") from cause


def job_of(shared: Shared) -> tuple[Job, InProcess]:
    """In a worker: the job, and what runs its passes, which are kept until the next sweep."""
    if shared.key not in _at_hand:
        job: Job = shared.load()
        job.random_state.set()
        _at_hand.clear()  # a worker serves one sweep at a time
        _at_hand[shared.key] = job, job.passes()
    job, passes = _at_hand[shared.key]
    torch.set_num_threads(job.threads)
    return job, passes


def _read_job(path: Path) -> Job:
    try:
        job: Job = pickle.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ExecutorError(
            f"a worker does not find {path}. Executors that run on other machines need a share() method, as "
            "sv.ray_executor has; on this one, the sweep is over."
        ) from error
    return job


def _result(future: Future[Any]) -> list[tuple[int | None, Unit]]:
    try:
        blob = future.result()
    except BrokenExecutor as error:
        raise _lost(error) from error
    units: list[tuple[int | None, Unit]] = pickle.loads(blob)
    return units


def _lost(error: BaseException) -> ExecutorError:
    return ExecutorError(
        f"a worker died ({error}), and its executor runs nothing again. With store= everything taken in is kept: run "
        "the same again with a new executor to go on. sv.ray_executor() runs lost work again by itself."
    )


def _workers(executor: Executor) -> int:
    """How many shards run at a time, as far as the executor says."""
    declared = getattr(executor, "workers", None) or getattr(executor, "_max_workers", None)
    return int(declared or os.cpu_count() or 1)
