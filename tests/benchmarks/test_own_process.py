"""A benchmark outlives the engines that it measures."""

from __future__ import annotations

import os
import signal

import pytest

from benchmarks.peers.own_process import Row, Say, in_own_process


def answers(say: Say, number: int) -> Row:
    say(("Python", "counted"))
    return {"number": number + 1}


def crashes(say: Say) -> Row:
    say(("engine 1", "read the graph"))
    say(("engine 1", "compiled the graph"))
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def is_refused(say: Say) -> Row:
    raise RuntimeError("Exception from src/core.cpp:93:\nno kernel for Einsum")


def is_wrong(say: Say) -> Row:
    say(("engine 1", "compiled the graph"))
    raise KeyError("input")


def test_an_answer_comes_back() -> None:
    assert in_own_process(answers, 1) == {"number": 2}


def test_a_signal_becomes_the_reason_with_what_went_on() -> None:
    assert in_own_process(crashes) == {
        "error": "engine 1 ended with signal 11 while it compiled the graph",
        "signal": signal.SIGSEGV,
    }


def test_what_an_engine_says_becomes_the_reason() -> None:
    assert in_own_process(is_refused) == {"error": "RuntimeError: no kernel for Einsum"}


def test_a_fault_of_the_benchmark_is_no_row() -> None:
    with pytest.raises(ChildProcessError, match="ended with exit status 1 while engine 1 compiled the graph"):
        in_own_process(is_wrong)
