"""Ctrl-C at any moment leaves nothing behind.

Signals reach the main thread of a process, in which a test worker does not always run its tests; so these run apart.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sensitivity
from sensitivity.perturb.state import interrupts

PACKAGE = Path(sensitivity.__file__).resolve().parent


def test_ctrl_c_leaves_nothing_behind_and_waits_for_restoration(repository: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*command, str(repository / "tests" / "perturb" / "interrupted.py")],
        capture_output=True,
        text=True,
        cwd=repository,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert "4 passed" in ran.stdout


@pytest.mark.parametrize(
    ("file", "is_ours"),
    [
        (PACKAGE / "sweep" / "passes" / "made.py", True),
        (PACKAGE / "turns.py", True),
        (PACKAGE.parent / "someones" / "made.py", False),
    ],
)
def test_ctrl_c_waits_for_the_managers_of_every_room_and_of_no_other_package(file: Path, is_ours: bool) -> None:
    made: dict[str, Any] = {"seen": []}
    source = "def manager(look):\n    seen.append(look())\n    yield"
    exec(compile(source, str(file), "exec"), made)
    with contextlib.contextmanager(made["manager"])(lambda: interrupts._is_half_done(sys._getframe())):
        pass
    assert made["seen"] == [is_ours]
