"""Work that may crash, in a process of its own: a child that a signal ends leaves a reason, not a dead benchmark."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

Row = dict[str, Any]
Say = Callable[[tuple[str, str]], None]
"""Told who does what next, as ("OpenVINO", "compiled the graph"), so that it is known what a process died of."""


def in_own_process(work: Callable[..., Row], *arguments: Any) -> Row:
    """What a function returns that is run in a process of its own.

    Args:
        work: Takes ``Say`` and the arguments; all of it is pickled.
        arguments: For it.

    Returns:
        Its answer; ``error``, with the ``signal``'s number, where a signal ended the process.

    Raises:
        ChildProcessError: If it raised what no engine is to blame for. What that was, is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, work, arguments))
    process.start()
    sender.close()  # the child holds the other end: when it dies, there is nothing more to receive
    program, step = "the process that measures", "started"
    answer: Row | None = None
    while answer is None:
        try:
            message = receiver.recv()
        except EOFError:
            break
        if isinstance(message, tuple):
            program, step = message
        else:
            answer = message
    process.join()
    if answer is not None:
        return answer
    if process.exitcode is None or process.exitcode >= 0:
        raise ChildProcessError(f"{ending(process.exitcode or 0)} while {program} {step}")
    return {"error": f"{program} {ending(process.exitcode)} while it {step}", "signal": -process.exitcode}


def ending(code: int) -> str:
    """How a process ended, by its exit status as Python gives it."""
    return f"ended with signal {-code}" if code < 0 else f"ended with exit status {code}"


def _answer(sender: Connection, work: Callable[..., Row], arguments: Sequence[Any]) -> None:
    try:
        answer = work(sender.send, *arguments)
    except RuntimeError as error:  # of an engine: a row of the table, with its reason
        answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[-1][:200]}"}
    sender.send(answer)
