"""What mkdocs does not do by itself: pages that lie outside docs/, and links to files that are no pages.

The READMEs of the examples, the notebooks, the changelog and CONTRIBUTING.md stay where a reader of the repository
looks for them, and become pages of the site. A link from any page to one of them leads to its page; a link to a source
file becomes the file's path, because this project has no public address where the file could be shown. A link to what
does not exist is a warning, and so an error with ``--strict``.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CODE_OR_LINK = re.compile(
    r"(?P<code>^```.*?^```|`[^`\n]+`)"
    r"|(?P<picture>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)",
    flags=re.MULTILINE | re.DOTALL,
)
COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*m")
log = get_plugin_logger(__name__)


@cache
def pages_outside_docs() -> dict[Path, str]:
    """File in the repository to its place in the site."""
    pages = {ROOT / "CHANGELOG.md": "changelog.md", ROOT / "CONTRIBUTING.md": "contributing.md"}
    for readme in sorted(ROOT.glob("examples/*/README.md")):
        pages[readme] = f"examples/{readme.parent.name}.md"
    for notebook in sorted(ROOT.glob("notebooks/*.ipynb")):
        pages[notebook] = f"notebooks/{notebook.stem}.md"
    return pages


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for source, place in pages_outside_docs().items():
        if source.suffix == ".ipynb":
            add_notebook(files, config, source, place)
        else:
            files.append(File.generated(config, place, content=source.read_text(encoding="utf-8")))
    return files


def add_notebook(files: Files, config: MkDocsConfig, source: Path, place: str) -> None:
    """A notebook with the outputs that were saved in it; its pictures become files beside the page."""
    text, resources = MarkdownExporter().from_filename(str(source))
    for name, picture in resources["outputs"].items():
        unique = f"{source.stem}_{name}"
        text = text.replace(f"({name})", f"({unique})")
        files.append(File.generated(config, f"notebooks/{unique}", content=picture))
    files.append(File.generated(config, place, content=COLOUR_CODE.sub("", text)))


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Lead links to where the site has the file."""
    place = page.file.src_uri
    sources = {where: source for source, where in pages_outside_docs().items()}
    source = sources.get(place, DOCS / place)
    return CODE_OR_LINK.sub(lambda link: link_in_site(link, source, place), markdown)


def link_in_site(link: re.Match[str], source: Path, place: str) -> str:
    """The link as the page at ``place`` must write it; ``source`` is the file that the page was read from."""
    picture, text, target, anchor = (link[part] or "" for part in ("picture", "text", "target", "anchor"))
    if link["code"] or not target or "://" in target or (picture and place.startswith("notebooks/")):
        return link[0]
    path = Path(os.path.normpath(source.parent / target))
    if not path.exists():
        log.warning("%s links %s, which does not exist", source.relative_to(ROOT), target)
        return text
    outside = pages_outside_docs()
    if path not in outside and not path.is_relative_to(DOCS):
        return text if "`" in text else f"{text} (`{path.relative_to(ROOT)}`)"
    target_place = outside.get(path) or path.relative_to(DOCS).as_posix()
    relative = os.path.relpath(target_place, os.path.dirname(place) or ".")
    return f"{picture}[{text}]({relative}{anchor})"
