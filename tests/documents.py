"""Documents: their pages, links, programs and sentences, as the tests of the documents see them."""

import importlib
import importlib.util
import re
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = {*(f"api/{p.stem}.md" for p in (DOCS / "api").glob("*.md") if p.stem != "index"), "changes.md"}
WRITTEN |= {f"tutorials/{path.stem}.md" for path in (ROOT / "nbs").glob("*.ipynb")}
"""Pages that a build writes."""
_BLOCK = re.compile(r"(?:<!-- ([^\n]*?) -->\n)?^(`{3,}|~{3,})([^\n]*)\n(.*?)^\2[ \t]*$", flags=re.S | re.M)
_ENDS = re.compile(r"(?<=[.!?])[\"')\]*_]*\s+(?=[\"'(\[*_`A-Z\d-])")
_SHORT = ("e.g.", "i.e.", "et al.", "vs.", "Proc.", "Phys.", "Rev.", "Soc.", "R.", "Fig.", "cf.", "approx.")


def pages():
    """All pages that are under version control but the change log, the README first."""
    own = [path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts]
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(path for path in own if str(path.relative_to(DOCS)) not in WRITTEN),
    ]


def blocks(text):
    """Code blocks of a page: the comment in the line above, the language, the code."""
    return [(found[1] or "", found[3].strip(), found[4]) for found in _BLOCK.finditer(text)]


def prose(text):
    """What a page says in sentences: paragraphs, items of lists and texts of links.

    Left out: front matter, code blocks, tables, headings, images and comments. Code within a line is one word.
    """
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    text = _BLOCK.sub("\n", text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"(`+)(.+?)\1", "CODE", text, flags=re.S)
    lines = ["" if re.match(r"\s*(\||#|:::)", line) else line for line in text.splitlines()]
    lines = [re.sub(r"^\s*([-*+]|\d+\.)\s+", "\n", line) for line in lines]
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines))
    return [" ".join(own.split()) for own in paragraphs if own.strip()]


def documented_variables():
    """Names of the variables of `results.nc` that the page on run directories has."""
    text = (DOCS / "how-to" / "run-directory.md").read_text().split("## Numbers")[1].split("\n## ")[0]
    return set(re.findall(r"`(\w+)`", text)) - {"units"}


def sentences(text):
    """The sentences of a page. A colon or a semicolon ends none; three words make the shortest."""
    found = []
    for paragraph in prose(text):
        for name in _SHORT:
            paragraph = re.sub(rf"(?<!\w){re.escape(name)}", name.replace(".", ""), paragraph)
        found += _ENDS.split(paragraph)
    return [own for own in found if words(own) >= 3]


def words(sentence):
    """Words of a sentence; a number or an interval is a word, a sign is none."""
    return len([word for word in sentence.split() if re.search(r"\w", word)])


def median_length(text):
    """Median length of a page's sentences, in words; 0 without any."""
    lengths = [words(own) for own in sentences(text)]
    return statistics.median(lengths) if lengths else 0


def is_there(name):
    """Whether a name such as `n3.sklearn` or `n3.predict` can be read, as a module or as an attribute."""
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ModuleNotFoundError:
        pass
    module, _, attribute = name.rpartition(".")
    return bool(module) and hasattr(importlib.import_module(module), attribute)


def missing(comment):
    """Why a block is not run, from the comment above it; empty where it is."""
    if comment.startswith("not run:"):
        return comment
    needed = comment.removeprefix("needs:").split(",") if comment.startswith("needs:") else ()
    lacking = [name.strip() for name in needed if not is_there(name.strip())]
    return f"there is no {', '.join(lacking)}" if lacking else ""


def examples(path):
    """Programs of a page in order: those that run, and why the others do not."""
    own = [(comment, code) for comment, language, code in blocks(path.read_text()) if language == "python"]
    return [code for comment, code in own if not missing(comment)], [m for c, _ in own if (m := missing(c))]
