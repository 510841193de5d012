"""Ctrl-C and SIGTERM while a command works on a finished cache: the exit status, a line, and nothing half-written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from interruption import SIGNALS, holds, interrupt, reads

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.index import read_index
from flow_cache.cache.meta import CacheMeta, Source
from flow_cache.cache.naming import cache_path
from flow_cache.cache.reader import CacheReader
from flow_cache.cache.writer import CacheWriter
from flow_cache.cli.main import main
from flow_cache.commands.export import ExportConfig, export_cache
from flow_cache.commands.verify import verify_cache

VIDEOS, FIELDS = 4, 150
MANY = 300  # cache files for `info`, which reads little of each

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="looks for open files in Linux's /proc"
)


@dataclass(frozen=True)
class Case:
    """A command that is interrupted.

    Attributes:
        arguments: in which {name} stands for a place.
        works: tells whether the work has begun.
        said: what it says of itself.
        check: asserts that what it leaves is whole, and how much that is.
    """

    arguments: Sequence[str]
    works: Callable[[int, Path], bool]
    said: str
    check: Callable[[Path, str, Mapping[str, Path]], None]


def nothing(out: Path, error: str, places: Mapping[str, Path]) -> None:
    assert not list(out.iterdir())


def said(pattern: str, error: str, done: int) -> list[int]:
    """Find the numbers in a message; the last of what is done need not be counted, as the signal may come just then."""
    match = re.search(pattern, error)
    assert match is not None, error
    numbers = [int(number) for number in match.groups()]
    assert numbers[0] in (done - 1, done)
    return numbers


def whole_folders(out: Path, error: str, places: Mapping[str, Path]) -> None:
    folders = list(out.iterdir())
    assert 0 < len(folders) < VIDEOS
    assert {len(list(folder.iterdir())) for folder in folders} == {2 * FIELDS}
    assert said(r": (\d+) of (\d+) videos are exported, 0 failed; ", error, len(folders))[1] == VIDEOS


def whole_caches(out: Path, error: str, places: Mapping[str, Path]) -> None:
    found = verify_cache(out, decode=True, progress=False)
    assert 0 < found.files < VIDEOS
    assert found.faults == []
    assert sum(said(r": (\d+) videos are done, 0 failed, (\d+) remain; ", error, found.files)) == VIDEOS
    assert len(read_index(out)) == found.files
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.flow.zip")}
    assert {path.suffix for path in out.iterdir()} == {".zip", ".csv"}
    assert main(["import", str(places["images"]), "--out", str(out)]) == 0
    assert verify_cache(out, decode=True, progress=False).fields == VIDEOS * FIELDS
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


CASES = {
    "view": Case(["view", "{cache}/0.flow.zip", "--out={out}/v.avi"], holds(".*.flow.tmp.avi"), "", nothing),
    "export": Case(
        ["export", "{cache}", "--out={out}"], holds("0"), "--overwrite exports all", whole_folders
    ),
    "import": Case(
        ["import", "{images}", "--out={out}"], holds("*.flow.zip"), "the same command goes on", whole_caches
    ),
    "verify": Case(["verify", "{cache}", "--decode"], reads(".zip"), "", nothing),
    "info": Case(["info", "{many}"], reads(".zip"), "", nothing),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A cache of few large files, the same as images, and a cache of many small files."""
    folder = tmp_path_factory.mktemp("interrupted")
    places = {name: folder / name for name in ("cache", "images", "many")}
    levels = np.random.default_rng(0).integers(118, 139, (FIELDS, 2, 48, 64), np.uint8)
    for name, fields in (("cache", levels), ("many", levels[:1])):
        meta = CacheMeta(Source("0.avi", 1, ""), "tvl1", storage=StorageSettings("png"))
        with CacheWriter(cache_path(places[name], "0.avi"), meta) as writer:
            writer.add_flow(fields)
    with CacheReader(places["cache"] / "0.flow.zip") as reader:
        for number in range(1, VIDEOS):
            CacheWriter.copy(reader, cache_path(places["cache"], f"{number}.avi"), f"{number}.avi")
    for number in range(1, MANY):
        (places["many"] / f"{number}.flow.zip").hardlink_to(places["many"] / "0.flow.zip")
    export_cache(ExportConfig(places["cache"], places["images"], "png"), progress=False)
    return places


@pytest.mark.parametrize(("number", "status"), SIGNALS)
@pytest.mark.parametrize("name", CASES)
def test_an_interruption_leaves_nothing_half_done(
    name: str, number: int, status: int, places: dict[str, Path], tmp_path: Path
) -> None:
    case = CASES[name]

    def arguments(out: Path) -> list[str]:
        return [argument.format(out=out, **places) for argument in case.arguments]

    before = {path: path.stat().st_mtime_ns for path in places["cache"].iterdir()}
    ended = interrupt("flow_cache.cli.main", arguments, number, case.works, tmp_path)
    assert (ended.status, ended.output) == (status, ""), ended
    assert ended.error.startswith("flow-cache: error: interrupted")
    assert case.said in ended.error
    assert ended.error.count("\n") == 1
    case.check(ended.out, ended.error, places)
    assert {path: path.stat().st_mtime_ns for path in places["cache"].iterdir()} == before
