"""Hold a report as a list of blocks, and write it as markdown or as one self-contained HTML page.

Text in blocks is plain: whatever class names contain is escaped here, once, for either format.
"""

from __future__ import annotations

import base64
import html
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate


@dataclass(frozen=True)
class Strong:
    """Mark text of a paragraph as strong, mostly class names."""

    text: str


@dataclass(frozen=True)
class Code:
    """Mark text of a paragraph as literal: file names, commands."""

    text: str


Span = str | Strong | Code
Text = tuple[Span, ...]


@dataclass(frozen=True)
class Heading:
    """Open a section; level 1 is the report's title."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Hold running text."""

    text: Text


@dataclass(frozen=True)
class Bullets:
    """Hold a list of sentences."""

    items: tuple[Text, ...]


@dataclass(frozen=True)
class Table:
    """Hold a table of plain cells; the named columns hold text, the others numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[str]


@dataclass(frozen=True)
class Picture:
    """Refer to a picture file in the report's folder; wide ones scroll in HTML instead of shrinking."""

    file: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class CodeBlock:
    """Hold literal lines."""

    text: str


Block = Heading | Paragraph | Bullets | Table | Picture | CodeBlock

_STYLE = """
body { font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1b1b1b; background: #fff;
       max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
body > p:first-child { background: #eef3f8; border-left: 4px solid #0072b2; padding: .6rem .9rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.3rem; margin-top: 2.2rem; border-bottom: 1px solid #d5d5d5; }
h3 { font-size: 1.08rem; margin-bottom: .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .65rem; border-bottom: 1px solid #e3e3e3; vertical-align: top; }
thead th { border-bottom: 2px solid #999; background: #fff; }
tbody tr:nth-child(even) { background: #f7f8fa; }
figure { margin: 1rem 0; } figcaption { font-size: .87rem; color: #555; }
img { max-width: 100%; height: auto; } .scroll img { max-width: none; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .9em; }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto; }
@media print { body { max-width: none; } .scroll { overflow: visible; } .scroll img { max-width: 100%; } }
""".strip()


def plain(text: str) -> str:
    """Bring text onto one line: control characters and white space become single spaces."""
    return " ".join("".join(" " if unicodedata.category(char) == "Cc" else char for char in text).split())


def escape_markdown(text: str) -> str:
    r"""Escape text so that CommonMark and GitHub tables show it literally.

    Underscores inside words are left alone, as markdown leaves them: `brush_hair` stays readable.
    """
    escaped = re.sub(r"([\\`*\[\]<>|~$&])", r"\\\1", plain(text))
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)


def to_markdown(blocks: Sequence[Block]) -> str:
    """Write blocks as GitHub-flavoured markdown."""
    return "\n\n".join(_markdown_block(block) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], pictures: Mapping[str, bytes], *, title: str) -> str:
    """Write blocks as one HTML page without scripts or references to other files.

    Args:
        blocks: the report.
        pictures: PNG bytes by file name, embedded as base64.
        title: the page's title.
    """
    body = "\n".join(_html_block(block, pictures) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(plain(title))}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _markdown_block(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {escape_markdown(text)}"
        case Paragraph(text):
            return _markdown_text(text)
        case Bullets(items):
            return "\n".join(f"- {_markdown_text(item)}" for item in items)
        case Table():
            return tabulate(
                [[escape_markdown(cell) for cell in row] for row in block.rows],
                headers=[escape_markdown(cell) for cell in block.header],
                tablefmt="pipe",
                disable_numparse=True,
                colalign=_alignment(block),
            )
        case Picture(file, caption):
            return f"![{escape_markdown(caption)}]({file})"
        case CodeBlock(text):
            fence = "`" * max(3, _longest_backticks(text) + 1)
            return f"{fence}\n{text}\n{fence}"


def _markdown_text(text: Text) -> str:
    parts = []
    for span in text:
        match span:
            case str():
                lead, tail = span[:1].isspace(), span[-1:].isspace()
                parts.append(" " * lead + escape_markdown(span) + " " * (tail and bool(span.strip())))
            case Strong(content):
                parts.append(f"**{escape_markdown(content)}**" if plain(content) else "")
            case Code(content):
                ticks = "`" * (_longest_backticks(content) + 1)
                pad = " " if "`" in content else ""
                parts.append(f"{ticks}{pad}{plain(content)}{pad}{ticks}")
    return "".join(parts)


def _html_block(block: Block, pictures: Mapping[str, bytes]) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{html.escape(plain(text))}</h{level}>"
        case Paragraph(text):
            return f"<p>{_html_text(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{_html_text(item)}</li>" for item in items) + "\n</ul>"
        case Table():
            table = tabulate(
                [[plain(cell) for cell in row] for row in block.rows],
                headers=[plain(cell) for cell in block.header],
                tablefmt="html",  # escapes its cells
                disable_numparse=True,
                colalign=_alignment(block),
            )
            return f'<div class="scroll">\n{table}\n</div>'
        case Picture(file, caption, wide):
            data = base64.b64encode(pictures[file]).decode("ascii")
            shown = html.escape(plain(caption))
            frame = ' class="scroll"' if wide else ""
            return (
                f'<figure><div{frame}><img alt="{shown}" src="data:image/png;base64,{data}"></div>'
                f"<figcaption>{shown}</figcaption></figure>"
            )
        case CodeBlock(text):
            return f"<pre>{html.escape(text)}</pre>"


def _html_text(text: Text) -> str:
    parts = []
    for span in text:
        match span:
            case str():
                parts.append(html.escape(span))
            case Strong(content):
                parts.append(f"<strong>{html.escape(plain(content))}</strong>")
            case Code(content):
                parts.append(f"<code>{html.escape(plain(content))}</code>")
    return "".join(parts)


def _alignment(table: Table) -> list[str]:
    return ["left" if name in table.text_columns else "right" for name in table.header]


def _longest_backticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
