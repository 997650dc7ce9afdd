"""Ctrl-C at any moment leaves nothing behind.

Signals reach the main thread of a process, in which a test worker does not always run its tests; so these run apart.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_ctrl_c_leaves_nothing_behind_and_waits_for_restoration(repository: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*command, str(repository / "tests" / "perturb" / "interrupted.py")],
        capture_output=True,
        text=True,
        cwd=repository,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert "3 passed" in ran.stdout
