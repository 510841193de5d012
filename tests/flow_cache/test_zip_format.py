"""The zip of a cache file, against Python's `zipfile`."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_cache import zip_format
from flow_cache.errors import CacheFileError
from flow_cache.zip_format import FEW, Directory, StoredZip, member_name

PATH = Path("some.zip")
FIRST = b"first"


def packed(names: list[str], comment: bytes = b"", extra: bytes = b"") -> tuple[bytes, zipfile.ZipFile]:
    """A zip as Python writes it, each member holding its own name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.comment, info.extra = comment, extra
            archive.writestr(info, name)
    return buffer.getvalue(), zipfile.ZipFile(buffer)


def read(data: bytes, few: int = FEW) -> Directory:
    return Directory(PATH, io.BytesIO(data), len(data), few=few)


both_ways = pytest.mark.parametrize("few", [pytest.param(FEW, id="numbers"), pytest.param(0, id="arrays")])


# The second comment holds an entry's signature, the third a whole entry: neither may be taken for one.
COMMENTS = [b"", b"PK\1\2", b"PK\1\2" + bytes(42) + b"tail", b"xPK\1\2" * 3]


@pytest.mark.parametrize("comment", COMMENTS)
@pytest.mark.parametrize("extra", [b"", struct.pack("<2H3s", 0xCAFE, 3, b"abc")])
@pytest.mark.parametrize("seed", range(3))
@both_ways
def test_says_what_zipfile_says_in_any_order(comment: bytes, extra: bytes, seed: int, few: int) -> None:
    names = ["meta.json", *(f"flow/{n:05d}.jls" for n in range(9)), *(f"rgb/{n:05d}.jpg" for n in range(10))]
    names = [names[0], *np.random.default_rng(seed).permutation(names[1:])]
    data, archive = packed(names, comment, extra)
    directory = read(data, few)
    assert len(directory) == len(names)
    assert [directory.name(n) for n in range(len(names))] == names
    for prefix, extension, count in (("flow", "jls", 9), ("rgb", "jpg", 10)):
        members = directory.numbered(prefix, extension, count)
        assert len(members) == count
        for number in range(count):
            info = archive.getinfo(member_name(prefix, number, extension))
            assert members[number] == (info.filename, info.header_offset, info.file_size, info.CRC)


def test_numbers_may_have_more_than_five_digits() -> None:
    names = ["meta.json", *(f"flow/{n:05d}.png" for n in range(100_003))]
    data, _ = packed(names)
    members = read(data).numbered("flow", "png", 100_003)
    assert [members[n].name for n in (0, 99_999, 100_000, 100_002)] == [
        "flow/00000.png", "flow/99999.png", "flow/100000.png", "flow/100002.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "flow/000002.png", "flow/0002.png", "flow/00002.pn", "flow/00002.png ", "flow/0000\u0662.png", "Flow/00002.png",
        "flow/-0002.png", "flow/99999.png", "flow\\00002.png", "rgb/00002.png", "flow/00002.jls", "../ow/00002.png",
        "x",
    ],
)  # fmt: skip
@both_ways
def test_only_the_very_name_counts(name: str, few: int) -> None:
    data, _ = packed(["meta.json", "flow/00000.png", name, "flow/00001.png"])
    with pytest.raises(CacheFileError, match=r"flow/00002\.png: is missing"):
        read(data, few).numbered("flow", "png", 3)


def test_no_members_at_all() -> None:
    directory = read(packed([])[0])
    assert len(directory) == 0
    assert len(directory.numbered("rgb", "jpg", 0)) == 0


@both_ways
def test_more_asked_for_than_there_are(few: int) -> None:
    data, _ = packed(["meta.json", "flow/00000.png", "flow/00001.png"])
    with pytest.raises(CacheFileError, match=r"flow/00002\.png: is missing"):
        read(data, few).numbered("flow", "png", 100_000)


@pytest.mark.parametrize("place", range(46))
@both_ways
def test_every_byte_of_an_entry_is_read_right_or_refused(place: int, few: int) -> None:
    data, archive = packed(["meta.json", "flow/00000.png", "flow/00001.png"])
    broken = bytearray(data)
    entry = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    broken[entry + place] ^= 0x41
    try:
        member = read(bytes(broken), few).numbered("flow", "png", 2)[0]
    except CacheFileError:
        return
    info = archive.getinfo("flow/00000.png")
    expected = (info.filename, info.header_offset, info.file_size, info.CRC)
    if 16 <= place < 20 or 42 <= place < 46:  # CRC and offset are held against the member when it is read
        assert member[0] == expected[0]
    else:
        assert member == expected


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        pytest.param(8, 1, "is not a plainly stored", id="encrypted"),
        pytest.param(10, 8, "is not a plainly stored", id="deflated"),
        pytest.param(24, 1, "is not a plainly stored", id="two sizes"),
        pytest.param(45, 0x7F, "lies outside the file", id="outside"),
    ],
)
@both_ways
def test_what_a_reader_cannot_take_is_refused_by_name(place: int, value: int, reason: str, few: int) -> None:
    data = bytearray(packed(["meta.json", "flow/00000.png", "flow/00001.png"])[0])
    data[data.rindex(b"PK\1\2") + place] = value
    with pytest.raises(CacheFileError, match=rf"member flow/00001\.png: {reason}"):
        read(bytes(data), few)


@given(
    st.sampled_from([b"", b"x", b"PK\1\2"]),
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 59), st.sampled_from([0, 1, 8, 0x41, 0xFF])), max_size=3
    ),
)
def test_both_ways_say_the_same_of_any_damage(comment: bytes, damage: list[tuple[int, int, int]]) -> None:
    names = ["meta.json", *(f"flow/{n:05d}.png" for n in range(4))]
    data = bytearray(packed(names, comment)[0])
    start = data.index(b"PK\1\2")
    for entry, place, value in damage:
        before = sum(46 + len(name) + len(comment) for name in names[:entry])
        data[start + before + place] = value

    def outcome(few: int) -> str | list[object]:
        try:
            directory = read(bytes(data), few)
            members = [directory.member(n) for n in range(len(directory))]
            numbered = directory.numbered("flow", "png", 4)
            return [*members, *(numbered[n] for n in range(4))]
        except CacheFileError as error:
            return str(error)

    assert outcome(0) == outcome(FEW)


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


def test_as_many_members_as_a_plain_zip_can_count() -> None:
    data = written([b""] * 65_534)
    assert b"PK\6\6" not in data
    directory = read(data)
    assert len(directory) == 65_535
    assert directory.numbered("flow", "png", 65_534)[65_533].name == "flow/65533.png"


@both_ways
def test_a_file_beyond_two_gibibytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, few: int) -> None:
    contents = [bytes([number]) * 30 for number in range(9)]
    monkeypatch.setattr(zip_format, "_MOST_BYTES", 300)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 300)
    data = written(contents)
    assert data == by_zipfile(contents)
    path = tmp_path / "far.zip"
    path.write_bytes(data)
    with path.open("rb") as file:
        members = Directory(path, file, len(data), few=few).numbered("flow", "png", len(contents))
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
