import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from flow_cache.errors import CacheFileError
from flow_cache.zip_format import Directory, member_name

PATH = Path("some.zip")


def packed(names: list[str], comment: bytes = b"", extra: bytes = b"") -> tuple[bytes, zipfile.ZipFile]:
    """A zip as Python writes it, each member holding its own name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.comment, info.extra = comment, extra
            archive.writestr(info, name)
    return buffer.getvalue(), zipfile.ZipFile(buffer)


def read(data: bytes) -> Directory:
    return Directory(PATH, io.BytesIO(data), len(data))


# The second comment holds an entry's signature, the third a whole entry: neither may be taken for one.
COMMENTS = [b"", b"PK\1\2", b"PK\1\2" + bytes(42) + b"tail", b"xPK\1\2" * 3]


@pytest.mark.parametrize("comment", COMMENTS)
@pytest.mark.parametrize("extra", [b"", struct.pack("<2H3s", 0xCAFE, 3, b"abc")])
@pytest.mark.parametrize("seed", range(3))
def test_says_what_zipfile_says_in_any_order(comment: bytes, extra: bytes, seed: int) -> None:
    names = ["meta.json", *(f"flow/{n:05d}.jls" for n in range(9)), *(f"rgb/{n:05d}.jpg" for n in range(10))]
    names = [names[0], *np.random.default_rng(seed).permutation(names[1:])]
    data, archive = packed(names, comment, extra)
    directory = read(data)
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
        "flow/-0002.png", "flow\\00002.png", "rgb/00002.png", "flow/00002.jls", "../ow/00002.png", "x",
    ],
)  # fmt: skip
def test_only_the_very_name_counts(name: str) -> None:
    data, _ = packed(["meta.json", "flow/00000.png", name, "flow/00001.png"])
    with pytest.raises(CacheFileError, match=r"flow/00002\.png: is missing"):
        read(data).numbered("flow", "png", 3)


def test_no_members_at_all() -> None:
    directory = read(packed([])[0])
    assert len(directory) == 0
    assert len(directory.numbered("rgb", "jpg", 0)) == 0


@pytest.mark.parametrize("place", range(46))
def test_every_byte_of_an_entry_is_read_right_or_refused(place: int) -> None:
    data, archive = packed(["meta.json", "flow/00000.png", "flow/00001.png"])
    broken = bytearray(data)
    entry = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    broken[entry + place] ^= 0x41
    try:
        member = read(bytes(broken)).numbered("flow", "png", 2)[0]
    except CacheFileError:
        return
    info = archive.getinfo("flow/00000.png")
    expected = (info.filename, info.header_offset, info.file_size, info.CRC)
    if 16 <= place < 20 or 42 <= place < 46:  # CRC and offset are held against the member when it is read
        assert member[0] == expected[0]
    else:
        assert member == expected
