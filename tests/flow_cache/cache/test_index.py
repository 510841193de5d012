import csv
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.index import IndexEntry, read_index, rebuild_index, refresh_index, scan_cache
from flow_cache.cache.meta import CacheMeta, Source
from flow_cache.cache.naming import cache_path
from flow_cache.cache.reader import CacheReader
from flow_cache.cache.writer import CacheWriter
from flow_cache.errors import CacheFileError


def add(root: Path, video: str, fields: int = 3, bound: float = 20.0) -> Path:
    meta = CacheMeta(
        Source(video, 1, ""), "farneback", bound=bound, fps=29.97003, storage=StorageSettings(max_error=2)
    )
    with CacheWriter(cache_path(root, video), meta) as writer:
        writer.add_flow(np.full((fields, 2, 10, 12), 128, np.uint8))
        writer.close(clip_fraction=0.1)
    return cache_path(root, video)


def test_index_says_what_the_files_say(tmp_path: Path) -> None:
    path = add(tmp_path, "walk/a, b.avi")
    add(tmp_path, "c.mp4", fields=5)
    expected = IndexEntry(
        "walk/a, b.avi", "walk/a, b.flow.zip", 4, 3, 10, 12, False, 29.97003, 20.0, 1, "farneback", 0.1,
        path.stat().st_size, str(path.stat().st_mtime_ns),
    )  # fmt: skip
    in_memory = read_index(tmp_path)
    assert [entry.video for entry in in_memory] == ["c.mp4", "walk/a, b.avi"]
    assert in_memory[1] == expected
    assert not (tmp_path / "index.csv").exists()
    assert rebuild_index(tmp_path) == in_memory
    assert read_index(tmp_path) == in_memory


def test_the_content_of_videos_stands_in_the_index_and_is_completed_in_one_of_an_earlier_version(
    tmp_path: Path,
) -> None:
    digest = "0f" * 32
    with CacheWriter(cache_path(tmp_path, "a.avi"), CacheMeta(Source("a.avi", 1, digest), "tvl1")) as writer:
        writer.add_flow(np.full((3, 2, 10, 12), 128, np.uint8))
    add(tmp_path, "b.avi")
    assert [entry.source_sha256 for entry in rebuild_index(tmp_path)] == [digest, ""]
    index = tmp_path / "index.csv"
    whole = index.read_text()
    rows = [row.rpartition(",")[0] for row in whole.splitlines()]
    assert rows[0] + ",source_sha256" == whole.splitlines()[0]
    index.write_text("\n".join(rows) + "\n")
    assert [entry.source_sha256 for entry in read_index(tmp_path)] == ["unknown", "unknown"]
    assert refresh_index(tmp_path) == []
    assert index.read_text() == whole


def test_reading_a_current_index_opens_no_file(tmp_path: Path) -> None:
    path = add(tmp_path, "a.avi")
    entries = rebuild_index(tmp_path)
    status = path.stat()
    path.write_bytes(bytes(status.st_size))  # an error, if it were opened
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read_index(tmp_path) == entries


def test_a_row_refuses_another_file_in_the_place_of_its_own(tmp_path: Path) -> None:
    path = add(tmp_path, "a.avi")
    (entry,) = read_index(tmp_path)
    os.utime(path)  # touched, not changed
    with CacheReader(path) as reader:
        entry.require_same(reader)
    add(tmp_path, "a.avi", bound=10.0)
    with (
        CacheReader(path) as reader,
        pytest.raises(CacheFileError, match=r"a.flow.zip: was replaced .*bound 10.0, expected 20.0"),
    ):
        entry.require_same(reader)
    path.write_bytes(add(tmp_path, "b.avi").read_bytes())
    with CacheReader(path) as reader, pytest.raises(CacheFileError, match=r"video b.avi, expected a.avi"):
        entry.require_same(reader)


def test_new_removed_and_replaced_files_are_noticed(tmp_path: Path) -> None:
    add(tmp_path, "a.avi")
    add(tmp_path, "b.avi")
    rebuild_index(tmp_path)
    add(tmp_path, "c.avi")
    assert [entry.video for entry in read_index(tmp_path)] == ["a.avi", "b.avi", "c.avi"]
    cache_path(tmp_path, "a.avi").unlink()
    assert [entry.video for entry in read_index(tmp_path)] == ["b.avi", "c.avi"]
    add(tmp_path, "b.avi", fields=9)
    assert read_index(tmp_path)[0].num_fields == 9


def test_a_replaced_file_of_the_same_size_is_noticed(tmp_path: Path) -> None:
    path = add(tmp_path, "a.avi", bound=20.0)
    rebuild_index(tmp_path)
    size = path.stat().st_size
    add(tmp_path, "a.avi", bound=30.0)
    assert path.stat().st_size == size
    later = (tmp_path / "index.csv").stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))
    assert read_index(tmp_path)[0].bound == 30.0


@pytest.mark.parametrize("text", ["", "video\nx\n", "junk\0", 'video,"', "\xff"])
def test_a_broken_index_is_rebuilt_from_the_files(tmp_path: Path, text: str) -> None:
    add(tmp_path, "a.avi")
    good = rebuild_index(tmp_path)
    (tmp_path / "index.csv").write_text(text, encoding="latin-1")
    assert read_index(tmp_path) == good


def test_index_cannot_point_outside(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    add(root, "a.avi")
    rebuild_index(root)
    text = (root / "index.csv").read_text().replace("a.flow.zip", "../a.flow.zip")
    (root / "index.csv").write_text(text)
    assert [entry.cache_file for entry in read_index(root)] == ["a.flow.zip"]


def test_damaged_files_are_raised_or_listed(tmp_path: Path) -> None:
    add(tmp_path, "a.avi")
    (tmp_path / "b.flow.zip").write_bytes(b"junk")
    (tmp_path / "c.flow.zip").symlink_to("nowhere")
    with pytest.raises(CacheFileError, match=r"b\.flow\.zip"):
        rebuild_index(tmp_path)
    entries, damaged = scan_cache(tmp_path)
    assert [entry.video for entry in entries] == ["a.avi"]
    assert [error.path.name for error in damaged] == ["b.flow.zip", "c.flow.zip"]


def test_missing_folder_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CacheFileError, match="no such cache folder"):
        read_index(tmp_path / "none")
    assert read_index(tmp_path) == []


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    video = os.fsdecode(b"caf\xe9.avi")
    add(tmp_path, video)
    assert rebuild_index(tmp_path) == read_index(tmp_path)
    assert read_index(tmp_path)[0].video == video


def test_rows_are_plain_csv(tmp_path: Path) -> None:
    add(tmp_path, "a.avi")
    (entry,) = rebuild_index(tmp_path)
    with (tmp_path / "index.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["num_fields"] == "3"
    assert row["has_rgb"] == "False"
    assert replace(entry, video=row["video"]) == entry


def test_an_index_written_while_others_still_write_is_not_believed(tmp_path: Path) -> None:
    path = add(tmp_path, "a.avi", bound=20.0)
    size = path.stat().st_size

    def scan_then_others_write(root: Path):
        found = scan_cache(root)
        time.sleep(0.02)  # more than a tick of the file system's clock
        add(tmp_path, "a.avi", bound=30.0)
        add(tmp_path, "b.avi")
        return found

    assert refresh_index(tmp_path, scan=scan_then_others_write) == []
    assert path.stat().st_size == size
    assert [(entry.video, entry.bound) for entry in read_index(tmp_path)] == [
        ("a.avi", 30.0),
        ("b.avi", 20.0),
    ]
