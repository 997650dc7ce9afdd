"""``sensitivity demo``: the whole story on generated scenes, with a model that ships with the library."""

from __future__ import annotations

import argparse
from pathlib import Path

from sensitivity.cli.output import Answer

SCENES = 32
FOLDER = Path("sensitivity-demo")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="analyse, diagnose and tune a small model on generated scenes, about half a minute, no network",
        description="Quantize every layer of a small EfficientViT-SAM, one at a time, see what breaks and why, cure "
        "what can be cured, and measure the result. Needs nothing but this package: the scenes are drawn, the weights "
        "ship with it.",
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=FOLDER, help="where to write the results (default: ./%(default)s)"
    )
    parser.add_argument(
        "--scenes", type=int, default=SCENES, metavar="N", help="scenes to score on (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    from sensitivity.demo.run import run_demo  # torch is not loaded before it is needed: --help answers at once

    run_demo(options.folder, scenes=options.scenes)  # tells its story itself
    return Answer()
