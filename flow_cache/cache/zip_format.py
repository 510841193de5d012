"""The zip of a cache file: members stored as they are, one directory at the end; what writes it and what reads it.

Python's `zipfile` would do for both, at a price: it keeps about 400 bytes of objects a member, and lists a long video
more slowly than a window of it is decoded. `StoredZip` writes the bytes that `zipfile` would write, and keeps the
directory as bytes. `Directory` checks everything that could lead a reader astray: entries that do not fill the
directory exactly, members that are compressed or encrypted, or that lie outside the file. Damage raises CacheFileError.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import CacheFileError

if TYPE_CHECKING:
    from flow_cache.storage.paths import AnyPath

LOCAL = struct.Struct("<4s5H3L2H")  # local file header, before each member's name and data
LOCAL_SIGNATURE = b"PK\3\4"
_LOCAL_CRC_AT = struct.calcsize("<4s5H")

# An entry of the directory, before its name, extra field and comment.
_ENTRY_FIELDS = (
    ("signature", "4s"), ("made by", "H"), ("needs", "H"), ("flags", "H"), ("method", "H"), ("time", "H"),
    ("date", "H"), ("crc", "L"), ("stored", "L"), ("size", "L"), ("name", "H"), ("extra", "H"), ("comment", "H"),
    ("disk", "H"), ("internal", "H"), ("mode", "L"), ("offset", "L"),
)  # fmt: skip
_ENTRY = struct.Struct("<" + "".join(kind for _, kind in _ENTRY_FIELDS))
_ENTRY_ROW = np.dtype([(name, {"4s": "S4", "H": "<u2", "L": "<u4"}[kind]) for name, kind in _ENTRY_FIELDS])
_NOT_READ = ("made by", "needs", "time", "date", "disk", "internal", "mode")
_ENTRY_READ = struct.Struct(
    "<" + "".join(f"{struct.calcsize('<' + k)}x" if name in _NOT_READ else k for name, k in _ENTRY_FIELDS)
)
_ENTRY_CRC_AT = struct.calcsize("<4s6H")
_ENTRY_SIGNATURE = b"PK\1\2"
_EXTRA64 = struct.Struct("<2HQ")  # an extra field with the member's offset: tag, length, offset
_EXTRA64_TAG, _EXTRA64_LENGTH = 1, 8

_END = struct.Struct("<4s4H2LH")  # end of the directory
_END_SIGNATURE = b"PK\5\6"
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_SIGNATURE = b"PK\6\6"
_LOCATOR64 = struct.Struct("<4sLQL")  # where the 64-bit end record lies
_LOCATOR64_SIGNATURE = b"PK\6\7"

_ALL_16, _ALL_32 = 0xFFFF, 0xFFFFFFFF  # in place of what a 64-bit record says
_MOST_MEMBERS = 0xFFFF
_MOST_BYTES = (1 << 31) - 1  # more than these: zip64; some readers take offsets for signed

_PLAIN, _WITH64 = 20, 45  # versions of the format that a reader must know
_UNIX = 3 << 8
_MODE = 0o600 << 16
_DATE = 1 << 5 | 1  # 1 January 1980: no clock in the file, the same input gives the same bytes

_TAIL = 1 << 13  # bytes read first, from the end: all of a usual clip's directory, one buffer of Python's
FEW = 120  # entries; up to here a plain loop is faster than NumPy
_FEWEST_DIGITS = 5  # of a member's number
_LONGEST_NAME_SHOWN = 200


class Member(NamedTuple):
    """Where one member lies."""

    name: str
    offset: int
    """Of its local header."""
    size: int
    crc: int


class _Entries(NamedTuple):
    """The entries of a directory as columns: tuples of Python's numbers where they are few, else int64 arrays."""

    names: Any
    """Where each name starts in the directory."""
    name_lengths: Any
    flags: Any
    methods: Any
    crcs: Any
    stored: Any
    """Bytes in the file."""
    sizes: Any
    """Bytes once unpacked."""
    offsets: Any


@dataclass(frozen=True)
class Members:
    """Fields or frames by number."""

    prefix: str
    extension: str
    numbers: range | dict[int, int]
    """Those that are there, ascending; a dict where some are missing: their places in `positions`."""
    positions: Sequence[int] | NDArray[np.int64]
    """In the directory."""
    offsets: Sequence[int] | NDArray[np.int64]
    """Of every member of the zip, by position in the directory, as are the sizes and CRCs."""
    sizes: Sequence[int] | NDArray[np.int64]
    crcs: Sequence[int] | NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)

    def __contains__(self, number: int) -> bool:
        return number in self.numbers

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __getitem__(self, number: int) -> Member:
        place = self.numbers[number]  # of a range, the number itself
        name, position = member_name(self.prefix, number, self.extension), self.positions[place]
        return Member(name, int(self.offsets[position]), int(self.sizes[position]), int(self.crcs[position]))


def member_name(prefix: str, index: int, extension: str) -> str:
    """Return a field's or frame's name in the zip, e.g. `flow/00012.jls`."""
    return f"{prefix}/{index:0{_FEWEST_DIGITS}d}.{extension}"


class StoredZip:
    """Write members one after the other into an empty binary file, and the directory at the end.

    The first member can be replaced when all others are written. OSError passes through.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._offset = self._count = 0
        self._first_data = 0
        self._directory = bytearray()

    def add(self, name: str, data: bytes) -> None:
        """Append a member; its name is ASCII."""
        encoded = name.encode("ascii")
        crc, size = zlib.crc32(data), len(data)
        far = self._offset > _MOST_BYTES
        version = _WITH64 if far else _PLAIN
        extra = _EXTRA64.pack(_EXTRA64_TAG, _EXTRA64_LENGTH, self._offset) if far else b""
        self._directory += _ENTRY.pack(
            _ENTRY_SIGNATURE, version | _UNIX, version, 0, 0, 0, _DATE, crc, size, size, len(encoded), len(extra),
            0, 0, 0, _MODE, _ALL_32 if far else self._offset,
        )  # fmt: skip
        self._directory += encoded
        self._directory += extra
        header = LOCAL.pack(LOCAL_SIGNATURE, _PLAIN, 0, 0, 0, _DATE, crc, size, size, len(encoded), 0)
        self._file.write(header + encoded)
        self._file.write(data)
        self._first_data = self._first_data or len(header) + len(encoded)
        self._offset += len(header) + len(encoded) + size
        self._count += 1

    def finish(self, first: bytes) -> None:
        """Write the directory, and other bytes of the same length into the first member."""
        crc = struct.pack("<L", zlib.crc32(first))
        self._directory[_ENTRY_CRC_AT : _ENTRY_CRC_AT + 4] = crc
        self._file.write(self._directory)
        self._file.write(self._end())
        self._file.seek(_LOCAL_CRC_AT)
        self._file.write(crc)
        self._file.seek(self._first_data)
        self._file.write(first)

    def _end(self) -> bytes:
        size, offset, count = len(self._directory), self._offset, self._count
        end = b""
        if count > _MOST_MEMBERS or max(size, offset) > _MOST_BYTES:
            end += _END64.pack(
                _END64_SIGNATURE, _END64.size - 12, _WITH64, _WITH64, 0, 0, count, count, size, offset
            )
            end += _LOCATOR64.pack(_LOCATOR64_SIGNATURE, 0, offset + size, 1)
        count, size, offset = min(count, _ALL_16), min(size, _ALL_32), min(offset, _ALL_32)
        return end + _END.pack(_END_SIGNATURE, 0, 0, count, count, size, offset, 0)


class Directory:
    """The members of a zip file.

    Args:
        path: Names the file in errors.
        file: The open file.
        file_size: In bytes.
        few: Up to so many entries are read one after the other; more, as arrays.

    Raises:
        CacheFileError: If the directory is damaged or the file cut.
    """

    def __init__(self, path: AnyPath, file: Any, file_size: int, *, few: int = FEW) -> None:
        self._path = path
        tail_at = max(0, file_size - _TAIL)
        file.seek(tail_at)
        tail = file.read(file_size - tail_at)
        end = _end_record(file, file_size, tail)
        if end is None:
            raise CacheFileError(path, "is not a whole zip file (its end record is missing)")
        offset, size, count = end
        if offset + size > file_size or count * _ENTRY.size > size:
            raise CacheFileError(path, "its directory is damaged, or the file is cut")
        if offset >= tail_at:
            self._data: bytes = tail[offset - tail_at : offset - tail_at + size]
        else:
            file.seek(offset)
            self._data = file.read(size)
        entries = (_read_few if count <= few else _read_many)(self._data, count)
        if entries is None:
            raise CacheFileError(path, "its directory is damaged")
        self._entries: _Entries = entries
        self._known: dict[bytes, int] | None = None
        self._refuse(
            _is_not_plain, (entries.flags, entries.methods, entries.stored, entries.sizes),
            "is not a plainly stored zip member of ours",
        )  # fmt: skip
        self._refuse(
            lambda start, name, size: (start < 0) | (start + LOCAL.size + name + size > offset),
            (entries.offsets, entries.name_lengths, entries.sizes), "lies outside the file",
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._entries.names)

    def name(self, position: int) -> str:
        """Return the name of the member at a position of the directory, as it may be shown."""
        start = self._entries.names[position]
        stop = start + min(int(self._entries.name_lengths[position]), _LONGEST_NAME_SHOWN)
        text = self._data[start:stop].decode("ascii", "replace")
        return text if text.isprintable() else ascii(text)

    def member(self, position: int) -> Member:
        """Return the member at a position of the directory."""
        entries = self._entries
        size, crc = int(entries.sizes[position]), int(entries.crcs[position])
        return Member(self.name(position), int(entries.offsets[position]), size, crc)

    def numbered(self, prefix: str, extension: str, count: int) -> Members:
        """Return members `prefix/00000.extension` to number `count - 1`; raises CacheFileError if one is missing."""
        positions: Sequence[int] | NDArray[np.int64]
        if isinstance(self._entries.names, np.ndarray):
            positions, missing = self._match_names(prefix, extension, count)
        else:
            positions, missing = self._look_up_names(_first_names(prefix, extension)[:count])
        return self._members(prefix, extension, range(count), positions, missing)

    def numbered_in(self, prefix: str, extension: str, runs: Sequence[range]) -> Members:
        """Return the members whose numbers lie in some ascending ranges; raises CacheFileError if one is missing."""
        if len(runs) == 1 and runs[0].start == 0:
            return self.numbered(prefix, extension, len(runs[0]))
        numbers = {number: place for place, number in enumerate(chain(*runs))}
        names = (member_name(prefix, number, extension).encode() for number in numbers)
        return self._members(prefix, extension, numbers, *self._look_up_names(names))

    def _members(
        self,
        prefix: str,
        extension: str,
        numbers: range | dict[int, int],
        positions: Sequence[int] | NDArray[np.int64],
        missing: int | None,
    ) -> Members:
        """Return members that were looked for; raises CacheFileError if one, by its place, is missing."""
        if missing is not None:
            number = next(islice(numbers, missing, None))
            raise CacheFileError(self._path, "is missing", member_name(prefix, number, extension))
        entries = self._entries
        return Members(prefix, extension, numbers, positions, entries.offsets, entries.sizes, entries.crcs)

    def _look_up_names(self, names: Iterable[bytes]) -> tuple[list[int], int | None]:
        """Find few members; also returns the place of the first that is missing."""
        if self._known is None:
            entries, data = self._entries, self._data
            spans = zip(entries.names, entries.name_lengths, strict=True)
            self._known = {data[start : start + length]: n for n, (start, length) in enumerate(spans)}
        known = self._known
        positions = [known.get(name, -1) for name in names]
        return positions, positions.index(-1) if -1 in positions else None

    def _match_names(self, prefix: str, extension: str, count: int) -> tuple[NDArray[np.int64], int | None]:
        """Do the same for many members, numbered from 0."""
        positions = np.full(count, -1)
        for digits in range(_FEWEST_DIGITS, max(_FEWEST_DIGITS, len(str(count - 1))) + 1):
            template = f"{prefix}/{'0' * digits}.{extension}".encode()
            candidates = np.flatnonzero(self._entries.name_lengths == len(template))
            if not candidates.size:
                continue
            names = _rows(self._data, self._entries.names[candidates], len(template))
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
            positions[numbers[alike]] = candidates[alike]
        missing = np.flatnonzero(positions < 0)
        return positions, int(missing[0]) if missing.size else None

    def _refuse(self, is_bad: Callable[..., Any], columns: tuple[Any, ...], reason: str) -> None:
        """Raise CacheFileError for the first member that a rule, for numbers or arrays, calls bad."""
        if isinstance(columns[0], np.ndarray):
            bad = is_bad(*columns)
            first = int(np.argmax(bad)) if bad.any() else None
        else:
            first = next((n for n, bad in enumerate(map(is_bad, *columns)) if bad), None)
        if first is not None:
            raise CacheFileError(self._path, reason, self.name(first))


def _is_not_plain(flags: Any, method: Any, stored: Any, size: Any) -> Any:
    """Tell whether a member is encrypted, packed, or of two sizes; for numbers or arrays."""
    return (flags & 1 | method | stored ^ size) != 0


@functools.cache
def _first_names(prefix: str, extension: str) -> tuple[bytes, ...]:
    """Return the names of numbered members, one more than there are where they are few."""
    return tuple(member_name(prefix, number, extension).encode() for number in range(FEW + 1))


def _end_record(file: Any, file_size: int, tail: bytes) -> tuple[int, int, int] | None:
    """Read the end record; returns the directory's (offset, size, number of members), None if it is missing."""
    plain_at, locator_at = len(tail) - _END.size, len(tail) - _END.size - _LOCATOR64.size
    if plain_at < 0 or tail[plain_at : plain_at + 4] != _END_SIGNATURE:
        return None
    _, _, _, _, count, size, offset, _ = _END.unpack_from(tail, plain_at)
    if count != _ALL_16 and size != _ALL_32 and offset != _ALL_32:
        return offset, size, count
    if locator_at < 0 or tail[locator_at : locator_at + 4] != _LOCATOR64_SIGNATURE:
        # As many members as 16 bits can count need no 64-bit record; then the directory has room for them.
        return None if _ALL_32 in (size, offset) or count * _ENTRY.size > size else (offset, size, count)
    _, _, end64, _ = _LOCATOR64.unpack_from(tail, locator_at)
    if end64 + _END64.size > file_size:
        return None
    file.seek(end64)
    record = file.read(_END64.size)
    if len(record) < _END64.size or record[:4] != _END64_SIGNATURE:
        return None
    *_, count, size, offset = _END64.unpack(record)
    return offset, size, count


def _read_many(data: bytes, count: int) -> _Entries | None:
    """Read a directory's entries as arrays; None if they do not fill it exactly."""
    entries = _scan_entries(data, count)
    if entries is None and (few := _read_few(data, count)) is not None:
        return _Entries(*(np.array(column, np.int64) for column in few))
    return entries


def _read_few(data: bytes, count: int) -> _Entries | None:
    """Read a directory's entries one after the other; None if they do not fill it exactly."""
    rows = []
    position, last = 0, len(data) - _ENTRY.size
    for _ in range(count):
        if position > last:
            return None
        entry = _ENTRY_READ.unpack_from(data, position)
        signature, flags, method, crc, stored, size, name, extra, comment, offset = entry
        if signature != _ENTRY_SIGNATURE:
            return None
        start = position + _ENTRY.size
        position = start + name + extra + comment
        if offset == _ALL_32:
            offset = _offset64(data[start + name : start + name + extra])
        rows.append((start, name, flags, method, crc, stored, size, offset))
    if position != len(data):
        return None
    return _Entries(*(zip(*rows, strict=True) if rows else ((),) * len(_Entries._fields)))


def _scan_entries(data: bytes, count: int) -> _Entries | None:
    """Read all entries at once; None also where an entry's signature stands elsewhere in the directory."""
    words: NDArray[np.uint32] = np.ndarray((len(data) - 3,), "<u4", data, strides=(1,))
    starts = np.flatnonzero(words == int.from_bytes(_ENTRY_SIGNATURE, "little"))
    if len(starts) != count or starts[0] != 0 or starts[-1] + _ENTRY.size > len(data):
        return None
    entries = _rows(data, starts, _ENTRY.size).view(_ENTRY_ROW).reshape(-1)
    names = starts + _ENTRY.size
    ends = names + entries["name"] + entries["extra"] + entries["comment"]
    if not np.array_equal(ends[:-1], starts[1:]) or ends[-1] != len(data):
        return None
    columns = (
        entries[name].astype(np.int64) for name in ("name", "flags", "method", "crc", "stored", "size")
    )
    name_lengths, flags, methods, crcs, stored, sizes = columns
    offsets = entries["offset"].astype(np.int64)
    for position in np.flatnonzero(offsets == _ALL_32):
        start = int(names[position] + name_lengths[position])
        offsets[position] = _offset64(data[start : start + int(entries["extra"][position])])
    return _Entries(names, name_lengths, flags, methods, crcs, stored, sizes, offsets)


def _rows(data: bytes, starts: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """Copy `width` bytes from each start: (n, width) uint8."""
    windows: NDArray[np.uint8] = np.ndarray((len(data) - width + 1, width), np.uint8, data, strides=(1, 1))
    return windows[starts]


def _offset64(extra: bytes) -> int:
    """Find the 64-bit offset in an entry's extra field (sizes are always below 4 GiB here); -1 if it has none."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        if tag == _EXTRA64_TAG and length >= _EXTRA64_LENGTH and position + 12 <= len(extra):
            offset = int(struct.unpack_from("<Q", extra, position + 4)[0])
            return offset if offset < 1 << 62 else -1
        position += 4 + length
    return -1
