"""Tries every model in a process of its own and writes the table::

    python -m tests.matrix                            # all families whose packages are installed
    python -m tests.matrix ultralytics effdet         # these
    python -m tests.matrix --no-deploy plain          # without an engine

Results are kept in ``--results``, a line of JSON for each model, and a model that has one is not tried again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.matrix.entries import Entry, entries
from tests.matrix.table import page
from tests.matrix.trial import Row, attempt

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def main(arguments: list[str]) -> int:
    """Run the matrix, or one model of it; 1 if a model of the chosen families cannot be wrapped."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__, add_help=True)
    parser.add_argument("families", nargs="*", help="families to try; all where none is named")
    parser.add_argument("--results", type=Path, default=Path("matrix.jsonl"), help="where rows are kept")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--seconds", type=int, default=300, help="time that a model has")
    parser.add_argument("--gigabytes", type=float, default=4.0, help="memory that a model has")
    parser.add_argument("--no-deploy", action="store_true", help="leave out the engine")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    listed = entries(tuple(chosen.families))
    if chosen.one:
        return _try_here(next(entry for entry in listed if entry.name == chosen.one), chosen)
    known = {(row.family, row.name): row for row in _read(chosen.results)}
    for entry in listed:
        if (entry.family, entry.name) not in known:
            row = _try_elsewhere(entry, chosen)
            known[entry.family, entry.name] = row
            with chosen.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row.to_json()) + "\n")
            print(
                f"{row.family}: {row.name}: {row.layers} layers, {row.seconds} s, {row.reasons or 'all well'}",
                flush=True,
            )
    rows = [known[entry.family, entry.name] for entry in listed]
    chosen.page.write_text(page(rows), encoding="utf-8")
    return int(any(row.layers is None for row in rows))


def _try_elsewhere(entry: Entry, chosen: argparse.Namespace) -> Row:
    """In a process with limits; the row of a process that was ended has what was known until then."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.matrix", entry.family, "--one", entry.name]
    command += ["--gigabytes", str(chosen.gigabytes), *(["--no-deploy"] if chosen.no_deploy else [])]
    why = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            printed, errors = process.communicate(timeout=chosen.seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, errors = process.communicate()
            why = f"not finished within {chosen.seconds} s"
    rows = [Row(**json.loads(line.removeprefix("ROW "))) for line in printed.splitlines() if line.startswith("ROW ")]
    row = rows[-1] if rows else Row(entry.family, entry.name)
    if process.returncode and not why:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        why = f"the process ended with {process.returncode}: {last[:200]}"
    if why:
        row.reasons["ended"] = why
    return row


def _try_here(entry: Entry, chosen: argparse.Namespace) -> int:
    import torch

    torch.set_num_threads(1)
    limit = int(chosen.gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    attempt(entry, lambda row: print("ROW", json.dumps(row.to_json()), flush=True), deploy=not chosen.no_deploy)
    return 0


def _read(path: Path) -> Iterator[Row]:
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield Row(**json.loads(line))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
