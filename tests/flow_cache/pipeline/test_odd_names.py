"""Names that would break a line, a table or a terminal go through a run and come back as they are."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import sys
from pathlib import Path

import pytest

from flow_cache.cache.index import read_index, scan_cache
from flow_cache.cli.main import main
from flow_cache.errors import CacheFileError
from flow_cache.pipeline.outcome import read_failures
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import PrecomputeConfig

NAMES = (
    "a\rb",
    "a\nb",
    "a\r\nb",
    "a\tb",
    'a"b',
    "a,b",
    " a",
    "=1+1",
    "'a",
    "a\udcffb",
    "\x1b[31ma",
    "a\x85b",
)

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names there hold less")


@pytest.fixture
def odd(videos: Path, tmp_path: Path) -> Path:
    """A good and a bad video of each name."""
    folder = tmp_path / "odd"
    for kind in ("good", "bad"):
        (folder / kind).mkdir(parents=True)
    for name in NAMES:
        shutil.copy(videos / "c.avi", folder / "good" / f"{name}.avi")
        (folder / "bad" / f"{name}.avi").write_text("no video")
    return folder


def test_a_run_keeps_every_name(config: PrecomputeConfig, odd: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(config, input=odd)
    summary = precompute(config, progress=False)
    assert (summary.done, len(summary.failures)) == (len(NAMES), len(NAMES))
    cache = Path(config.output)
    assert {failure.video for failure in read_failures(cache)} == {f"bad/{name}.avi" for name in NAMES}
    with (cache / "index.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert {row["video"] for row in rows} == {f"good/{name}.avi" for name in NAMES}
    # the index is believed: no file is opened
    for path in cache.rglob("*.flow.zip"):
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(read_index(cache)) == len(NAMES)
    assert scan_cache(cache)[1] == []
    (cache / "index.csv").unlink()
    with pytest.raises(CacheFileError):
        read_index(cache)


def test_the_lists_that_a_run_writes_name_videos_for_another(
    config: PrecomputeConfig, odd: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(config, input=odd)
    precompute(config, progress=False)
    for name, done, failed in (("index.csv", len(NAMES), 0), ("failures.csv", 0, len(NAMES))):
        again = dataclasses.replace(
            config, input=Path(config.output) / name, root=odd, output=tmp_path / "again" / name
        )
        summary = precompute(again, progress=False)
        assert (summary.done, len(summary.failures)) == (done, failed)


def test_the_terminal_sees_a_line_for_each(
    odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    assert main(["precompute", str(odd), f"--out={cache}", "--method=farneback", "--workers=1"]) == 1
    assert main(["verify", str(cache), f"--videos={odd}"]) == 1
    assert main(["info", str(cache)]) == 0
    assert main(["export", str(cache), f"--out={tmp_path / 'out'}"]) == 0
    assert main(["import", str(tmp_path / "out"), f"--out={tmp_path / 'in'}"]) == 0
    output, error = capsys.readouterr()
    assert error == ""
    lines = output.split("\n")
    assert all(line.isprintable() for line in lines)
    assert sum(line.startswith("failed: bad/") for line in lines) == len(NAMES)
    assert sum(line.startswith("bad: bad/") for line in lines) == len(NAMES)
