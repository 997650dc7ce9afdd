"""The tensorrt package, imported when it is needed, and what it logs."""

from __future__ import annotations

import logging
from collections import deque
from functools import lru_cache
from typing import Any

from sensitivity.deploy.packages import need
from sensitivity.errors import EngineError

FIRST_MAJOR = 10
"""The first TensorRT whose strongly typed networks and named tensors this backend is written for."""

KEPT_MESSAGES = 200
LOG = logging.getLogger("sensitivity.tensorrt")


def tensorrt() -> Any:
    """The module ``tensorrt``.

    Raises:
        MissingPackageError: If it is not installed, or its libraries cannot be loaded.
        EngineError: If it is too old.
    """
    module = need("tensorrt", "tensorrt")
    if int(module.__version__.split(".")[0]) < FIRST_MAJOR:
        raise EngineError(
            f"TensorRT {module.__version__} is too old: {FIRST_MAJOR}.0 or newer is needed. "
            f"Install a newer one: pip install -U 'tensorrt>={FIRST_MAJOR}.0'."
        )
    return module


@lru_cache(maxsize=1)
def trt_log() -> Any:
    """The process's one TensorRT logger; TensorRT itself keeps the first it is given.

    It passes everything on to the Python logger ``sensitivity.tensorrt`` and keeps the latest warnings and errors in
    ``messages``, which ``complaints`` reads.
    """
    trt = tensorrt()

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]  # the base is known only once the package is imported
        """Keeps warnings and errors, passes on everything."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: deque[str] = deque(maxlen=KEPT_MESSAGES)

        def log(self, severity: Any, msg: str) -> None:
            level = _level(severity.name)
            LOG.log(min(level, logging.INFO), "%s", msg)  # it warns a lot; what matters is raised with its words
            if level >= logging.ERROR:
                self.messages.append(msg)

    return Log()


def _level(severity: str) -> int:
    """TensorRT's severity as a level of Python's logging."""
    if severity in ("INTERNAL_ERROR", "ERROR"):
        return logging.ERROR
    return {"WARNING": logging.WARNING, "INFO": logging.INFO}.get(severity, logging.DEBUG)


def complaints() -> str:
    """The errors that TensorRT has logged since the last call, as a sentence for a message."""
    log = trt_log()
    errors = list(dict.fromkeys(message.strip() for message in log.messages))
    log.messages.clear()
    return f"TensorRT says: {' | '.join(errors).rstrip('.')}." if errors else "TensorRT gave no reason."
