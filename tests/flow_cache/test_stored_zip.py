"""The zip writer, against Python's `zipfile`."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_cache import stored_zip
from flow_cache.stored_zip import StoredZip
from flow_cache.zip_format import Directory

FIRST = b"first"


def written(contents: list[bytes]) -> bytes:
    file = io.BytesIO()
    archive = StoredZip(file)
    archive.add("meta.json", bytes(len(FIRST)))
    for number, data in enumerate(contents):
        archive.add(f"flow/{number:05d}.png", data)
    archive.finish(FIRST)
    return file.getvalue()


def by_zipfile(contents: list[bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("meta.json", (1980, 1, 1, 0, 0, 0)), FIRST)
        for number, data in enumerate(contents):
            archive.writestr(zipfile.ZipInfo(f"flow/{number:05d}.png", (1980, 1, 1, 0, 0, 0)), data)
    return file.getvalue()


@given(st.lists(st.binary(max_size=50), max_size=6))
def test_writes_what_zipfile_writes(contents: list[bytes]) -> None:
    assert written(contents) == by_zipfile(contents)


def test_more_members_than_a_plain_zip_can_count() -> None:
    contents = [b"%d" % number for number in range(1 << 16)]
    assert written(contents) == by_zipfile(contents)


def test_a_file_beyond_two_gibibytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    contents = [bytes([number]) * 30 for number in range(9)]
    monkeypatch.setattr(stored_zip, "_MOST_BYTES", 300)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 300)
    data = written(contents)
    assert data == by_zipfile(contents)
    path = tmp_path / "far.zip"
    path.write_bytes(data)
    with path.open("rb") as file:
        members = Directory(path, file, len(data)).numbered("flow", "png", len(contents))
        for number, content in enumerate(contents):
            member = members[number]
            file.seek(member.offset + 30 + len(member.name))
            assert file.read(member.size) == content


def test_a_member_costs_little_memory() -> None:
    class Nowhere(io.BytesIO):
        def write(self, data: object) -> int:
            return 0

    archive = StoredZip(Nowhere())
    archive.add("meta.json", b"")
    members = 20_000
    tracemalloc.start()
    try:
        for number in range(members):
            archive.add(f"flow/{number:05d}.png", b"")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100 * members
