"""Write a file whole or not at all: a reader, and a run that is started again, never sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`, which takes its place, synced to the disk, once it is complete.

    Its name is always the same, so that runs that are killed leave one file behind at most, which the next run
    overwrites.
    """
    partial = path.with_name(f"{path.name}.part")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; bytes of a file name that are no UTF-8 (lone surrogates) become escapes."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))
