"""Write a report as one HTML page: nothing in it comes from the network, and names are text, whatever they hold."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jinja2
from markupsafe import Markup

from twostream.reports.document import Heading, plain
from twostream.reports.outputs import COLOURS, PALE_COLOURS
from twostream.reports.page.live import VIDEOS, PageBlock

_FILTERED_ROWS = 15  # a table with as many rows has a box that filters them


@dataclass(frozen=True)
class Section:
    """Hold a part of a page below one heading; the first part has none."""

    title: str = ""
    blocks: list[PageBlock] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """The name by which links find it."""
        return "-".join("".join(char if char.isalnum() else " " for char in self.title.lower()).split())


def to_html(
    blocks: Sequence[PageBlock], pictures: Mapping[str, bytes], *, title: str, classes: Sequence[str] = ()
) -> str:
    """Write blocks as one HTML page.

    The page's own security policy permits its one script, which the policy knows by its hash, and no request.

    Args:
        blocks: the report.
        pictures: PNG bytes by file name, embedded as base64.
        title: the page's title.
        classes: names in the order of the labels; where they stand in a column "Class", they lead to their videos.
    """
    environment = _environment()
    style, script = (_source(environment, name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    lead, *sections = _sections(blocks)
    return environment.get_template("page.html.jinja").render(
        title=title,
        lead=lead,
        sections=sections,
        pictures={name: base64.b64encode(data).decode("ascii") for name, data in pictures.items()},
        videos=next((section.anchor for section in sections if section.title == VIDEOS), ""),
        class_numbers={name: number for number, name in enumerate(classes)},
        colours=COLOURS,
        pale_colours=PALE_COLOURS,
        filtered_rows=_FILTERED_ROWS,
        style=Markup(style),  # our own files, which are no text to show
        script=Markup(script),
        digest=digest,
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("twostream.reports.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    environment.filters["kind"] = lambda value: type(value).__name__
    return environment


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _sections(blocks: Sequence[PageBlock]) -> list[Section]:
    found = [Section()]
    for block in blocks:
        if isinstance(block, Heading) and block.level == 2:
            found.append(Section(plain(block.text)))
        else:
            found[-1].blocks.append(block)
    return found
