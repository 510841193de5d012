"""The outer structure of AVI and Matroska files, which FFmpeg repairs without a word: where does it break?

Both are boxes in boxes with their sizes written on them. FFmpeg searches on behind a box that is none, and takes the
end of the file for the end of the video. What was lost in between, or behind, nobody hears of.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_IN_SEGMENT = frozenset(
    {_CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF}
)
_IN_CLUSTER = frozenset({0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854, 0xAF, 0xEC, 0xBF})
_EBML = b"\x1a\x45\xdf\xa3"


class Break(NamedTuple):
    """Where the structure of a file breaks.

    Attributes:
        position: in bytes; packets from there on are behind it.
        reason: in a few words.
    """

    position: int
    reason: str


def find_break(path: Path) -> Break | None:
    """Return where the structure of an AVI or Matroska file breaks; None if it does not, and for other files.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:  # the few heads in an AVI file lie far apart
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[:4] == _EBML:
            return _break_of_matroska(io.BufferedReader(file), size)
        if head[:4] == b"RIFF" and head[8:] == b"AVI ":
            return _break_of_avi(file, size)
    return None


def _cut(size: int, announced: int) -> Break:
    return Break(size, f"the file was cut, it announces {announced:,} bytes and has {size:,}")


def _break_of_matroska(file: BinaryIO, size: int) -> Break | None:
    """Walk over the clusters of the first segment, and over their blocks."""
    file.seek(0)
    _, length = _element(file)
    if length is None:
        return None
    file.seek(length, os.SEEK_CUR)
    identifier, length = _element(file)
    if identifier != _SEGMENT or length is None:  # of unknown length: a recording that was not ended
        return None
    end = file.tell() + length
    if end > size:
        return _inside(file, size, size, _IN_SEGMENT) or _cut(size, end)
    return _inside(file, end, size, _IN_SEGMENT)


def _inside(file: BinaryIO, end: int, size: int, known: frozenset[int]) -> Break | None:
    """Walk over the elements from here to `end`."""
    while (place := file.tell()) < end:
        identifier, length = _element(file)
        start = file.tell()
        if identifier in known and length is None:
            return None  # a cluster of unknown length
        if identifier not in known or length is None or start + length > end:
            if end == size and identifier in known:
                return None  # cut inside this element, which the length of the segment tells
            return Break(place, "the structure of the file is damaged")
        if identifier == _CLUSTER and (found := _inside(file, start + length, size, _IN_CLUSTER)):
            return found
        file.seek(start + length)
    return None


def _element(file: BinaryIO) -> tuple[int, int | None]:
    """Read the identifier and the length of an element; the length is None if unknown or damaged."""
    first = file.read(1)
    identifier = first + file.read(_bytes(first, 4) - 1)
    first = file.read(1)
    count = _bytes(first, 8)
    data = first + file.read(count - 1)
    if len(data) < count or not count:
        return int.from_bytes(identifier, "big"), None
    length = int.from_bytes(data, "big") & ((1 << 7 * count) - 1)
    return int.from_bytes(identifier, "big"), None if length == (1 << 7 * count) - 1 else length


def _bytes(first: bytes, most: int) -> int:
    """Return how many bytes a number has whose first one is given; 1 if that cannot be."""
    count = 9 - first[0].bit_length() if first and first[0] else 1
    return count if count <= most else 1


def _break_of_avi(file: BinaryIO, size: int) -> Break | None:
    """Look whether the lists of pictures end inside the file. What is in them is FFmpeg's."""
    place = 0
    while place + 12 <= size:
        file.seek(place)
        head = file.read(12)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] == b"RIFF":  # one in a file, or several of a gigabyte
            place += 12
        elif head[:4] == b"LIST" and head[8:] == b"movi" and place + 8 + length > size:
            unknown = length in (0, 0x7FFFFFFF, 0xFFFFFFFF)
            return None if unknown else _cut(size, place + 8 + length)
        else:
            place += 8 + length + length % 2
    return None
