"""Page: pieces of HTML whose text is escaped and that need no other file."""

import pytest

from markup import Document
from n3.experiments import page

HOSTILE = "<script>alert('x')</script> & \"quoted\""
PIECES = {
    "paragraph": lambda text: page.html_paragraph(text),
    "section": lambda text: page.html_section(text, page.html_paragraph("x")),
    "table": lambda text: page.html_table([text, "b"], [[text, text]], caption=text),
    "facts": lambda text: page.html_facts({text: text}),
    "details": lambda text: page.html_details(text, page.html_paragraph("x")),
    "code": lambda text: page.html_code(text),
    "warnings": lambda text: page.html_warnings([text]),
    "figure": lambda text: page.html_figure(b"\x89PNG" + bytes(20), text),
    "page": lambda text: page.html_page(text, []),
}


@pytest.mark.parametrize("piece", PIECES)
def test_every_text_is_escaped_and_every_tag_is_closed(piece):
    found = Document(PIECES[piece](HOSTILE))
    assert "script" not in [tag for tag, _ in found.tags]
    assert HOSTILE in found.text


def test_a_section_without_parts_is_nothing():
    assert page.html_section("Figures", "", "") == ""


def test_a_wide_figure_has_a_row_of_its_own():
    header = lambda width: b"\x89PNG" + bytes(12) + width.to_bytes(4, "big")  # noqa: E731
    assert 'class="wide"' in page.html_figure(header(page.WIDE + 1), "x")
    assert 'class="wide"' not in page.html_figure(header(page.WIDE), "x")


def test_a_page_asks_for_no_script_and_no_network():
    text = page.html_page("x", [])
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert "http:" not in text
    assert "https:" not in text
