from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import pytest

from sensitivity.errors import StudyError
from sensitivity.report.figures.dips import dips
from sensitivity.report.figures.picture import Picture
from sensitivity.study import read
from tests.made_studies import random_study


def drawn() -> Picture:
    return dips(read(random_study(10)))


MAGIC = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF-"}


@pytest.mark.parametrize("ending", MAGIC)
def test_a_figure_is_saved_in_the_format_its_path_asks_for(tmp_path: Path, ending: str) -> None:
    for name in (f"a.{ending}", f"b.{ending.upper()}"):
        drawn().write(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        assert content.startswith(MAGIC[ending])
        assert len(content) > 5000


@pytest.mark.parametrize("name", ["dips", "dips.jpeg", "dips.png.gz"])
def test_an_unknown_ending_is_an_error_that_names_the_known(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match=r"\.png, \.svg, \.pdf"):
        drawn().write(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_notebook_finds_a_picture_without_pyplot() -> None:
    assert drawn()._repr_png_().startswith(MAGIC["png"])


def test_svg_is_one_sound_element_and_the_same_every_time() -> None:
    first, second = (drawn().to_svg() for _ in range(2))
    assert first == second
    assert ElementTree.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    figure = drawn()
    figure.to_svg()
    figure._repr_png_()
    assert dict(matplotlib.rcParams) == before


def test_drawing_touches_neither_pyplot_nor_the_backend(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.made_studies import random_study; "
        f"random_study(10).plot({str(tmp_path / 'a.png')!r}); "
        "import matplotlib; backend = dict.__getitem__(matplotlib.rcParams, 'backend'); "  # looked at, not resolved
        "print('matplotlib.pyplot' in sys.modules, isinstance(backend, str))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
