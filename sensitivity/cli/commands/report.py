"""``sensitivity report``: a study as a page, a table, a picture. Needs no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sensitivity.cli.arguments import add_imports, add_json, add_tolerance
from sensitivity.cli.output import Answer, writing
from sensitivity.errors import StudyError
from sensitivity.records.results.changed_images import ChangedImagesRecord
from sensitivity.records.results.diagnosis import DiagnosisRecord
from sensitivity.records.results.tuned import TunedRecord
from sensitivity.records.results.verification import VerificationRecord
from sensitivity.records.storage.files import write_text
from sensitivity.records.storage.saved import Saved
from sensitivity.study import Study

PICTURES = (".png", ".svg", ".pdf")
TEXTS: dict[str, Callable[..., str]] = {".md": Study.to_markdown, ".tex": Study.to_latex, ".rst": Study.to_rst}
USUAL = (".html", ".md", ".png")
BESIDE: dict[str, tuple[str, Callable[[Path], Saved]]] = {
    "diagnosis": ("diagnose", DiagnosisRecord.load),
    "tuned": ("tune", TunedRecord.load),
    "verification": ("verify", VerificationRecord.load),
    "changed-images": ("sv.ChangedImages.save", ChangedImagesRecord.load),
}
"""What else may be on the page: the command that writes it, and what reads it."""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "report",
        help="write a study as a page, a table and a picture",
        description="Write what a study found. Without --out: a page, a table and a picture beside the study.",
    )
    parser.add_argument("study", type=Path, metavar="STUDY.json", help="what analyze wrote")
    parser.add_argument(
        "--out",
        action="append",
        type=Path,
        metavar="FILE",
        help="where to write; the ending says what: .html .md .tex .rst .png .svg .pdf; may be given again",
    )
    parser.add_argument("--recipe", metavar="NAME", help="one recipe of the study; all of them without this")
    for name, (maker, _) in BESIDE.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"what {maker} wrote, for the page")
    parser.add_argument("--other", type=Path, metavar="B.json", help="another study to compare with, for the page")
    parser.add_argument("--other-recipe", metavar="NAME", help="the recipe of B.json, where it has several")
    add_tolerance(parser)
    add_imports(parser)
    add_json(parser, "the files written")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Answer:
    """Run the command."""
    unknown = [path for path in options.out or () if path.suffix not in (".html", *TEXTS, *PICTURES)]
    if unknown:
        raise StudyError(
            f"{unknown[0]} has no ending that says what to write. Use one of {' '.join(['.html', *TEXTS, *PICTURES])}."
        )
    study = Study.load(options.study)
    if options.tolerance is not None:
        study = study.with_tolerance(options.tolerance)
    beside = _beside(options)
    targets = options.out or [options.study.with_suffix(ending) for ending in USUAL]
    for target in targets:
        with writing(target):
            _write(study, target, options.recipe, beside)
    text = "\n".join([str(study), *(f"wrote {target}" for target in targets)])
    return Answer(text, {"written": [str(path) for path in targets]})


def _beside(options: argparse.Namespace) -> dict[str, Any]:
    """What else is on the page, by keyword of ``Study.to_html``."""
    beside: dict[str, Any] = {
        name.replace("-", "_"): load(path)
        for name, (_, load) in BESIDE.items()
        if (path := getattr(options, name.replace("-", "_"))) is not None
    }
    if options.other is not None:
        beside |= {"other": Study.load(options.other), "other_recipe": options.other_recipe}
    return beside


def _write(study: Study, target: Path, recipe: str | None, beside: dict[str, Any]) -> None:
    if target.suffix == ".html":
        study.to_html(target, recipe=recipe, **beside)
    elif target.suffix in PICTURES:
        study.plot(target, recipe=recipe)
    else:
        write_text(target, TEXTS[target.suffix](study, recipe=recipe))
