from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sensitivity.errors import StudyError
from sensitivity.records import SkippedModule
from sensitivity.records.results.latency import Latency
from sensitivity.report.tables.text import Extract, latex, markdown, rst, summary
from sensitivity.study import Study, read
from tests.made_studies import make_study, random_study, with_intervals, with_second_recipe

Golden = Callable[[str, str], None]


@pytest.fixture
def study() -> Study:
    return with_intervals(make_study([0.0431, 0.0004, None, -0.002, 0.12, 0.03, 0.0]))


@pytest.fixture
def awkward() -> Study:
    """Names with every character that markdown, LaTeX or reStructuredText reads as markup."""
    study = make_study([0.1, None])
    layer = replace(study.layers[0], name="a_b|c*:0:0", kind="50%_&#${x}~^\\", role="`code`<b>[x]")
    failed = replace(study.measurements[1], reason="line one\nline two | with_bar")
    first = replace(study.measurements[0], layer=layer.name)
    skipped = (SkippedModule("head.unused|x", "never * called"),)
    return replace(study, layers=(layer, study.layers[1]), measurements=(first, failed), skipped=skipped)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("\\|", "").strip("|").split("|")]


def test_markdown_is_as_it_was(study: Study, golden: Golden) -> None:
    golden("study.md", markdown(read(study)) + "\n")


def test_every_line_of_markdown_has_as_many_cells_as_the_header(study: Study, awkward: Study) -> None:
    for shown in (study, awkward):
        lines = markdown(read(shown)).splitlines()
        assert len(lines) == 2 + len(shown.layers) + len(shown.skipped)
        assert {len(cells(line)) for line in lines} == {len(cells(lines[0]))}
    assert len({len(line) for line in markdown(read(study)).splitlines()}) == 1, "columns are aligned"


def test_markdown_shows_the_drop_in_points_with_its_interval(study: Study) -> None:
    lines = markdown(read(study)).splitlines()
    header, first, failed = cells(lines[0]), cells(lines[2]), cells(lines[4])
    assert header[4:8] == ["drop (points)", "interval", "verdict", "miou (%)"]
    assert first[4:8] == ["4.31", "[3.37, 5.25]", "dip", "74.19"]
    assert failed[4:8] == ["–", "–", "–", "–"]
    assert failed[-1] == "failed: NaN in the output"


def test_markdown_without_intervals_has_no_column_for_them() -> None:
    assert "interval" not in markdown(read(make_study([0.1])))


def test_a_markdown_reader_finds_the_very_same_cells(awkward: Study) -> None:
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    html = parser.render(markdown(read(awkward)))
    assert "<td>a_b|c*:0:0</td>" in html
    assert "`code`&lt;b&gt;[x]" in html
    assert "line one line two | with_bar" in html
    assert "<em>" not in html


def test_latex_is_as_it_was(study: Study, golden: Golden) -> None:
    golden("study.tex", latex(read(study)) + "\n")


def test_latex_escapes_what_latex_reads_as_markup(awkward: Study) -> None:
    text = latex(read(awkward))
    body = text.split("\\endfoot\n")[1].split("\n\\end{longtable}")[0].splitlines()
    assert len(body) == 3
    assert all(line.endswith("\\\\") for line in body)
    assert "a\\_b|c*:0:0" in body[0]
    assert "50\\%\\_\\&\\#\\$\\{x\\}\\textasciitilde{}\\textasciicircum{}\\textbackslash{}" in body[0]
    columns = text.split("\\begin{longtable}{")[1].split("}")[0]
    assert all(line.replace("\\&", "").count("&") == len(columns) - 1 for line in body)


def test_rst_is_as_it_was(study: Study, golden: Golden) -> None:
    golden("study.rst", rst(read(study)) + "\n")


def test_a_docutils_reader_finds_the_very_same_cells(awkward: Study) -> None:
    core = pytest.importorskip("docutils.core")
    tree = core.publish_doctree(rst(read(awkward)), settings_overrides={"report_level": 1, "halt_level": 2})
    cells = [entry.astext() for entry in tree.findall() if entry.tagname == "entry"]
    assert "a_b|c*:0:0" in cells
    assert "`code`<b>[x]" in cells
    assert "failed: line one line two | with_bar" in cells


def test_every_row_of_rst_has_as_many_cells_as_the_header(study: Study) -> None:
    rows = rst(read(study)).split("   * - ")[1:]
    assert len(rows) == 1 + len(study.layers) + len(study.skipped)
    assert len({row.count("\n     - ") for row in rows}) == 1


@pytest.mark.parametrize("write", [markdown, latex, rst])
def test_several_recipes_are_told_apart_and_one_can_be_chosen(write: Callable[..., str]) -> None:
    study = with_second_recipe(make_study([0.1, 0.2]))
    assert write(read(study)).count("INT4") == write(read(study)).count("INT8") == 2
    assert "INT8" not in write(read(study), Extract("INT4"))
    assert "60.00" in write(read(study), Extract("INT4"))
    assert "60.00" not in write(read(study), Extract("INT8"))
    with pytest.raises(StudyError, match="no recipe 'FP8'"):
        write(read(study), Extract("FP8"))


def test_the_summary_is_as_it_was(study: Study, golden: Golden) -> None:
    golden("study.repr.txt", summary(read(study)) + "\n")


def test_the_summary_names_the_worst_layers_and_counts_all() -> None:
    study = random_study(30, failed=2)
    study = replace(study, measurements=study.measurements[:-1])
    lines = summary(read(study), worst=4).splitlines()
    measured = sum(m.drop is not None for m in study.measurements)
    assert lines[2].startswith(f"INT8: {measured} measured, {29 - measured} failed, 1 not analysed; ")
    assert len(lines) == 3 + 4 + len(study.notes)
    assert lines[-1] == f"note: {study.notes[-1]}"
    drops = [float(line.split("drop ")[1].split()[0]) for line in lines[3:7]]
    assert drops == sorted(drops, reverse=True)
    assert drops[0] == pytest.approx(100 * max(m.drop for m in study.measurements if m.drop is not None), abs=0.005)


@pytest.fixture
def hostile() -> Study:
    """Names and reasons that a reader of rst, markdown or LaTeX would obey."""
    study = make_study([0.1, 0.2, None])
    names = (".. include:: /etc/hostname:0:0", "[click](javascript:alert(1)):0:0", "*[3cm] \\input{/etc/hostname}:0:0")
    reason = ".. raw:: html see https://a.example www.a.example ![x](y) me@a.example \x1b[31m::"
    layers = tuple(replace(layer, name=name) for layer, name in zip(study.layers, names, strict=True))
    rows = [replace(row, layer=name) for row, name in zip(study.measurements, names, strict=True)]
    return replace(study, layers=layers, measurements=(*rows[:2], replace(rows[2], reason=reason)))


def test_a_docutils_reader_includes_and_executes_nothing(hostile: Study) -> None:
    core = pytest.importorskip("docutils.core")
    tree = core.publish_doctree(rst(read(hostile)), settings_overrides={"report_level": 1, "halt_level": 2})
    assert not [
        node.tagname for node in tree.findall() if node.tagname in ("raw", "literal_block", "image", "problematic")
    ]
    cells = [entry.astext() for entry in tree.findall() if entry.tagname == "entry"]
    assert ".. include:: /etc/hostname:0:0" in cells


@pytest.mark.parametrize(
    "cell", ["- a", "* a", "1. a", "a) b", "(i) b", "#. a", ":field: a", ">>> 1 + 1", "====", ".. _a:"]
)
def test_a_cell_of_rst_is_a_paragraph_with_the_same_text(cell: str) -> None:
    core = pytest.importorskip("docutils.core")
    study = make_study([None])
    study = replace(study, skipped=(SkippedModule(cell, "x"),))
    tree = core.publish_doctree(rst(read(study)), settings_overrides={"report_level": 1, "halt_level": 2})
    [entry] = [entry for entry in tree.findall() if entry.tagname == "entry" and entry.astext() == cell]
    assert [child.tagname for child in entry.children] == ["paragraph"]


def test_markdown_holds_no_link_and_no_picture(hostile: Study) -> None:
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    text = markdown(read(hostile))
    html = parser.render(text)
    assert "<a " not in html
    assert "<img" not in html
    assert "[click](javascript:alert(1)):0:0" in html
    assert "://" not in text
    assert "www." not in text
    assert "\x1b" not in text


def test_markdown_has_no_link_also_where_no_reader_is_installed(hostile: Study) -> None:
    assert "](" not in markdown(read(hostile))


def test_latex_takes_no_cell_for_an_argument_and_reads_no_file(hostile: Study) -> None:
    text = latex(read(hostile))
    assert "\\input" not in text
    body = text.split("\\endfoot\n")[1].splitlines()
    assert not [line for line in body if line.startswith(("[", "*"))]


def test_metrics_are_columns_with_the_drop_in_percent_of_the_baseline_parameters_and_flops() -> None:
    study = make_study([0.157, None], baseline=0.785)
    measured = replace(study.measurements[0], metrics={"miou": 0.628, "miou_small": 0.5})
    layers = tuple(replace(layer, parameters=1_000, macs=2_500_000_000) for layer in study.layers)
    study = replace(study, measurements=(measured, study.measurements[1]), layers=layers)
    header, _, baseline, first, failed = map(cells, study.to_markdown(metrics=True).splitlines())
    assert header == ["layer", "drop (points)", "drop (%)", "miou (%)", "miou\\_small (%)", "parameters", "FLOPs (G)"]
    assert baseline == ["baseline", "–", "–", "78.50", "73.50", "2,000", "5"]
    assert first == [layers[0].name, "15.70", "20.00", "62.80", "50.00", "1,000", "2.5"]
    assert failed == [layers[1].name, "–", "–", "–", "–", "1,000", "2.5"]


def test_metrics_show_seconds_of_a_run_with_one_layer_quantized() -> None:
    study = make_study([0.1])
    name = study.layers[0].name
    latency = Latency("TinyNet", study.recipes["INT8"], "openvino", 0.02, 0.05, {name: (0.01, 0.03)})
    rows = [cells(line) for line in study.with_latency(latency).to_markdown(metrics=True).splitlines()]
    assert [row[-1] for row in (rows[0], rows[2], rows[3])] == ["s/run", "0.05", "0.03"]


@pytest.mark.parametrize("write", ["to_latex", "to_rst"])
def test_metrics_are_printed_in_every_format(write: str) -> None:
    study = with_second_recipe(make_study([0.157, 0.01]))
    assert "miou_small" in getattr(study, write)(metrics=True).replace("\\_", "_")
    assert "miou_small" not in getattr(study, write)()
    assert len(getattr(study, write)(metrics=True, recipe="INT8")) < len(getattr(study, write)(metrics=True))


def test_top_shows_the_worst_layers_first() -> None:
    study = Study.of(make_study([0.1, 0.5, 0.3]))
    names = [layer.name for layer in study.layers]
    rows = study.to_markdown(top=2).splitlines()[2:]
    assert [cells(row)[0] for row in rows] == [names[1], names[2]]
    rows = study.to_markdown(top=2, metrics=True).splitlines()[2:]
    assert [cells(row)[0] for row in rows if cells(row)[0] in names] == [names[1], names[2]]


def test_more_layers_than_there_are_are_all_of_them() -> None:
    study = Study.of(make_study([0.1, 0.5, 0.3]))
    assert len(study.to_markdown(top=9).splitlines()) == 2 + 3


@pytest.mark.parametrize("write", ["to_markdown", "to_latex", "to_rst"])
def test_a_top_below_one_is_refused(write: str) -> None:
    with pytest.raises(StudyError, match="top=0: give a number of layers from 1 on"):
        getattr(Study.of(make_study([0.1])), write)(top=0)


def test_a_caption_stands_above_the_table_and_is_escaped() -> None:
    study = Study.of(make_study([0.1, 0.5]))
    assert study.to_markdown(caption="a|b\nc").startswith("a\\|b c\n\n| layer")
    assert "\\caption{50\\% \\& more} \\\\\n\\toprule" in study.to_latex(caption="50% & more")
    assert study.to_rst(caption="*all* of it").startswith(".. list-table:: \\*all\\* of it\n   :header-rows: 1\n")


def test_a_caption_of_its_own_says_what_was_measured() -> None:
    study = Study.of(make_study([0.1, 0.5]))
    first = study.to_markdown(caption=True, top=1).splitlines()[0]
    assert study.model in first
    assert "the 1 layers with the largest drops" in first
    assert f"on {study.baseline.images} images" in first
