"""What importing costs beyond torch, in seconds: the fastest of some fresh interpreters.

    python benchmarks/imports.py --repeats 5

Which modules are loaded is tested in tests/test_front_door.py; how long that takes depends on the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

STATEMENTS = {
    "import sensitivity": "import sensitivity",
    "sensitivity.wrap, beyond torch": "import sensitivity; sensitivity.wrap",
    "sensitivity.Study, without torch": "import sensitivity; sensitivity.Study",
}


def seconds(statement: str, before: str) -> float:
    code = f"{before}import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    for name, statement in STATEMENTS.items():
        before = "import torch; " if "beyond torch" in name else ""
        print(f"{name}: {min(seconds(statement, before) for _ in range(repeats)):.3f} s")


if __name__ == "__main__":
    main()
