import json
import os
import pickle
import shutil
import struct
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.meta import CacheMeta
from flow_cache.cache.naming import cache_path
from flow_cache.cache.reader import CacheReader
from flow_cache.cache.writer import CacheWriter
from flow_cache.errors import ArgumentError, CacheFileError
from flow_cache.storage.atomic import temporary_files

RNG = np.random.default_rng(0)


def read_all(path: Path) -> tuple[CacheMeta, np.ndarray, np.ndarray]:
    with CacheReader(path) as reader:
        return reader.meta, reader.flow(range(reader.num_fields)), reader.rgb(range(reader.num_frames))


def repack(path: Path, target: Path, edit=lambda members: members, **options) -> Path:
    """Rewrite a cache file with Python's zipfile, its members edited in between: a dict of name to bytes."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(target, "w", **options) as archive:
        for name, data in edit(members).items():
            archive.writestr(name, data)
    return target


def edit_meta(**values):
    def edit(members: dict[str, bytes]) -> dict[str, bytes]:
        return members | {"meta.json": json.dumps(json.loads(members["meta.json"]) | values).encode()}

    return edit


def test_what_is_written_is_read(tmp_path: Path, fields, with_rgb, write) -> None:
    path = write(tmp_path / "deep" / "er" / "a.flow.zip")
    with CacheReader(path) as reader:
        assert (reader.num_fields, reader.num_frames, reader.height, reader.width) == (5, 6, 12, 16)
        assert reader.has_rgb
        assert reader.file_size == path.stat().st_size
        assert reader.meta == replace(with_rgb, frames=6, fields=5, height=12, width=16, clip_fraction=0.25)
        assert np.array_equal(reader.flow([4, 0, 0, 2, 4]), fields[[4, 0, 0, 2, 4]])
        assert np.array_equal(reader.flow(np.array([1])), fields[[1]])
        assert reader.flow([]).shape == (0, 2, 12, 16)
        assert reader.rgb([5, 5]).shape == (2, 12, 16, 3)
        assert reader.rgb([]).shape == (0, 12, 16, 3)
        reader.check()
    assert not list(temporary_files(tmp_path))


def test_any_unzip_opens_it_and_meta_is_first(tmp_path: Path, write) -> None:
    path = write(tmp_path / "a.flow.zip")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "meta.json"
        assert {"flow/00000.png", "flow/00004.png", "rgb/00005.jpg"} < set(archive.namelist())
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        assert json.loads(archive.read("meta.json"))["fields"] == 5
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-tqq", path], check=True)


def test_near_lossless_error_is_bounded(tmp_path: Path, fields, png, write) -> None:
    path = write(tmp_path / "a.flow.zip", replace(png, storage=StorageSettings("jpegls", max_error=2)))
    with CacheReader(path) as reader:
        error = np.abs(reader.flow(range(5)).astype(int) - fields)
    assert 0 < error.max() <= 2


def test_reader_can_be_pickled(tmp_path: Path, fields, write) -> None:
    with CacheReader(write(tmp_path / "a.flow.zip")) as reader:
        copy = pickle.loads(pickle.dumps(reader))
    with copy:
        assert np.array_equal(copy.flow([3]), fields[[3]])


@pytest.mark.parametrize("indices", [[5], [-1], [0, 99]])
def test_indices_outside_are_refused(tmp_path: Path, indices: list[int], write) -> None:
    with CacheReader(write(tmp_path / "a.flow.zip")) as reader:
        with pytest.raises(CacheFileError, match="holds 0 to 4"):
            reader.flow(indices)
        with pytest.raises(CacheFileError, match=r"a\.flow\.zip: frame 6 asked for"):
            reader.rgb([6])


def test_rgb_of_a_cache_without(tmp_path: Path, png, write) -> None:
    with (
        CacheReader(write(tmp_path / "a.flow.zip", png)) as reader,
        pytest.raises(CacheFileError, match="--rgb"),
    ):
        reader.rgb([0])


def test_closed_reader_says_so(tmp_path: Path, write) -> None:
    reader = CacheReader(write(tmp_path / "a.flow.zip"))
    reader.close()
    with pytest.raises(CacheFileError, match="closed"):
        reader.flow([0])


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(CacheFileError, match="no such cache file"):
        CacheReader(tmp_path / "none.flow.zip")
    with pytest.raises(CacheFileError, match="directory"):
        CacheReader(tmp_path)


def test_every_truncation_is_noticed_on_opening(tmp_path: Path, write) -> None:
    data = write(tmp_path / "a.flow.zip").read_bytes()
    cut = tmp_path / "cut.flow.zip"
    for length in [*range(0, len(data), 97), len(data) - 1]:
        cut.write_bytes(data[:length])
        with pytest.raises(CacheFileError, match=r"cut\.flow\.zip"):
            CacheReader(cut)


def test_bit_flips_never_give_wrong_arrays(tmp_path: Path, write) -> None:
    path = write(tmp_path / "a.flow.zip")
    data = path.read_bytes()
    expected = read_all(path)
    flipped = tmp_path / "flipped.flow.zip"
    refused = 0
    positions = np.concatenate([RNG.integers(0, len(data), 200), np.arange(len(data) - 1200, len(data), 5)])
    for position in positions:
        broken = bytearray(data)
        broken[position] ^= 1 << int(RNG.integers(8))
        flipped.write_bytes(broken)
        try:
            got = read_all(flipped)
        except CacheFileError:
            refused += 1
        else:  # a time stamp, a version number, ...
            assert got[0] == expected[0]
            assert all(np.array_equal(a, b) for a, b in zip(got[1:], expected[1:], strict=True))
    assert refused > len(positions) / 2


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "junk.flow.zip"
    end = struct.Struct("<4s4H2LH")
    for seed in range(60):
        rng = np.random.default_rng(seed)
        body = rng.bytes(int(rng.integers(0, 400)))
        count, size, offset = (int(v) for v in rng.integers(0, 500, 3))
        path.write_bytes(body + end.pack(b"PK\5\6", 0, 0, count, count, size, offset, 0))
        with pytest.raises(CacheFileError):
            CacheReader(path)


def test_damage_names_the_member(tmp_path: Path, write) -> None:
    path = write(tmp_path / "a.flow.zip")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("flow/00003.png")
    data[info.header_offset + 30 + len(info.filename) + 40] ^= 4
    path.write_bytes(data)
    with CacheReader(path) as reader:
        reader.flow([0, 1, 2, 4])
        with pytest.raises(CacheFileError, match=r"member flow/00003\.png: damaged"):
            reader.flow([2, 3])
        with pytest.raises(CacheFileError, match=r"flow/00003"):
            reader.check()


def test_file_that_shrinks_after_opening(tmp_path: Path, write) -> None:
    path = write(tmp_path / "a.flow.zip")
    with CacheReader(path) as reader:
        os.truncate(path, 2500)
        with pytest.raises(CacheFileError, match="the file ends inside it"):
            reader.flow(range(5))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: {n: d for n, d in m.items() if n != "flow/00002.png"}, "holds 10 members"),
        (
            lambda m: {("flow/9.png" if n == "flow/00002.png" else n): d for n, d in m.items()},
            "flow/00002.png: is missing",
        ),
        (lambda m: dict(reversed(list(m.items()))), "first member must be meta.json"),
        (lambda m: {n: d for n, d in m.items() if n != "meta.json"}, "first member must be meta.json"),
        (lambda m: m | {"../../etc/passwd": b"x"}, "members"),
        (lambda m: m | {"meta.json": b"not json"}, "member meta.json"),
        (lambda m: m | {"meta.json": b" " * 2_000_000}, "too large"),
        (edit_meta(fields=4), "members"),
        (edit_meta(frames=7, fields=4), "announces 4 fields"),
        (edit_meta(frames=0, fields=0), "members"),
        (edit_meta(width=0), "of 0x12"),
        (edit_meta(step=2), "announces 5 fields"),
        (edit_meta(codec="jpegls"), "flow/00000.jls: is missing"),
        (edit_meta(format_version=99), "format version 99"),
        (edit_meta(bound=-3), "bound"),
        (edit_meta(width=10**12), "width"),
    ],
)
def test_files_that_contradict_themselves_are_refused_on_opening(
    tmp_path: Path, edit, message: str, write
) -> None:
    path = repack(write(tmp_path / "a.flow.zip"), tmp_path / "b.flow.zip", edit)
    with pytest.raises(CacheFileError) as caught:
        CacheReader(path)
    assert message in str(caught.value)
    assert "b.flow.zip" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("width", "height"), [(17, 12), (16, 13), (32767, 32767)])
def test_size_in_meta_must_be_that_of_the_images(tmp_path: Path, width: int, height: int, write) -> None:
    path = repack(
        write(tmp_path / "a.flow.zip"), tmp_path / "b.flow.zip", edit_meta(width=width, height=height)
    )
    with CacheReader(path) as reader:
        with pytest.raises(CacheFileError, match=r"flow/00000\.png: holds an image of shape \(24, 16\)"):
            reader.flow([0] * 1000)  # nothing of that size is allocated first
        with pytest.raises(CacheFileError, match=r"rgb/00000\.jpg: holds an image"):
            reader.rgb([0])


def test_image_of_another_codec_inside_is_named(tmp_path: Path, write) -> None:
    junk = repack(
        write(tmp_path / "a.flow.zip"),
        tmp_path / "b.flow.zip",
        lambda m: m | {"flow/00001.png": m["rgb/00000.jpg"]},
    )
    with CacheReader(junk) as reader, pytest.raises(CacheFileError, match=r"flow/00001\.png: is no PNG"):
        reader.flow([0, 1])


def test_repacked_plain_zip_is_read_and_deflated_refused(tmp_path: Path, fields, write) -> None:
    path = write(tmp_path / "a.flow.zip")
    assert np.array_equal(read_all(repack(path, tmp_path / "b.flow.zip"))[1], fields)
    deflated = repack(path, tmp_path / "c.flow.zip", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CacheFileError, match="plainly stored"):
        CacheReader(deflated)


def test_local_extra_fields_are_stepped_over(tmp_path: Path, fields, png, write) -> None:
    path = write(tmp_path / "a.flow.zip", png)
    target = tmp_path / "b.flow.zip"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as other:
        for info in archive.infolist():
            copy = zipfile.ZipInfo(info.filename)
            copy.extra = struct.pack("<2H4s", 0xCAFE, 4, b"abcd")
            other.writestr(copy, archive.read(info))
    with CacheReader(target) as reader:
        assert np.array_equal(reader.flow(range(5)), fields)


def test_more_members_than_a_plain_zip_can_hold(tmp_path: Path, png) -> None:
    count = 66_000
    path = tmp_path / "long.flow.zip"
    still, moving = np.full((2, 2, 8, 8), 128, np.uint8), np.full((1, 2, 8, 8), 121, np.uint8)
    with CacheWriter(path, png) as writer:
        writer.add_flow(np.broadcast_to(still[:1], (count - 1, 2, 8, 8)))
        writer.add_flow(moving)
    with CacheReader(path) as reader:
        assert reader.num_fields == count
        assert np.array_equal(reader.flow([0, 65_535, count - 1]), np.concatenate([still, moving]))
    data = path.read_bytes()
    for length in (len(data) - 23, len(data) - 60, len(data) - 43):  # inside the zip64 records
        path.write_bytes(data[:length])
        with pytest.raises(CacheFileError):
            CacheReader(path)
    path.write_bytes(data[:-42] + b"PK\6\7" + struct.pack("<LQL", 0, 1 << 60, 1) + data[-22:])
    with pytest.raises(CacheFileError, match="end record"):
        CacheReader(path)


def test_offsets_beyond_four_gigabytes(tmp_path: Path, fields, png, write) -> None:
    """A sparse file: what a plain zip needs its zip64 offsets for, without the disk space."""
    path = write(tmp_path / "a.flow.zip", png)
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    target = tmp_path / "big.flow.zip"
    with target.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            if name == "flow/00003.png":
                file.seek(5 << 30)
                archive.start_dir = file.tell()
            archive.writestr(name, data)
    with CacheReader(target) as reader:
        assert np.array_equal(reader.flow(range(5)), fields)


@pytest.mark.parametrize(
    ("video", "expected"),
    [
        ("walk/a.b.avi", "walk/a.b.flow.zip"),
        ("A.MP4", "A.flow.zip"),
        ("person.01", "person.01.flow.zip"),
        (PurePosixPath("x/y/z.webm"), "x/y/z.flow.zip"),
        ("./a.avi", "a.flow.zip"),
    ],
)
def test_cache_path(video: str, expected: str) -> None:
    assert cache_path("root", video) == Path("root") / expected


@pytest.mark.parametrize(
    "video", ["../a.avi", "/etc/a.avi", "a/../../b.avi", "", ".", "a\\..\\b.avi", "a\0.avi"]
)
def test_cache_path_never_leaves_the_root(video: str) -> None:
    with pytest.raises(ArgumentError, match="stays inside"):
        cache_path("root", video)


def test_much_room_is_given_only_to_what_can_be_decoded(tmp_path: Path, fields, write) -> None:
    class Strict(CacheReader):
        _max_unproven = 0

    class Full(CacheReader):
        def _allocate(self, *arguments):
            raise MemoryError

    path = write(tmp_path / "a.flow.zip")
    with Strict(path) as reader:
        assert np.array_equal(reader.flow([4, 1, 4]), fields[[4, 1, 4]])
    cut = repack(path, tmp_path / "b.flow.zip", lambda m: m | {"flow/00001.png": m["flow/00001.png"][:60]})
    with Strict(cut) as reader, pytest.raises(CacheFileError, match="cannot be decoded"):
        reader.flow([1] * 1000)
    with (
        Full(path) as reader,
        pytest.raises(CacheFileError, match=r"1000 images of .* do not fit into memory"),
    ):
        reader.flow([1] * 1000)


def test_rgb_as_it_is_stored(tmp_path: Path, write) -> None:
    path = write(tmp_path / "a.flow.zip")
    with CacheReader(path) as reader, zipfile.ZipFile(path) as archive:
        assert reader.encoded_rgb(5) == archive.read("rgb/00005.jpg")
        for index in (-1, 6):
            with pytest.raises(CacheFileError, match=f"frame {index} asked for, holds 6 RGB frames"):
                reader.encoded_rgb(index)


def test_an_odd_name_in_a_message_stays_one_line(tmp_path: Path, write) -> None:
    path = repack(
        write(tmp_path / "a.flow.zip"),
        tmp_path / "b.flow.zip",
        lambda m: {("\n\x1b[2J" if n == "flow/00002.png" else n): d for n, d in m.items()},
        compression=zipfile.ZIP_DEFLATED,
    )
    data = bytearray(path.read_bytes())
    for name in (b"meta.json", b"flow/0000"):  # so that the odd one is the first to be refused
        place = data.index(b"PK\1\2")
        while (place := data.find(b"PK\1\2", place)) >= 0:
            if data[place + 46 : place + 46 + len(name)] == name:
                data[place + 10 : place + 12] = b"\0\0"
                data[place + 20 : place + 24] = data[place + 24 : place + 28]
            place += 4
    path.write_bytes(data)
    with pytest.raises(CacheFileError) as caught:
        CacheReader(path)
    assert str(caught.value).isprintable()
