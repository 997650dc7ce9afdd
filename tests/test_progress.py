"""What is told of a long job: a bar where a person is watching, a line now and then in a log."""

from __future__ import annotations

import sys
import types
import warnings
from typing import Any

import pytest

from sensitivity import progress
from sensitivity.progress import watching


class Page:
    """What a browser would show: the HTML of one output, which is replaced when it is updated."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def display(self, content: str, *, display_id: bool) -> Page:
        assert display_id
        self.update(content)
        return self

    def update(self, content: str) -> None:
        self.shown.append(content)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    """A notebook without ipywidgets."""
    page = Page()
    stand_in: Any = types.ModuleType("IPython.display")
    stand_in.HTML, stand_in.display = str, page.display
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", stand_in)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(progress, "UPDATE_EVERY_S", 0.0)
    return page


def test_a_notebook_shows_a_bar_without_ipywidgets_and_without_a_warning(page: Page) -> None:
    with warnings.catch_warnings(record=True) as caught, watching(10, None) as watch:
        assert watch is not None
        watch(4, 10, "stage3:0:1 <worst>")
    assert caught == []
    assert page.shown[0].startswith('<progress value="0" max="10">')
    assert '<progress value="4" max="10"></progress> <code>4/10, 0 s</code> stage3:0:1 &lt;worst&gt;' in page.shown


def test_the_bar_of_a_notebook_ends_at_the_last_step_although_updates_are_rare(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "UPDATE_EVERY_S", 3600.0)
    with watching(3, True) as watch:
        assert watch is not None
        for done in (1, 2, 3):
            watch(done, 3, "head")
    assert [text.split(">")[0] for text in page.shown] == ['<progress value="0" max="3"', '<progress value="3" max="3"']


def test_steps_whose_number_is_not_known_are_counted(page: Page) -> None:
    with watching(None, True) as watch:
        assert watch is not None
        watch(7, 0, "calibration")
    assert page.shown[-1] == "<progress></progress> <code>7, 0 s</code> calibration"


def test_nobody_is_told_where_no_bar_is_wanted(page: Page) -> None:
    with watching(10, False) as watch:
        assert watch is None
    assert page.shown == []


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("sensitivity.progress.time.monotonic", clock)
    return clock


def test_without_a_terminal_a_line_is_written_every_half_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with watching(200, None) as watch:
        assert watch is not None
        for seconds in range(0, 100, 5):
            clock.now = 100.0 + seconds
            watch(2 * seconds, 200, f"layer{seconds}  ")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "60 of 200 after 30 s: layer30",
        "120 of 200 after 60 s: layer60",
        "180 of 200 after 90 s: layer90",
    ]


def test_a_short_job_says_nothing_without_a_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with watching(None, None) as watch:
        assert watch is not None
        clock.now += 29.0
        watch(3, 0, "layer")
        assert capsys.readouterr().err == ""
        clock.now += 1.0
        watch(4, 0, "layer")
    assert capsys.readouterr().err == "4 after 30 s: layer\n"
