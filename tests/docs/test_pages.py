"""The pages of docs/: every snippet runs, every command is one that exists, every link leads somewhere."""

from __future__ import annotations

import doctest
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest

import sensitivity as sv
from sensitivity.cli.main import whole_parser
from tests.docs.stages import STAGES

REPOSITORY = Path(__file__).resolve().parents[2]

ELSEWHERE = {"howto/extend"}  # tests/test_extending.py runs it, and takes back what it registers
DOCS = sorted(REPOSITORY.glob("docs/**/*.md"))
LINKING = [REPOSITORY / "README.md", *DOCS, *sorted(REPOSITORY.glob("examples/*/README.md"))]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def remark(page: Path, kind: str) -> list[str]:
    """The words of a comment such as ``<!-- stage: net -->``."""
    return [
        word
        for words in re.findall(rf"^<!-- {kind}: (.+?) -->$", text_of(page), re.MULTILINE)
        for word in words.split()
    ]


def snippets(page: Path) -> list[tuple[int, str]]:
    """Python blocks that are no dialogue, with the line at which each begins."""
    text = text_of(page)
    blocks = re.finditer(r"^( *)```python\n(.*?)^\1```", text, flags=re.MULTILINE | re.DOTALL)
    sources = [(text.count("\n", 0, block.start(2)), textwrap.dedent(block[2])) for block in blocks]
    return [(line, source) for line, source in sources if not source.startswith(">>>")]


def run_snippets(page: Path, names: dict[str, Any]) -> None:
    """Run the blocks of a page one after the other, with the page's own line numbers in tracebacks."""
    for line, source in snippets(page):
        exec(compile("\n" * line + source, page.name, "exec"), names)


def run_dialogues(page: Path) -> None:
    """Run what stands behind ``>>>``, from nothing, and compare what it prints."""
    failed, _ = doctest.testfile(str(page), module_relative=False)
    assert failed == 0, "see what doctest printed"


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY / "docs").with_suffix(""))


RUNNING = [page for page in DOCS if "```python" in text_of(page) and name_of(page) not in ELSEWHERE]


@pytest.mark.parametrize("page", RUNNING, ids=name_of)
def test_every_snippet_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in remark(page, "needs"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    run_dialogues(page)
    names: dict[str, Any] = {"__name__": "page"}
    for stage in remark(page, "stage"):
        names |= STAGES[stage](tmp_path)
    run_snippets(page, names)


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", text_of(page), flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("sensitivity ")]


@pytest.mark.parametrize("page", [page for page in LINKING if commands(page)], ids=lambda page: page.stem)
def test_every_command_of_a_page_is_understood(page: Path) -> None:
    for line in commands(page):
        words = shlex.split(re.split(r" (?:>|\||&&) ", line)[0], comments=True)[1:]  # not where the shell sends it
        try:
            whole_parser().parse_args(words)
        except SystemExit as end:
            pytest.fail(f"{page.name} shows {line!r}, which ends with {end.code}")


def anchors(page: Path) -> set[str]:
    """What a link to a part of a page may end in: its headings in small letters, with hyphens for blanks."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[-\s]+", "-", heading) for heading in words}


def test_every_test_that_a_page_names_exists() -> None:
    """As ``tests/file.py::test_name``; TC stands for the contract tests of TensorRT."""
    short = {"TC": "tests/deploy/engines/trt/contract/test_calls.py"}
    named = [pair for page in DOCS for pair in re.findall(r"`(TC|tests/[\w/]+\.py)::(test_\w+)`", text_of(page))]
    assert named
    for file, test in named:
        assert f"def {test}(" in text_of(REPOSITORY / short.get(file, file)), f"{file} has no {test}"


def test_every_link_leads_somewhere() -> None:
    for page in LINKING:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]+))?\)", text_of(page)):
            if "://" in target:
                continue
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.relative_to(REPOSITORY)} links {target}"
            if anchor and linked.suffix == ".md":
                assert anchor in anchors(linked), f"{page.relative_to(REPOSITORY)} links {target}#{anchor}"


MOVED = {
    "concepts/confidence": "what-is-measured the-bounds-and-when-they-are-valid "
    "what-it-saves-and-what-the-intervals-hold metrics-that-are-no-mean why-no-control-variate-makes-ap-sharper",
    "concepts/deploy": "layers-that-are-not-quantized a-graph-in-fp16 what-verify-compares what-was-run "
    "a-deployment-in-a-folder other-batch-and-image-sizes a-latency-budget",
    "concepts/quantization": "observers layers-that-run-several-times calibration-files signals-without-labels "
    "estimates cures",
    "concepts/sweep": "where-other-processes-other-machines small-jobs end-to-end what-five-models-cost-on-coco",
    "get_started": "6-deploy-and-check-that-it-is-true",
    "recipes": "what-the-table-says",
}
"""Parts that pages had before they were split or their headings changed: links of readers lead there."""


@pytest.mark.parametrize("page", MOVED)
def test_old_links_to_parts_that_moved_still_lead_to_them(page: str) -> None:
    text = text_of(REPOSITORY / "docs" / f"{page}.md")
    targets = re.findall(r'<a id="([^"]+)"></a>', text)
    assert targets == MOVED[page].split()
    assert not anchors(REPOSITORY / "docs" / f"{page}.md") & set(targets), "two places of one name"


def test_the_reference_describes_every_public_name_once() -> None:
    described = [name for page in DOCS for name in re.findall(r"^::: sensitivity\.(\w+)$", text_of(page), re.MULTILINE)]
    assert sorted(set(sv.__all__) - set(described) - {"__version__"}) == [], "add them to a page of docs/reference/"
    assert sorted(name for name in described if described.count(name) > 1) == []


def test_every_page_is_in_the_menu_of_the_site() -> None:
    menu = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    outside = [f"examples/{page.parent.name}" for page in REPOSITORY.glob("examples/*/README.md")]
    assert [name for name in [*map(name_of, DOCS), *outside] if f"{name}.md" not in menu] == []


def test_pages_that_need_a_family_of_networks_are_run_where_its_extra_is() -> None:
    session = (REPOSITORY / "noxfile.py").read_text(encoding="utf-8").split("def connectors(")[1].split("@nox")[0]
    needing = {page.stem for page in DOCS if remark(page, "needs")}
    assert needing
    assert [page for page in needing if page not in session] == []
