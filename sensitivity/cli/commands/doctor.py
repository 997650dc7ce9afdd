"""``sensitivity doctor``: what works on this machine, and why the rest does not."""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import asdict
from functools import partial

from sensitivity import __version__
from sensitivity.cli.arguments import add_imports
from sensitivity.cli.output import FAILED, Answer
from sensitivity.deploy.doctor.machine import MachineFinding, examine
from sensitivity.deploy.engines.registry import engine_names


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="say which engines work on this machine, and why not",
        description="Try every engine on this machine, and say what is missing. With names: fail unless these work.",
    )
    parser.add_argument(
        "engines",
        nargs="*",
        metavar="ENGINE",
        help=f"{', '.join(engine_names())}, or one that an imported module registers",
    )
    add_imports(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=partial(run, parser))


def run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Answer:
    """Run the command."""
    unknown = [name for name in arguments.engines if name not in engine_names()]
    if unknown:
        parser.error(f"no engine is called {unknown[0]!r}; choose of {', '.join(engine_names())}, or give --import")
    findings = examine()
    versions = {"sensitivity": __version__, "python": platform.python_version(), "platform": platform.platform()}
    head = f"sensitivity {__version__}, Python {versions['python']} ({sys.executable}), {versions['platform']}"
    text = "\n".join([head, *map(_line, findings)])
    broken = [finding for finding in findings if finding.name in arguments.engines and not finding.works]
    complaint = f"{broken[0].name} does not work here: {broken[0].note}" if broken else ""
    plain = versions | {"findings": [asdict(finding) for finding in findings]}
    return Answer(text, plain, FAILED if broken else 0, complaint)


def _line(finding: MachineFinding) -> str:
    version = f" {finding.version}" if finding.version else ""
    return f"{'works' if finding.works else '  no '}  {finding.name + version:<24}  {finding.note}".rstrip()
