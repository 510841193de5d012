"""CSV that holds any file name: line breaks of every kind, quotes, bytes that are no UTF-8."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any


def csv_bytes(rows: Iterable[Iterable[object]]) -> bytes:
    r"""Write rows as CSV, with `\n` at the end of each.

    Returns:
        UTF-8; bytes of a file name that are none stay as they are (`surrogateescape` reads them again).

    Example:
        >>> from flow_cache import csv_bytes
        >>> csv_bytes([("video", "fields"), ("a,b.avi", 12)])
        b'video,fields\n"a,b.avi",12\n'
    """
    lines: list[str] = []
    file: Any = SimpleNamespace(write=lines.append)
    # Up to Python 3.12 only those line breaks are quoted that end rows: so both of them do, until all are quoted.
    csv.writer(file, lineterminator="\r\n").writerows(rows)
    return "".join(line[:-2] + "\n" for line in lines).encode("utf-8", "surrogateescape")
