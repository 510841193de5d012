"""Write a zip of stored members whose directory is kept as bytes: a long video's takes little memory.

`zipfile` keeps about 400 bytes of objects a member, and writes each member's header twice. The bytes are the same.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from flow_cache.zip_format import END, END64, END64_LOCATOR, LOCAL

_ENTRY = struct.Struct("<4s6H3L5H2L")
_EXTRA64 = struct.Struct("<2HQ")  # of an entry: its offset

_PLAIN, _WITH64 = 20, 45  # versions of the format that a reader must know
_UNIX = 3 << 8
_MODE = 0o600 << 16
_DATE = 1 << 5 | 1  # 1 January 1980: no clock in the file, the same input gives the same bytes
_CRC_IN_LOCAL, _CRC_IN_ENTRY = 14, 16

_MOST_BYTES = (1 << 31) - 1  # beyond: zip64; some readers take offsets for signed
_MOST_MEMBERS = (1 << 16) - 1


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
        extra = _EXTRA64.pack(1, 8, self._offset) if far else b""
        self._directory += _ENTRY.pack(
            b"PK\1\2", version | _UNIX, version, 0, 0, 0, _DATE, crc, size, size, len(encoded), len(extra), 0, 0, 0,
            _MODE, 0xFFFFFFFF if far else self._offset,
        )  # fmt: skip
        self._directory += encoded
        self._directory += extra
        header = LOCAL.pack(b"PK\3\4", _PLAIN, 0, 0, 0, _DATE, crc, size, size, len(encoded), 0)
        self._file.write(header + encoded)
        self._file.write(data)
        self._first_data = self._first_data or len(header) + len(encoded)
        self._offset += len(header) + len(encoded) + size
        self._count += 1

    def finish(self, first: bytes) -> None:
        """Write the directory, and other bytes of the same length into the first member."""
        crc = struct.pack("<L", zlib.crc32(first))
        self._directory[_CRC_IN_ENTRY : _CRC_IN_ENTRY + 4] = crc
        self._file.write(self._directory)
        self._file.write(self._end())
        self._file.seek(_CRC_IN_LOCAL)
        self._file.write(crc)
        self._file.seek(self._first_data)
        self._file.write(first)

    def _end(self) -> bytes:
        size, offset, count = len(self._directory), self._offset, self._count
        end = b""
        if count > _MOST_MEMBERS or max(size, offset) > _MOST_BYTES:
            end += END64.pack(b"PK\6\6", END64.size - 12, _WITH64, _WITH64, 0, 0, count, count, size, offset)
            end += END64_LOCATOR.pack(b"PK\6\7", 0, offset + size, 1)
        count, size, offset = min(count, 0xFFFF), min(size, 0xFFFFFFFF), min(offset, 0xFFFFFFFF)
        return end + END.pack(b"PK\5\6", 0, 0, count, count, size, offset, 0)
