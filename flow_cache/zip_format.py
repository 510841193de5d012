"""The directory of a cache file's zip, parsed as arrays: one member at a time, a long video's costs more than decoding.

Everything is checked here that could lead a reader astray: entries that do not fill the directory exactly, members that
are compressed or encrypted, or that lie outside the file. Damage raises CacheFileError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import CacheFileError

if TYPE_CHECKING:
    from flow_cache.places import Place

LOCAL = struct.Struct("<4s5H3L2H")  # local file header

END = struct.Struct("<4s4H2LH")  # end of central directory
END64_LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
_SIGNATURE = 0x02014B50
_LENGTHS_AT = 28  # of name, extra field and comment, in an entry
_ENTRY = np.dtype(
    {
        "names": ["flags", "method", "crc", "stored", "length", "name", "extra", "offset"],
        "formats": ["<u2", "<u2", "<u4", "<u4", "<u4", "<u2", "<u2", "<u4"],
        "offsets": [8, 10, 16, 20, 24, _LENGTHS_AT, 30, 42],
        "itemsize": 46,
    }
)
_LONGEST_NAME_SHOWN = 200
_FEWEST_DIGITS = 5  # of a member's number


class Member(NamedTuple):
    """Where one member lies."""

    name: str
    offset: int
    """Of its local header."""
    size: int
    crc: int


@dataclass(frozen=True)
class Members:
    """Fields or frames by number."""

    prefix: str
    extension: str
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    crcs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Member:
        name = member_name(self.prefix, index, self.extension)
        return Member(name, int(self.offsets[index]), int(self.sizes[index]), int(self.crcs[index]))


def member_name(prefix: str, index: int, extension: str) -> str:
    """Return a field's or frame's name in the zip, e.g. `flow/00012.jls`."""
    return f"{prefix}/{index:0{_FEWEST_DIGITS}d}.{extension}"


class Directory:
    """The members of a zip file. Raises CacheFileError if the directory is damaged or the file cut."""

    def __init__(self, path: Place, file: Any, file_size: int) -> None:
        self._path = path
        offset, size, count = _end_record(path, file, file_size)
        if offset + size > file_size or count * _ENTRY.itemsize > size:
            raise CacheFileError(path, "its directory is damaged, or the file is cut")
        file.seek(offset)
        data = file.read(size)
        starts = _entry_starts(data, count)
        if starts is None:
            raise CacheFileError(path, "its directory is damaged")
        self._data = data
        self._names = starts + _ENTRY.itemsize
        entries = _rows(data, starts, _ENTRY.itemsize).view(_ENTRY).reshape(-1)
        self._name_lengths = entries["name"].astype(np.int64)
        self._sizes = entries["length"].astype(np.int64)
        self._crcs = entries["crc"].astype(np.int64)
        self._offsets = self._member_offsets(data, entries)
        plain = (entries["method"] == 0) & (entries["flags"] & 1 == 0)
        self._refuse(
            ~plain | (entries["stored"] != entries["length"]), "is not a plainly stored zip member of ours"
        )
        ends = self._offsets + LOCAL.size + self._name_lengths + self._sizes
        self._refuse((self._offsets < 0) | (ends > offset), "lies outside the file")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, position: int) -> str:
        """Return the name of the member at a position of the directory, as it may be shown."""
        start = self._names[position]
        stop = start + min(int(self._name_lengths[position]), _LONGEST_NAME_SHOWN)
        text = self._data[start:stop].decode("ascii", "replace")
        return text if text.isprintable() else ascii(text)

    def member(self, position: int) -> Member:
        """Return the member at a position of the directory."""
        size, crc = int(self._sizes[position]), int(self._crcs[position])
        return Member(self.name(position), int(self._offsets[position]), size, crc)

    def numbered(self, prefix: str, extension: str, count: int) -> Members:
        """Return members `prefix/00000.extension` to number `count - 1`; raises CacheFileError if one is missing."""
        places = np.full(count, -1)
        for digits in range(_FEWEST_DIGITS, max(_FEWEST_DIGITS, len(str(count - 1))) + 1):
            template = f"{prefix}/{'0' * digits}.{extension}".encode()
            candidates = np.flatnonzero(self._name_lengths == len(template))
            if not candidates.size:
                continue
            names = _rows(self._data, self._names[candidates], len(template))
            number = slice(len(prefix) + 1, len(prefix) + 1 + digits)
            figures = names[:, number].astype(np.int64) - ord("0")
            names[:, number] = ord("0")
            alike = (names == np.frombuffer(template, np.uint8)).all(1) & (
                (figures >= 0) & (figures <= 9)
            ).all(1)
            if digits > _FEWEST_DIGITS:
                alike &= figures[:, 0] > 0
            numbers = figures @ (10 ** np.arange(digits - 1, -1, -1))
            alike &= numbers < count
            places[numbers[alike]] = candidates[alike]
        missing = np.flatnonzero(places < 0)
        if missing.size:
            raise CacheFileError(self._path, "is missing", member_name(prefix, int(missing[0]), extension))
        return Members(prefix, extension, self._offsets[places], self._sizes[places], self._crcs[places])

    def _member_offsets(self, data: bytes, entries: NDArray[np.void]) -> NDArray[np.int64]:
        offsets = entries["offset"].astype(np.int64)
        for position in np.flatnonzero(offsets == 0xFFFFFFFF):
            start = int(self._names[position] + self._name_lengths[position])
            offsets[position] = _zip64_offset(data[start : start + int(entries["extra"][position])])
        return offsets

    def _refuse(self, bad: NDArray[np.bool_], reason: str) -> None:
        if bad.any():
            raise CacheFileError(self._path, reason, self.name(int(np.argmax(bad))))


def _end_record(path: Place, file: Any, file_size: int) -> tuple[int, int, int]:
    """Find the end record; returns the directory's (offset, size, number of members)."""
    damaged = CacheFileError(path, "is not a whole zip file (its end record is missing)")
    tail_size = min(file_size, END.size + END64_LOCATOR.size)
    file.seek(file_size - tail_size)
    tail = file.read(tail_size)
    if len(tail) < END.size or tail[-END.size : -END.size + 4] != b"PK\5\6":
        raise damaged
    _, _, _, _, count, size, offset, _ = END.unpack(tail[-END.size :])
    if count != 0xFFFF and size != 0xFFFFFFFF and offset != 0xFFFFFFFF:
        return offset, size, count
    if len(tail) < END.size + END64_LOCATOR.size or tail[:4] != b"PK\6\7":
        raise damaged
    _, _, end64, _ = END64_LOCATOR.unpack_from(tail)
    if end64 + END64.size > file_size:
        raise damaged
    file.seek(end64)
    record = file.read(END64.size)
    if len(record) < END64.size or record[:4] != b"PK\6\6":
        raise damaged
    *_, count, size, offset = END64.unpack(record)
    return offset, size, count


def _rows(data: bytes, starts: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """Copy `width` bytes from each start: (n, width) uint8."""
    if not len(starts):
        return np.empty((0, width), np.uint8)
    windows: NDArray[np.uint8] = np.ndarray((len(data) - width + 1, width), np.uint8, data, strides=(1, 1))
    return windows[starts]


def _entry_starts(data: bytes, count: int) -> NDArray[np.int64] | None:
    """Find where each entry of a directory starts; None if they do not fill it exactly."""
    if not count:
        return None if data else np.empty(0, np.int64)
    words: NDArray[np.uint32] = np.ndarray((len(data) - 3,), "<u4", data, strides=(1,))
    starts = np.flatnonzero(words == _SIGNATURE)
    if len(starts) == count and starts[-1] + _ENTRY.itemsize <= len(data):
        halves: NDArray[np.uint16] = np.ndarray((len(data) - 1,), "<u2", data, strides=(1,))
        lengths = starts + _ENTRY.itemsize
        for place in (0, 2, 4):
            lengths += halves[starts + _LENGTHS_AT + place]
        if starts[0] == 0 and np.array_equal(lengths[:-1], starts[1:]) and lengths[-1] == len(data):
            return starts
    return _walk_entries(data, count)  # the signature's bytes may also stand inside an entry


def _walk_entries(data: bytes, count: int) -> NDArray[np.int64] | None:
    starts = np.empty(count, np.int64)
    position = 0
    lengths = struct.Struct("<3H")
    for number in range(count):
        if position + _ENTRY.itemsize > len(data) or data[position : position + 4] != b"PK\1\2":
            return None
        starts[number] = position
        position += _ENTRY.itemsize + sum(lengths.unpack_from(data, position + _LENGTHS_AT))
    return starts if position == len(data) else None


def _zip64_offset(extra: bytes) -> int:
    """Find the 64-bit offset in an entry's extra field (sizes are always below 4 GiB here); -1 if it has none."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        if tag == 1 and length >= 8 and position + 12 <= len(extra):
            offset = int(struct.unpack_from("<Q", extra, position + 4)[0])
            return offset if offset < 1 << 62 else -1
        position += 4 + length
    return -1
