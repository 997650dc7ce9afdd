"""Changed images in words and as drawings, made by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sensitivity.records import Scheme
from sensitivity.records.results.changed_images import ChangedImage, ChangedImagesRecord, ImageResult, SeenBox
from sensitivity.report.images import figures, sentence, summary
from sensitivity.report.page.images_page import images_page
from sensitivity.report.page.study_page import Beside, study_page
from sensitivity.report.page.tuned_page import tuned_page
from sensitivity.study import read
from tests.made_studies import INT8, random_study
from tests.report.page.browser import run_in_page
from tests.report.page.made import TUNED
from tests.report.page.reader import Reader

EVIL = "<script>alert('x')</script>&\".jpg"


def encoded(form: str, size: tuple[int, int] = (32, 24)) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(stream, form)
    return stream.getvalue()


CAT, MOVED = SeenBox("cat", 0.91, (5.0, 5.0, 25.0, 35.0)), SeenBox("cat", 0.82, (5.0, 5.0, 25.0, 36.0))
DOG, HAT = SeenBox("dog", 0.5, (40.0, 10.0, 75.0, 50.0)), SeenBox("hat", 0.44, (0.0, 0.0, 9.0, 9.0))
BOXES = ChangedImage(
    7, "street.jpg", 80, 60, encoded("JPEG"), ImageResult(1.0, boxes=(CAT, DOG)), ImageResult(0.5, boxes=(MOVED, HAT))
)
PIXELS = ChangedImage(
    2, "field.png", 80, 60, encoded("JPEG", (40, 30)), ImageResult(0.75), ImageResult(0.5),
    changed_pixels=0.125, overlay=encoded("PNG"),
)  # fmt: skip
ANSWER = ChangedImage(
    3, "cat/3.png", 80, 60, encoded("JPEG", (16, 12)), ImageResult(1.0, "cat"), ImageResult(0.0, "dog"), "cat"
)
RECORD = ChangedImagesRecord("TinyNet", "scenes", "AP", "%", True, Scheme.all(INT8), 50, 0.3, (BOXES, PIXELS, ANSWER))


def test_each_image_is_told_in_a_sentence() -> None:
    assert sentence(RECORD, BOXES) == (
        "street.jpg: AP of this image 100.0 %, then 50.0 % (-50.0 points); 2 boxes with a score of 0.3 or more, then "
        "2; lost: dog 0.50; new: hat 0.44"
    )
    assert sentence(RECORD, PIXELS).endswith("(-25.0 points); 12.5% of the pixels get another class or object")
    assert sentence(RECORD, ANSWER).endswith("(-100.0 points); answer cat, then dog (true: cat)")
    decibels = replace(RECORD, unit="dB", metric="SQNR")
    assert "SQNR of this image 1.0 dB, then 0.5 dB (-0.5 dB)" in sentence(decibels, BOXES)
    assert "AP of this image unknown %" in sentence(RECORD, replace(BOXES, before=ImageResult(None)))


def test_the_summary_says_how_many_were_compared() -> None:
    first, *others = summary(RECORD).splitlines()
    assert first == "TinyNet on scenes, quantized with INT8: the 3 of 50 images whose own AP changes most"
    assert len(others) == 3


def test_more_boxes_than_can_be_named_are_counted() -> None:
    many = tuple(SeenBox("cat", 0.9, (10.0 * place, 0.0, 10.0 * place + 5.0, 5.0)) for place in range(9))
    assert "lost: cat 0.90, cat 0.90, cat 0.90, cat 0.90, cat 0.90, cat 0.90 and 3 more" in sentence(
        RECORD, replace(BOXES, before=ImageResult(1.0, boxes=many), after=ImageResult(0.0))
    )


def test_each_panel_draws_what_stays_and_what_is_lost_or_new() -> None:
    text = figures(replace(RECORD, shown=(BOXES,)))
    before, after = text.split("</svg>")[:2]
    assert [before.count(f'class="{look}"') for look in ("same", "lost", "new")] == [1, 1, 0]
    assert [after.count(f'class="{look}"') for look in ("same", "lost", "new")] == [1, 0, 1]
    assert "lost: dog 0.50" in before
    assert 'x="40" y="10" width="35" height="40"' in before
    assert "new: hat 0.44" in after
    assert "cat 0.82" in after
    assert text.count("data:image/jpeg") == 1  # the second panel uses the picture of the first
    assert figures(replace(RECORD, shown=(PIXELS,))).count('class="overlay"') == 1


def test_names_are_escaped_and_the_page_leads_nowhere() -> None:
    evil = replace(BOXES, name=EVIL, before=ImageResult(1.0, EVIL, (replace(CAT, label=EVIL),)))
    text = images_page(replace(RECORD, shown=(evil,)))
    reader = Reader(text)
    assert text.count("<script") == 2  # data and the page's own: without charts there is no plotting library
    assert len(text) < 100_000
    assert "<script>alert" not in text
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in reader.links)
    assert "https://" not in text


def test_the_pages_of_a_search_and_of_a_study_show_them() -> None:
    for text in (tuned_page(TUNED, RECORD), study_page(read(random_study(12)), None, Beside(changed_images=RECORD))):
        assert text.count("<figure") == 3
        assert ">Images that change most</h2>" in text
    assert "<figure" not in tuned_page(TUNED)


STEPS = """
const drawings = [...document.querySelectorAll('figure svg')];
kept.sizes = drawings.map((drawing) => [drawing.clientWidth > 100, drawing.clientHeight > 75]);
kept.boxes = drawings.slice(0, 2).map((drawing) => drawing.querySelectorAll('rect:not(.under)').length);
kept.dashes = drawings.slice(0, 2).map((drawing) => [...drawing.querySelectorAll('rect:not(.under)')]
  .map((rect) => getComputedStyle(rect).strokeDasharray));
kept.names = drawings.map((drawing) => drawing.getAttribute('aria-label'));
kept.tops = drawings.slice(0, 2).map((drawing) => Math.round(drawing.getBoundingClientRect().top));
kept.overflow = document.documentElement.scrollWidth - innerWidth;
kept.requests = performance.getEntriesByType('resource').map((entry) => entry.name)
  .filter((name) => !name.startsWith('data:'));
"""


@pytest.mark.parametrize(("width", "beside"), [(1200, True), (390, False)])
def test_a_browser_draws_the_panels_beside_each_other_or_on_a_narrow_screen_below(
    width: int, beside: bool, tmp_path: Path
) -> None:
    page: dict[str, Any] = run_in_page(images_page(RECORD), STEPS, tmp_path, width=width)
    assert page["errors"] == []
    assert page["requests"] == []
    assert page["sizes"] == [[True, True]] * 6
    assert page["boxes"] == [2, 2]
    assert page["dashes"] == [["none", "7px, 4px"], ["none", "2px, 3px"]]
    assert page["names"][:2] == ["street.jpg in float", "street.jpg quantized"]
    assert (page["tops"][0] == page["tops"][1]) is beside
    assert page["overflow"] <= 0
