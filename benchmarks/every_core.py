r"""A sweep on several cores: what they cost in processor time, and how the design scales to more than are here.

    python -m benchmarks.every_core DATA [--net fastestdet] [--images 20] [--cores 1 2 4 8 16 32 64] [--measure 50 200]

DATA holds ``weights/`` and ``tiny_coco/``, as the project's shared data do. First the parts of a sweep in int4 weights
are timed in this process, in CPU seconds of one thread: reading a batch, its recorded pass, a replayed variant (every
fifth layer), what the parent does for the answer of a worker, and the scores and intervals in the end. Then
``passes.every_core`` and ``passes.in_parallel`` are simulated with these times: who waits for whom, the shards that
they make, the batches started ahead. The parent's work is added to that of the workers, since it runs on one of
their cores. Prints one row for each number of cores.

``--measure`` also runs the sweep on so many views of the 50 images, with one process and with ``workers="auto"`` on
the cores that are here, by turns, and prints wall time and CPU time of the process and its workers. Where other
programs are busy, compare CPU time: no wall time can be shorter than that by the number of cores.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import math
import os
import pickle
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import sensitivity as sv
from benchmarks.real_nets import real_nets
from benchmarks.views import write_views
from sensitivity.contracts import Batch, Task
from sensitivity.perturb.perturber import Perturber
from sensitivity.perturb.restore import untouched
from sensitivity.score import predict
from sensitivity.sweep.passes.cores import usable_cores
from sensitivity.sweep.passes.every_core import PASSES_A_CORE, TIMED
from sensitivity.sweep.passes.forward import Forward
from sensitivity.sweep.passes.in_parallel import SHARES_A_WORKER
from sensitivity.sweep.passes.in_process import Unit
from sensitivity.sweep.passes.workers import SHARDS_A_WORKER, groups, pickled
from sensitivity.sweep.plan import Variant, plan_sweep
from sensitivity.sweep.scoring import Scoring
from sensitivity.sweep.stopping.judge import EveryImage
from sensitivity.sweep.storage.journal import MemoryStore
from sensitivity.sweep.storage.results import Results

RECIPE = sv.INT4_WEIGHTS
FORK_S = 0.05  # starting a worker, roughly
TURNS = 2  # of one process and all cores


@dataclass(frozen=True)
class Times:
    """CPU seconds of the parts of a sweep, for one batch.

    Attributes:
        load: Reading it.
        first: The first recorded pass, with the survey and the checks of replay.
        record: A later one.
        variant: A variant.
        send: What the parent does to send it.
        take: What the parent does with the answer for one variant.
        score: The score of a variant and its interval in the end, for each image of the task.
    """

    load: float
    first: float
    record: float
    variant: float
    send: float
    take: float
    score: float


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def measured(wrapped: sv.Wrapped, task: Task) -> Times:
    """The times of a network's first two batches, and of scoring all."""
    load, batches = timed(lambda: list(task.batches()))
    variants = plan_sweep(list(wrapped.layers), [RECIPE], direction="one-at-a-time")
    results = Results(MemoryStore())
    with untouched(wrapped.model) as state, torch.no_grad():
        forward = Forward(wrapped.model, Perturber(wrapped.model), replay=True, state=state)
        first, _ = timed(lambda: forward.baseline(run_of(wrapped, task, batches[0]), variants))
        record_times, variant_times, take_times = [], [], []
        for batch in batches[1:]:
            run = run_of(wrapped, task, batch)
            record_s, expected = timed(functools.partial(forward.baseline, run, variants))
            record_times.append(record_s)
            results.keep_baseline(batch.images, expected)
            for variant in variants[::5]:
                variant_s, predictions = timed(functools.partial(forward.variant, run, variant))
                answer = pickled([(0, Unit(None, predictions))])
                take_s, _ = timed(functools.partial(take, answer, results, variant, batch))
                variant_times.append(variant_s)
                take_times.append(take_s)
            results.count(batch.images, variants[::5])
    scoring = Scoring(task, EveryImage(task, variants, results), results, on_error="raise")
    score, _ = timed(lambda: scoring.outcome(variants[::5], ()))
    send, _ = timed(lambda: pickled(batches[1]))
    return Times(
        load / len(batches),
        first,
        record_times[0],
        statistics.mean(variant_times),
        send,
        statistics.mean(take_times),
        score / len(variants[::5]) / results.images,
    )


def run_of(wrapped: sv.Wrapped, task: Task, batch: Batch) -> Callable[[], list[Any]]:
    return functools.partial(predict, task, wrapped.model, batch)


def take(answer: bytes, results: Results, variant: Variant, batch: Batch) -> None:
    """What the parent does with what a worker sends."""
    [(_, unit)] = pickle.loads(answer)
    results.keep(variant, batch.images, unit.predictions)


def simulated(times: Times, *, batch: Batch, images: int, variants: int, cores: int) -> float:
    """Seconds of a sweep on so many cores.

    Args:
        times: Of its parts.
        batch: One of its batches, all of which are taken to be alike.
        images: Of the task.
        variants: Of the sweep.
        cores: Workers; each has a core of its own, but for what the parent needs.
    """
    batches = -(-images // len(batch.images))
    score = images * times.score
    if cores == 1:
        passes = batches * (times.load + variants * times.variant) + times.first + (batches - 1) * times.record
        return passes + variants * score
    now = times.load + times.first + TIMED * times.variant
    parent, work = now, 0.0
    workers = [now + FORK_S] * cores
    heapq.heapify(workers)
    waiting: deque[list[tuple[float, int]]] = deque()  # batches under way: when each shard is done, and its variants

    def started(costs: list[tuple[float, int]]) -> list[tuple[float, int]]:
        nonlocal work
        done = []
        for cost, count in costs:
            begun = max(now, heapq.heappop(workers))
            heapq.heappush(workers, begun + cost)
            done.append((begun + cost, count))
            work += cost
        return done

    def take_in() -> None:
        nonlocal now, parent
        for done, count in waiting.popleft():
            now = max(now, done) + count * times.take
            parent += count * times.take

    left = max(0, variants - TIMED)
    size = max(1, left // (PASSES_A_CORE * cores))
    waiting.append(started([(size * times.variant, size)] * (-(-left // size))))
    take_in()
    shards = [len(group) for group in groups(batch, list(range(variants)), images=images, workers=cores)]  # type: ignore[arg-type]
    for _ in range(batches - 1):
        now += times.load + times.send
        parent += times.load + times.send
        waiting.append(started([(times.record + count * times.variant, count) for count in shards]))
        while len(waiting) > SHARDS_A_WORKER * cores:
            take_in()
    while waiting:
        take_in()
    passes = max(now, (parent + work) / cores)
    size = max(1, (variants - 1) // (SHARES_A_WORKER * cores))
    rounds = math.ceil((variants - 1) / size / cores)
    return passes + FORK_S + (1 + rounds * size) * score


def spent(run: Callable[[], Any]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process and of workers that it has ended."""
    started, before = time.perf_counter(), os.times()
    run()
    after = os.times()
    return time.perf_counter() - started, sum(after[:4]) - sum(before[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--net", default="fastestdet")
    parser.add_argument("--images", type=int, default=5000, help="that the simulated sweep has")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--measure", type=int, nargs="*", default=[], help="images of sweeps to run here as well")
    arguments = parser.parse_args()
    cores = usable_cores()
    torch.set_num_threads(1)
    net = real_nets()[arguments.net]
    wrapped, task = net.wrapped(arguments.data), net.split(arguments.data, "val")
    times = measured(wrapped, task)
    print(f"{arguments.net}, seconds for a batch: {times}")
    batch = next(iter(task.batches()))
    simulate = functools.partial(simulated, times, batch=batch, variants=len(wrapped.layers), images=arguments.images)
    print("| cores | seconds, simulated | share of one core's | efficiency |\n|---|---|---|---|")
    alone_s = simulate(cores=1)
    for count in arguments.cores:
        seconds = simulate(cores=count)
        print(f"| {count} | {seconds:.0f} | {seconds / alone_s:.3f} | {alone_s / seconds / count:.0%} |")
    if arguments.measure:
        print("| images | processes | wall, s | CPU, s |\n|---|---|---|---|")
    for images in arguments.measure:
        with tempfile.TemporaryDirectory() as folder:
            annotations = write_views(arguments.data, Path(folder), images)
            views = net.task(annotations.parent / "images", annotations)
            for threads in (1, cores) * TURNS:
                torch.set_num_threads(threads)
                wall, cpu = spent(functools.partial(wrapped.analyze, views, RECIPE, progress=False))
                print(f"| {images} | {threads} | {wall:.1f} | {cpu:.1f} |", flush=True)


if __name__ == "__main__":
    main()
