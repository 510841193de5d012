import io
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flow_cache.cache.meta import Source
from flow_cache.cache.reader import CacheReader
from flow_cache.cache.writer import CacheWriter
from flow_cache.errors import ArgumentError, CacheWriteError
from flow_cache.storage.atomic import (
    probe_writable,
    remove_stale_temporaries,
    temporary_files,
    write_atomically,
)


def test_the_same_input_gives_the_same_bytes_however_it_is_chunked(
    tmp_path: Path, fields, png, write
) -> None:
    streamed = write(tmp_path / "a.flow.zip", png)
    with CacheWriter(tmp_path / "b.flow.zip", png) as writer:
        writer.add_flow(fields)
        writer.close(clip_fraction=0.25)
    assert streamed.read_bytes() == (tmp_path / "b.flow.zip").read_bytes()


def test_an_exception_leaves_nothing(tmp_path: Path, fields, png) -> None:
    def fail() -> None:
        with CacheWriter(tmp_path / "a.flow.zip", png) as writer:
            writer.add_flow(fields)
            assert len(list(tmp_path.iterdir())) == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_closed_writer_says_so(tmp_path: Path, fields, png) -> None:
    writer = CacheWriter(tmp_path / "a.flow.zip", png)
    writer.abort()
    writer.abort()  # harmless
    with pytest.raises(ArgumentError, match="closed"):
        writer.close()
    with pytest.raises(ArgumentError, match="closed"):
        writer.add_flow(fields)


def test_an_existing_file_is_replaced_only_when_the_new_one_is_whole(
    tmp_path: Path, fields, png, write
) -> None:
    path = write(tmp_path / "a.flow.zip")
    before = path.read_bytes()
    writer = CacheWriter(path, png)
    writer.add_flow(fields)
    writer.abort()
    assert path.read_bytes() == before
    write(path, png)
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda w, fields, frames: w.close(), "at least one flow field"),
        (
            lambda w, fields, frames: (w.add_flow(fields), w.add_rgb(frames[:3]), w.close()),
            "need 6 RGB frames, got 3",
        ),
        (lambda w, fields, frames: w.add_flow(fields[0]), r"flow must be \(n, 2, H, W\) uint8"),
        (lambda w, fields, frames: w.add_flow(fields.astype(np.float32)), "float32"),
        (lambda w, fields, frames: w.add_rgb(frames[..., :2]), r"rgb must be \(n, H, W, 3\)"),
        (
            lambda w, fields, frames: (w.add_flow(fields), w.add_flow(fields[..., :8])),
            r"height and width \(12, 16\)",
        ),
        (lambda w, fields, frames: w.add_flow(fields[..., :0]), "sides from 1"),
    ],
)
def test_arrays_that_do_not_belong_are_refused(
    tmp_path: Path, use, message: str, fields, frames, with_rgb
) -> None:
    with (
        pytest.raises(ArgumentError, match=message),
        CacheWriter(tmp_path / "a.flow.zip", with_rgb) as writer,
    ):
        use(writer, fields, frames)
    assert not list(tmp_path.iterdir())


def test_rgb_needs_a_quality(tmp_path: Path, frames, png) -> None:
    with (
        pytest.raises(ArgumentError, match="rgb_quality"),
        CacheWriter(tmp_path / "a.flow.zip", png) as writer,
    ):
        writer.add_rgb(frames)


def test_meta_fits_its_reserve_whatever_happens(tmp_path: Path, fields, png) -> None:
    meta = replace(png, source=Source("ü" * 200, (1 << 62), "f" * 64))
    with CacheWriter(tmp_path / "a.flow.zip", meta) as writer:
        writer.add_flow(fields)
        final = writer.close(clip_fraction=1 / 3, partial="😀" * 5000)
    with CacheReader(tmp_path / "a.flow.zip") as reader:
        assert reader.meta == final
        assert reader.meta.partial == "😀" * 200


def test_unwritable_places(tmp_path: Path, png, write) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheWriteError, match="cannot write"):
        CacheWriter(tmp_path / "file" / "a.flow.zip", png)
    with pytest.raises(CacheWriteError, match="cannot write"):
        probe_writable(tmp_path / "file" / "cache")
    with pytest.raises(CacheWriteError, match="cannot write"):
        write_atomically(tmp_path / "nowhere" / "index.csv", b"")
    (tmp_path / "taken.flow.zip").mkdir()
    with pytest.raises(CacheWriteError, match="taken"):
        write(tmp_path / "taken.flow.zip")
    with pytest.raises(CacheWriteError):
        write_atomically(tmp_path / "taken.flow.zip", b"")
    assert not list(temporary_files(tmp_path))


@pytest.mark.parametrize("limit", [1000, 30_000])
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    code = (
        "import resource, sys, numpy as np\n"
        "from flow_cache.cache.writer import CacheWriter\n"
        "from flow_cache.cache.meta import CacheMeta, Source\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n"
        "    with CacheWriter(sys.argv[1], CacheMeta(Source('a.avi'), 'tvl1')) as writer:\n"
        "        for _ in range(40): writer.add_flow(np.random.randint(0, 255, (1, 2, 40, 40), np.uint8))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.flow.zip"], capture_output=True, text=True
    )
    assert run.stdout.startswith("CacheWriteError cannot write")
    assert "File too large" in run.stdout
    assert run.stderr == ""
    assert not list(tmp_path.iterdir())


def test_temporaries_of_the_dead_are_removed_those_of_the_living_kept(tmp_path: Path, fields, png) -> None:
    with CacheWriter(tmp_path / "sub" / "a.flow.zip", png) as writer:
        (living,) = temporary_files(tmp_path)
        dead = tmp_path / ".0123456789abcdef.flow.tmp"
        dead.write_bytes(b"half")
        assert remove_stale_temporaries(tmp_path) == 1
        assert living.exists()
        assert not dead.exists()
        writer.add_flow(fields)
    with CacheReader(tmp_path / "sub" / "a.flow.zip") as reader:
        assert reader.num_fields == 5


def test_crc_of_meta_is_right_after_patching(tmp_path: Path, write) -> None:
    data = write(tmp_path / "a.flow.zip").read_bytes()
    crc, size = struct.unpack_from("<L4xL", data, 14)
    assert crc == zlib.crc32(data[39 : 39 + size])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert crc == archive.getinfo("meta.json").CRC
