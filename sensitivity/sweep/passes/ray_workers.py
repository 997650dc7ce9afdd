"""Sweeps on a Ray cluster: lost workers' shards run again by themselves."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import torch

from sensitivity.errors import ExecutorError, MissingPackageError, how_to_install
from sensitivity.records.arguments import checked


@checked(ExecutorError)
def ray_executor(
    address: str | None = None, *, num_cpus: float = 1, num_gpus: float = 0, max_retries: int = 5, **options: Any
) -> RayExecutor:
    """An executor for ``analyze(..., executor=)`` whose workers are processes of a Ray cluster.

    Args:
        address: Of a running cluster, or ``auto``; None uses one that this process is connected to, or starts one here.
        num_cpus: CPU cores of a worker.
        num_gpus: GPUs of a worker, or a share of one; above 0 the model is moved to the worker's GPU.
        max_retries: How often a shard runs again whose worker died.
        options: Further arguments of ``ray.init``.

    Raises:
        MissingPackageError: If Ray is not installed.
        ExecutorError: If there is no such cluster.

    Example:
        >>> with sv.ray_executor() as executor:                                          # doctest: +SKIP
        ...     study = wrapped.analyze(task, executor=executor)
    """
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError(f"ray_executor() needs the package Ray. {how_to_install('ray')}") from error
    starts_ray = not ray.is_initialized()
    if starts_ray:
        try:
            ray.init(address=address, **({"include_dashboard": False, "log_to_driver": False} | options))
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ExecutorError(
                f"no Ray cluster at {address!r}: {error} Start one with 'ray start --head' on one machine and 'ray "
                "start --address=...', as it prints, on the others; or leave address out, which starts Ray here."
            ) from error
    try:
        return RayExecutor(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=max_retries, starts_ray=starts_ray)
    except ExecutorError:
        if starts_ray:
            ray.shutdown()
        raise


class RayExecutor:
    """Runs functions as Ray tasks; made by ``ray_executor``.

    Attributes:
        workers: How many fit into the cluster at a time.
    """

    def __init__(self, *, num_cpus: float, num_gpus: float, max_retries: int, starts_ray: bool) -> None:
        import ray

        self._starts_ray = starts_ray
        self._on_gpu = num_gpus > 0
        # max_calls=0: a worker that has the model is used again, with a GPU too
        self._task: Any = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=max_retries, max_calls=0)(_call)
        have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        fit = [have.get("CPU", 0) / num_cpus] if num_cpus else []
        fit += [have.get("GPU", 0) / num_gpus] if num_gpus else []
        self.workers = int(min(fit, default=1))
        if self.workers < 1:
            raise ExecutorError(
                f"the cluster has {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs: no worker with "
                f"{num_cpus:g} CPUs and {num_gpus:g} GPUs fits. Ask for less, or add nodes."
            )

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Start a call on the cluster; what it raises is raised here, and what Ray raises is an ExecutorError."""
        future: Future[Any] = Future()
        self._task.remote(fn, *args).future().add_done_callback(functools.partial(_settle, future))
        return future

    def share(self, value: Any) -> Callable[[], Any]:
        """Put a value into the cluster's memory: it travels to each machine once."""
        import ray

        pickled = ray.cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
        return functools.partial(_fetch, ray.put(pickled), self._on_gpu)

    def shutdown(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        import ray

        if self._starts_ray:
            ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()


def _settle(future: Future[Any], done: Future[Any]) -> None:
    """Give a future what Ray's own one holds, with Ray's exceptions translated."""
    from ray.exceptions import RayError, RayTaskError

    if not future.set_running_or_notify_cancel():
        return
    error = done.exception()
    if error is None:
        future.set_result(done.result())
    elif isinstance(error, RayTaskError):
        future.set_exception(error.cause)
    elif isinstance(error, RayError):
        translated = ExecutorError(
            f"Ray lost a worker, or what it computed, more often than max_retries allows: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300].rstrip('.')}. With store= everything taken in is kept: run the same "
            "again to go on. Where workers run out of memory, give each more of the machine, num_cpus=2 or more."
        )
        translated.__cause__ = error
        future.set_exception(translated)
    else:
        future.set_exception(error)


def _call(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)


def _fetch(reference: Any, on_gpu: bool) -> Any:
    """In a worker: the value; its model on the worker's GPU, if it has one."""
    import ray

    value = pickle.loads(ray.get(reference))
    if on_gpu:
        value.model.to(torch.device("cuda"))
    return value
