"""One function of many things, such as the score of every layer: on all cores where that is faster."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, wait
from typing import Any, TypeVar

import torch

from sensitivity.sweep.passes.cores import processes_that_fit
from sensitivity.sweep.passes.forked import ForkedWorkers, Pace
from sensitivity.sweep.passes.workers import end_with_parent, pickled

SHARES_A_WORKER = 4  # so that no worker stands idle for long at the end
PROCESS_BYTES = 2**29  # that a worker may need beside what it shares with this process

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


@contextlib.contextmanager
def one_thread_each(processes: int) -> Iterator[None]:
    """Where there may be several processes, torch computes with one thread inside: the same bits here and there."""
    threads = torch.get_num_threads()
    try:
        if processes > 1:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def in_parallel(find: Callable[[_Item], _Found], items: Sequence[_Item], *, processes: int) -> Iterator[_Found]:
    """What a function finds for each item, in order.

    The first item is done here. Where its time shows that it pays, copies of this process do the rest; they end with
    this iterator. What a copy cannot do or send is done here, so that an exception is that of a call here.

    Args:
        find: The function; what it finds must not depend on earlier items.
        items: What it is called with.
        processes: How many there may be; 1 where this process cannot be copied.
    """
    pace = Pace()
    for number, item in enumerate(items):
        if processes > 1 and pace.is_worth(len(items) - number):
            yield from _in_copies(find, items[number:], min(processes, processes_that_fit(PROCESS_BYTES)), pace)
            return
        started = time.perf_counter()
        answer = find(item)
        pace.seconds.append(time.perf_counter() - started)
        yield answer


def _in_copies(find: Callable[[_Item], _Found], items: Sequence[_Item], processes: int, pace: Pace) -> Iterator[_Found]:
    size = max(1, len(items) // (SHARES_A_WORKER * processes))
    shares = [items[start : start + size] for start in range(0, len(items), size)]
    workers = ForkedWorkers(processes)
    try:
        shared = workers.share((find, shares))
        futures = [_submitted(workers, shared, number) for number in range(len(shares))]
        for share, future in zip(shares, futures, strict=True):
            answer = _answer(future, pace.patience_s(SHARES_A_WORKER * size))
            if answer is None:
                workers.end()
            yield from map(find, share) if answer is None else answer
    finally:
        workers.end()


def _submitted(workers: ForkedWorkers, shared: Callable[[], Any], number: int) -> Future[bytes] | None:
    try:
        return workers.submit(_do_share, shared, number)
    except (BrokenExecutor, OSError):  # a worker died, or there cannot be another process
        return None


def _answer(future: Future[bytes] | None, patience: float) -> list[Any] | None:
    """What a worker found; None where it found nothing, whatever the reason: a call here tells that."""
    try:
        if future is not None and wait([future], patience).done:
            return list(pickle.loads(future.result()))
    except Exception:  # noqa: BLE001
        return None
    return None


def _do_share(shared: Callable[[], Any], number: int) -> bytes:
    """In a worker."""
    end_with_parent()
    find, shares = shared()
    with torch.no_grad():
        return pickled([find(item) for item in shares[number]])
