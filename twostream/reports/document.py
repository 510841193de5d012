"""Hold a report as a list of blocks, and write it as markdown; `twostream.reports.page` writes it as HTML.

Text in blocks is plain: whatever class names contain is escaped where it is written, once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
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


def _alignment(table: Table) -> list[str]:
    return ["left" if name in table.text_columns else "right" for name in table.header]


def _longest_backticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
