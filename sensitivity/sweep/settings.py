"""How a sweep runs: where, with or without intervals, and what becomes of a layer that fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import current_process, get_context
from typing import Any, Literal, TypedDict, get_args

from sensitivity.contracts import Executor
from sensitivity.errors import ExecutorError, StudyError
from sensitivity.sweep.passes.in_process import OnError

_ON_ERROR = get_args(OnError)

Workers = Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """How ``analyze`` runs. No setting changes a score; ``intervals`` decides whether drops have intervals.

    Attributes:
        executor: Where passes run: any of ``concurrent.futures``, best a ``ProcessPoolExecutor``, or
            ``sv.ray_executor()``. The study is the same to the last bit. None is this process.
        workers: Where passes run without an executor. ``auto`` uses every core that torch's number of threads allows,
            one single-threaded process each, where that is faster, and this process where it is not: for short
            sweeps, callbacks, GPUs, and where processes cannot be forked (Windows, macOS). A whole number runs passes
            in so many processes, which are started for the sweep and ended after it; they are spawned, so that a
            script that uses them needs ``if __name__ == "__main__":``. None is this process with torch's threads.
        intervals: Give every drop bounds, which without a stop scores each layer some twenty times more: cheap for our
            COCO and LVIS tasks, which share the matching, dear for a metric of your own that is slow.
        replay: Recompute only what a perturbed layer can change; the result is the same to the last bit.
        memory_limit: Bytes of outputs that one recorded pass may keep; less costs time and changes no number. None
            keeps what replay can use.
        on_error: ``record`` turns a layer that fails, or that the metric fails on, into a row with its reason;
            ``raise`` stops.

    Raises:
        StudyError: If a setting is of the wrong kind or out of range.
        ExecutorError: If the executor cannot take work, or workers are given as well.
    """

    executor: Executor | None = None
    workers: int | Workers | None = "auto"
    intervals: bool = True
    replay: bool = True
    memory_limit: int | None = None
    on_error: OnError = "record"

    def __post_init__(self) -> None:
        executor, workers, limit = self.executor, self.workers, self.memory_limit
        if executor is not None and (isinstance(executor, type) or not isinstance(executor, Executor)):
            raise ExecutorError(
                f"executor={executor!r} cannot take work. Give one of concurrent.futures, such as "
                "ProcessPoolExecutor(4), or sv.ray_executor()."
            )
        counted = isinstance(workers, int)
        named = workers is None or (isinstance(workers, str) and workers == "auto")
        if not named and not (_is_count(workers) and isinstance(workers, int) and workers >= 1):
            raise StudyError(
                f'workers={workers!r}: give a whole number of processes from 1 on, "auto", or None for this one.'
            )
        if executor is not None and counted:
            raise ExecutorError(
                f"executor= and workers={workers} both say where passes run. Give one of them: workers= starts and "
                "ends processes by itself."
            )
        for name in ("intervals", "replay"):
            if not isinstance(getattr(self, name), bool):
                raise StudyError(f"{name}={getattr(self, name)!r}: give True or False.")
        if limit is not None and not (_is_count(limit) and limit >= 0):
            raise StudyError(f"memory_limit={limit!r}: give bytes, as a whole number from 0 on, or None.")
        if not isinstance(self.on_error, str) or self.on_error not in _ON_ERROR:
            raise StudyError(f"on_error={self.on_error!r} is not known. Choose one of: {', '.join(_ON_ERROR)}.")

    @contextlib.contextmanager
    def workplace(self) -> Iterator[Executor | None]:
        """What passes run on for the time of a ``with`` block; processes that ``workers`` asks for end with it.

        Raises:
            ExecutorError: If ``workers`` is used by a script while its own workers import it.
        """
        if not isinstance(self.workers, int):
            yield self.executor
            return
        if getattr(current_process(), "_inheriting", False):
            raise ExecutorError(
                f"workers={self.workers}: a worker that imports this script would start workers of its own. Put the "
                'call under if __name__ == "__main__":.'
            )
        pool = ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"))
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


class SweepKeywords(TypedDict, total=False):
    """The settings as keywords of ``analyze`` itself, as they were before ``settings=``."""

    executor: Executor | None
    workers: int | Workers | None
    intervals: bool
    replay: bool
    memory_limit: int | None
    on_error: OnError


def settings_of(settings: Sweep | None, keywords: SweepKeywords) -> Sweep:
    """How a sweep runs: as ``settings=`` says, or as keywords say that are given in its place.

    Raises:
        StudyError: If both are given, or ``settings`` is something else.
        TypeError: If a keyword is unknown.
    """
    if settings is not None and not isinstance(settings, Sweep):
        raise StudyError(f"settings={settings!r:.80} is no sv.Sweep. Give e.g. settings=sv.Sweep(workers=2), or None.")
    known = SweepKeywords.__annotations__
    unknown = [name for name in keywords if name not in known]
    if unknown:
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}. How a sweep runs is said by {', '.join(known)}.")
    if settings is None:
        return Sweep(**keywords)
    if keywords:
        names = ", ".join(f"{name}=" for name in keywords)
        raise StudyError(
            f"settings= and {names} both say how the sweep runs. Give {names} inside settings=sv.Sweep(...) alone."
        )
    return settings


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
