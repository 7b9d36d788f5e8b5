"""Page: pieces of one self-contained HTML page, whose text is escaped and whose images lie inside."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1c2328; --dim: #56626b; --paper: #ffffff; --card: #f4f6f8;
  --line: #d5dbe0; --accent: #0b6aa2; --warn: #8a4b00; --warn-card: #fff4e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ed; --dim: #9fabb4; --paper: #14191d;
  --card: #1e252b; --line: #36414a; --accent: #6cb8ea; --warn: #ffc46b; --warn-card: #33270f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 84rem; color: var(--ink);
  background: var(--paper); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: clamp(1.4rem, 4vw, 2rem); line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { max-width: 46rem; margin: .4rem 0; overflow-wrap: anywhere; }
.dim, figcaption { color: var(--dim); }
.note { margin: -.2rem 0 1rem; font-size: .9rem; }
.scroll { overflow-x: auto; margin: .6rem 0; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .8rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { background: var(--card); font-weight: 600; }
tbody th { font-weight: 600; }
tr > :first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
thead tr > :first-child { background: var(--card); }
tbody tr:last-child > * { border-bottom: 0; }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.facts th { font-weight: 400; color: var(--dim); position: static; }
.warnings { margin: .6rem 0; padding: .7rem 1rem .7rem 2rem; border-left: 4px solid var(--warn);
  border-radius: .3rem; background: var(--warn-card); color: var(--warn); overflow-wrap: anywhere; }
.figures { display: grid; gap: 1.2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); }
figure { margin: 0; padding: .7rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card); }
figure div { overflow-x: auto; }
figure.wide { grid-column: 1 / -1; }
figure img { display: block; width: 100%; height: auto; background: #ffffff; border-radius: .3rem; }
figcaption { margin-top: .5rem; font-size: .92rem; }
details { margin: .6rem 0; border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .8rem; }
summary { cursor: pointer; font-weight: 600; color: var(--accent); }
pre { overflow-x: auto; margin: .6rem 0; padding: .7rem .9rem; border-radius: .5rem; background: var(--card);
  border: 1px solid var(--line); font: .86rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media (max-width: 50rem) { figure img { min-width: var(--least); } }
@media print { details > * { display: block; } .scroll { overflow: visible; } }
"""
WIDE = 1600
"""Pixels above which a figure has a row of its own."""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html_page(title: str, sections: Iterable[str]) -> str:
    """A whole page of sections that are HTML already; it needs no script, no network and no other file."""
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
    ]
    body = "\n".join(section for section in sections if section)
    return "\n".join(
        ["<!doctype html>", '<html lang="en">', "<head>", *head, f"</head>\n<body>\n{body}\n</body>\n</html>\n"]
    )


def html_section(title: str, *parts: str) -> str:
    """A titled section of parts that are HTML already; nothing where it has no part."""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def html_paragraph(text: str, *, is_dim: bool = False) -> str:
    """A paragraph of plain text."""
    kind = ' class="dim"' if is_dim else ""
    return f"<p{kind}>{escape(text)}</p>" if text else ""


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "") -> str:
    """A table of plain text that scrolls sideways where it is too wide; the first column names the rows."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    table = f"<table><thead><tr>{names}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    note = f'<p class="dim note">{escape(caption)}</p>' if caption else ""
    return f'<div class="scroll" tabindex="0">{table}</div>{note}'


def html_facts(facts: Mapping[str, str]) -> str:
    """Names and values as a table of two columns."""
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in facts.items()
    )
    return f'<div class="scroll" tabindex="0"><table class="facts"><tbody>\n{rows}\n</tbody></table></div>'


def html_details(title: str, *parts: str) -> str:
    """Parts that a click opens."""
    body = "\n".join(part for part in parts if part)
    return f"<details><summary>{escape(title)}</summary>\n{body}\n</details>"


def html_code(text: str) -> str:
    """Plain text in the typeface of a terminal, as it is."""
    return f'<pre tabindex="0">{escape(text)}</pre>'


def html_warnings(texts: Sequence[str]) -> str:
    """A list of warnings; a sentence where there is none."""
    if not texts:
        return html_paragraph("None.")
    return '<ul class="warnings">' + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def html_figure(png: bytes, caption: str) -> str:
    """An image that lies in the page itself, with its caption; on a narrow screen it scrolls sideways."""
    content, text = base64.b64encode(png).decode(), escape(caption)
    width = int.from_bytes(png[16:20], "big")  # of the header that every PNG begins with
    kind = ' class="wide"' if width > WIDE else ""
    image = f'<img alt="{text}" style="--least:{width * 12 // 25}px" src="data:image/png;base64,{content}">'
    return f'<figure{kind}><div tabindex="0">{image}</div><figcaption>{text}</figcaption></figure>'
