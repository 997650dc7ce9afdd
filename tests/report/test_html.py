from __future__ import annotations

from dataclasses import replace

from sensitivity.report.html import fragment
from sensitivity.study import read
from tests.made_studies import make_study, random_study
from tests.report.page.reader import Reader

EVIL = "<script>alert('x')</script>&\""


def test_a_notebook_shows_facts_and_worst_layers() -> None:
    study = random_study(25)
    reader = Reader(fragment(read(study)))
    assert len(reader.tables) == 1
    assert len(reader.tables[0]) == 1 + 10
    drops = [float(row[4]) for row in reader.tables[0][1:]]
    assert drops == sorted(drops, reverse=True)
    assert "miou 78.50 %" in fragment(read(study))


def test_text_in_a_notebook_is_escaped() -> None:
    study = make_study([0.1, None], model=EVIL, task=EVIL)
    study = replace(study, layers=(replace(study.layers[0], kind=EVIL, role=EVIL), study.layers[1]))
    text = fragment(read(study))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 4
