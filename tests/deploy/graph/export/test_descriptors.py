"""What C code prints past Python's streams is kept, and the descriptors are as they were."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sensitivity.deploy.graph.export.descriptors import descriptors_kept


def places() -> list[tuple[int, int]]:
    return [(status.st_dev, status.st_ino) for status in map(os.fstat, (1, 2))]


def stop() -> None:
    os.write(2, b"its last words")
    raise KeyboardInterrupt


def test_what_is_written_to_descriptors_and_by_other_programs_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    messages: list[str] = []
    print("before")
    with descriptors_kept(messages.append):
        os.write(1, b"to stdout\n")
        os.write(2, b"to stderr, \xff no text\n")
        subprocess.run([sys.executable, "-c", "print('elsewhere')"], check=True)
    print("behind")
    assert messages == ["to stdout\nto stderr, \N{REPLACEMENT CHARACTER} no text\nelsewhere\n"]
    assert capfd.readouterr() == ("before\nbehind\n", "")


def test_an_error_loses_nothing_and_puts_the_descriptors_back(capfd: pytest.CaptureFixture[str]) -> None:
    messages: list[str] = []
    before = places()
    with pytest.raises(KeyboardInterrupt), descriptors_kept(messages.append):
        stop()
    assert messages == ["its last words"]
    assert places() == before
    os.write(2, b"heard")
    assert capfd.readouterr() == ("", "heard")


def test_threads_take_turns_and_leave_the_descriptors_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    before, inside, go_on, messages = places(), threading.Event(), threading.Event(), []

    def first() -> None:
        with descriptors_kept(messages.append):
            os.write(1, b"first")
            inside.set()
            go_on.wait(timeout=30)

    def second() -> None:
        with descriptors_kept(messages.append):
            os.write(1, b"second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(timeout=30)
    threads[1].start()
    threads[1].join(timeout=0.2)
    go_on.set()
    for thread in threads:
        thread.join(timeout=30)
    assert messages == ["first", "second"]
    assert places() == before
    assert capfd.readouterr() == ("", "")


def test_a_process_without_stderr_has_none_behind_it_either(repository: Path) -> None:
    program = """
import os
from sensitivity.deploy.graph.export.descriptors import descriptors_kept
os.close(2)
messages = []
with descriptors_kept(messages.append):
    os.write(1, b"a word")
print(messages)
try:
    os.fstat(2)
except OSError:
    print("closed")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == "['a word']\nclosed\n"
