"""Ctrl-C waits until what is being put in or put back is done."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import sensitivity

RETRY_S = 0.01
_PACKAGE = __name__.partition(".")[0]
_FOLDER = str(Path(sensitivity.__file__).resolve().parent)
_BLOCKING = ("concurrent.futures", "multiprocessing", "ray")  # their exits wait for work, which Ctrl-C should end


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Inside, Ctrl-C is not raised while a ``with`` block of this package is being entered or left.

    It is tried again until that is over. Nothing is changed where Python's own handler of SIGINT is not in place, and
    outside the main thread, where signals are never handled.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, or try again in a moment where something is half done."""
    if not _is_half_done(frame):
        signal.default_int_handler(number, frame)
    again = threading.Timer(RETRY_S, _send, (number,))
    again.daemon = True
    again.start()


def _send(number: int) -> None:
    """Send this process a signal; on Windows ``os.kill`` would end it."""
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:
        os.kill(os.getpid(), number)


def _is_half_done(frame: FrameType | None) -> bool:
    """Whether a frame on the stack enters or leaves a ``with`` block that this package wrote or manages."""
    while frame is not None:
        if frame.f_code.co_name in ("__enter__", "__exit__") and not _module(frame).startswith(_BLOCKING):
            caller = _module(frame.f_back).partition(".")[0] if frame.f_back is not None else ""
            generator = getattr(frame.f_locals.get("self"), "gen", None)  # of contextlib's managers
            code = getattr(generator, "gi_code", frame.f_code)
            if caller == _PACKAGE or code.co_filename.startswith(_FOLDER):
                return True
        frame = frame.f_back
    return False


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
