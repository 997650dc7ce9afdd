"""``sensitivity doctor``: what works on this machine, and why the rest does not."""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import asdict

from sensitivity import __version__
from sensitivity.cli.output import FAILED, Answer
from sensitivity.deploy.doctor.machine import Finding, examine
from sensitivity.deploy.engines.registry import engine_names


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="say which engines work on this machine, and why not",
        description="Try every engine on this machine, and say what is missing. With names: fail unless these work.",
    )
    parser.add_argument("engines", nargs="*", type=engine, metavar="ENGINE", help=", ".join(engine_names()))
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def engine(text: str) -> str:
    """The name of an engine; for argparse."""
    if text not in engine_names():
        raise argparse.ArgumentTypeError(f"no engine is called {text!r}; choose of {', '.join(engine_names())}")
    return text


def run(given: argparse.Namespace) -> Answer:
    """Run the command."""
    found = examine()
    here = {"sensitivity": __version__, "python": platform.python_version(), "platform": platform.platform()}
    head = f"sensitivity {__version__}, Python {here['python']} ({sys.executable}), {here['platform']}"
    text = "\n".join([head, *map(_line, found)])
    broken = [one for one in found if one.name in given.engines and not one.works]
    complaint = f"{broken[0].name} does not work here: {broken[0].note}" if broken else ""
    plain = here | {"findings": [asdict(one) for one in found]}
    return Answer(text, plain, FAILED if broken else 0, complaint)


def _line(finding: Finding) -> str:
    version = f" {finding.version}" if finding.version else ""
    return f"{'works' if finding.works else '  no '}  {finding.name + version:<24}  {finding.note}".rstrip()
