from __future__ import annotations

from sensitivity.markup.elements import Markup, breakable, described, element, escaped, html_table, joined, listed
from tests.report.page.reader import Reader

EVIL = "<script>alert('x')</script>&\""


def test_text_is_escaped_once_in_content_and_attributes() -> None:
    inner = element("b", EVIL, title=EVIL)
    assert inner == (
        '<b title="&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;&quot;">'
        "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;&quot;</b>"
    )
    assert element("p", inner) == f"<p>{inner}</p>"
    assert escaped(Markup("<i>")) == "<i>"


def test_text_beside_html_is_still_escaped() -> None:
    assert joined(element("i", "a"), "<b>", between=", ") == "<i>a</i>, &lt;b&gt;"
    assert str(Markup("<i>") + "<b>") == "<i><b>"  # a plain text again, which is escaped as a whole
    assert element("p", Markup("<i>") + "<b>") == "<p>&lt;i&gt;&lt;b&gt;</p>"


def test_attributes_are_named_as_in_html_and_left_out_where_absent() -> None:
    written = element("div", class_="a", data_row=3, hidden=True, id=None, title=False, aria_label="x")
    assert written == '<div class="a" data-row="3" hidden aria-label="x"></div>'
    assert element("input", type="search") == '<input type="search">'


def test_lists_escape_and_an_empty_list_is_nothing() -> None:
    assert listed(["a<", "b"]) == "<ul><li>a&lt;</li><li>b</li></ul>"
    assert listed([]) == ""
    assert described([("a", "b<")]) == "<dl><dt>a</dt><dd>b&lt;</dd></dl>"


def test_a_path_is_broken_behind_its_dots_and_nowhere_else() -> None:
    assert breakable("net.stages.0<") == "net.<wbr>stages.<wbr>0&lt;"
    assert breakable("net") == "net"


def test_a_table_has_its_cells_its_classes_and_its_caption() -> None:
    text = html_table(
        ("a", "b"), [("x", "1"), ("<", "2")], numeric=(False, True), row_classes=("", "fails"), caption="c"
    )
    assert Reader(text).tables == [[["a", "b"], ["x", "1"], ["<", "2"]]]
    assert '<tr class="fails"><td>&lt;</td><td class="number">2</td></tr>' in text
    assert "<caption>c</caption>" in text
