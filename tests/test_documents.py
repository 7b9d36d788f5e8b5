"""Documents: links, languages, sentences, tables, programs that run, and a site without a warning."""

import importlib.util
import os
import re
import statistics
import subprocess
import sys

import pytest

from documents import DOCS, ROOT, WRITTEN, blocks, examples, median_length, pages, sentences, words

LINES, MEDIAN, LONGEST = 120, 22, 50
"""Lines of the README; words of a sentence in the median of a page, and at most."""
PAGES = {str(path.relative_to(ROOT)): path for path in pages()}
_OUTSIDE = re.compile(r"^(https?:|mailto:|#)")
_LOADED = re.compile(r"<(?:script|img|link)[^>]*(?:src|href)=[\"'](https?:)?//[^\"']*[\"'][^>]*>")


def links_of(text):
    """Targets of links and images of a page, without code."""
    for _, _, code in blocks(text):
        text = text.replace(code, "")
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "", text))


def tables():
    """The program that writes the tables of the evidence."""
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_counter_counts_sentences_and_nothing_else():
    text = """# A heading of many words that is none

**One claim.** Then `n3.fit(a. b)` follows, at 0.97 [0.5, 1.2] of it, e.g. here. Is that all? "Yes, it is."

| a table. Of | words |
|---|---|

- an item of a list
- [a link to a page](page.md) here

```text
code. That is none.
```
<!-- A comment. Is none. -->
"""
    assert sentences(text) == [
        "Then CODE follows, at 0.97 [0.5, 1.2] of it, eg here.",
        "Is that all?",
        '"Yes, it is."',
        "an item of a list",
        "a link to a page here",
    ]
    assert [words(own) for own in sentences(text)] == [11, 3, 3, 5, 6]
    assert median_length("") == 0
    assert median_length("Four words are here. And these are six words now.") == 5


def test_blocks_have_the_comment_above_their_language_and_their_code():
    text = "<!-- needs: n3 -->\n```python\na = 1\n```\n\n```\nb\n```\n"
    assert blocks(text) == [("needs: n3", "python", "a = 1\n"), ("", "", "b\n")]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= LINES


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for link in links_of(PAGES[page].read_text()):
        if _OUTSIDE.match(link):
            continue
        target = (PAGES[page].parent / link.split("#")[0]).resolve()
        is_written = target.is_relative_to(DOCS) and str(target.relative_to(DOCS)) in WRITTEN | written()
        assert target.exists() or is_written, link


def written():
    """Pages that a build would write, by their names."""
    rooms = re.findall(r'^    "(\w+)": "', (DOCS / "pages.py").read_text(), flags=re.M)
    return {f"api/{room}.md" for room in (*rooms, "n3", "flags")}


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_code_has_a_language(page):
    assert all(language for _, language, _ in blocks(PAGES[page].read_text()))


@pytest.mark.parametrize("page", PAGES)
def test_sentences_are_short(page):
    text = PAGES[page].read_text()
    assert median_length(text) <= MEDIAN
    assert [own for own in sentences(text) if words(own) > LONGEST] == []


def test_sentences_are_short_over_all_pages():
    lengths = [words(own) for path in PAGES.values() for own in sentences(path.read_text())]
    assert statistics.median(lengths) <= MEDIAN


def test_the_reference_lists_every_file_of_every_room():
    source = DOCS.parent / "src" / "n3"
    rows = re.findall(r"^\| \[(\w+)\]\(\w+\.md\).*\| (.*)\|$", (DOCS / "api" / "index.md").read_text(), re.M)
    assert {room for room, _ in rows} == {path.name for path in source.iterdir() if path.is_dir()} - {
        "__pycache__"
    } | {"sklearn"}
    for room, files in rows:
        own = {path.stem for path in (source / room).glob("*.py") if not path.stem.startswith("_")}
        assert set(re.findall(r"`(\w+)`", files)) == own, room


def test_tables_of_the_evidence_are_those_of_the_numbers():
    made = tables()
    texts = {path.name: path.read_text() for path in made.EVIDENCE.glob("*.md")}
    assert {name: made.written(text) for name, text in texts.items()} == texts
    assert sorted(re.findall(r"<!-- table: ([\w-]+) -->", "".join(texts.values()))) == sorted(made.TABLES)


def test_ci_builds_the_site():
    commands = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "uv run --group docs sphinx-build -W docs docs/_build" in commands


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, path in PAGES.items() if any(examples(path))])
def test_the_programs_of_a_page_run_in_order(page, tmp_path):
    programs, left_out = examples(PAGES[page])
    if not programs:
        pytest.skip("; ".join(left_out))
    script = tmp_path / "page.py"
    script.write_text("\n".join(programs))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path):
    pytest.importorskip("sphinx", reason="the documents need the group docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", str(DOCS), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    for page in (tmp_path / "site").rglob("*.html"):
        assert not _LOADED.search(page.read_text()), page
    assert "GrowingMLP" in (tmp_path / "site" / "searchindex.js").read_text()
