"""Caches that an earlier version made are read, kept, verified and listed as that version did it (see record.py)."""

import csv
import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flow_cache import CacheReader, StorageSettings, read_index
from flow_cache.cli.main import main

FOLDER = Path(__file__).parent / "cache"
READ: dict[str, Any] = json.loads((FOLDER / "read.json").read_text(encoding="utf-8"))
FILES = [(name, file) for name, recorded in READ.items() for file in recorded["metas"]]
COUNTED = re.compile(r" *videos done +0 *\n *kept from before +(\d+) *\n")

each_cache = pytest.mark.parametrize("name", READ)
each_file = pytest.mark.parametrize(("name", "file"), FILES)


@pytest.fixture(scope="module")
def arrays() -> Mapping[str, np.ndarray]:
    with np.load(FOLDER / "arrays.npz") as file:
        return dict(file)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return bytes and time of the files that say nothing of when they were written."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*.flow.zip")
    }


def assert_holds(value: Any, recorded: Any, name: str) -> None:
    """Compare all that was recorded of a value; it may have further attributes."""
    if isinstance(recorded, dict):
        for key, expected in recorded.items():
            found = value[key] if isinstance(value, Mapping) else getattr(value, key)
            assert_holds(found, expected, f"{name}.{key}")
        return
    found = list(value) if isinstance(value, tuple) else value
    assert (type(found), found) == (type(recorded), recorded), name


def members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_every_recorded_file_is_looked_at() -> None:
    found = {
        (
            path.relative_to(FOLDER).parts[0],
            path.relative_to(FOLDER / path.relative_to(FOLDER).parts[0]).as_posix(),
        )
        for path in FOLDER.rglob("*.flow.zip")
    }
    assert found == set(FILES)
    codecs = {
        (meta["codec"]["codec"], meta["codec"]["max_error"], meta["codec"]["rgb_quality"] is not None)
        for recorded in READ.values()
        for meta in recorded["metas"].values()
    }
    assert {("jpegls", 1, True), ("jpegls", 1, False), ("jpegls", 0, False), ("jpegls", 3, True)} < codecs
    assert {"jpeg", "png"} < {codec for codec, _, _ in codecs}


@each_file
def test_levels_and_frames_are_read_bit_for_bit(name: str, file: str, arrays) -> None:
    with CacheReader(FOLDER / name / file) as reader:
        flow = reader.flow(range(reader.num_fields))
        rgb = reader.rgb(range(reader.num_frames)) if reader.has_rgb else None
    assert flow.dtype == np.uint8
    np.testing.assert_array_equal(flow, arrays[f"{name}/{file}/flow"], strict=True)
    assert (rgb is not None) == (f"{name}/{file}/rgb" in arrays)
    if rgb is not None:
        np.testing.assert_array_equal(rgb, arrays[f"{name}/{file}/rgb"], strict=True)


@each_file
def test_metas_are_read_whole(name: str, file: str) -> None:
    recorded = dict(READ[name]["metas"][file])
    codec = dict(recorded.pop("codec"))
    if codec["rgb_quality"] is None:  # how it was said then that there are no RGB frames
        del codec["rgb_quality"]
    with CacheReader(FOLDER / name / file) as reader:
        meta = reader.meta
    assert_holds(meta, recorded, "meta")
    assert meta.storage == StorageSettings(**codec, rgb="rgb_quality" in codec)
    assert json.loads(meta.to_json()) == json.loads(members(FOLDER / name / file)["meta.json"])


@each_cache
def test_index_rows_are_the_recorded_ones(name: str) -> None:
    entries = read_index(FOLDER / name)
    assert len(entries) == len(READ[name]["index"])
    for entry, recorded in zip(entries, READ[name]["index"], strict=True):
        assert_holds(entry, {key: value for key, value in recorded.items() if key != "stamp"}, "row")


@each_cache
def test_an_index_is_believed_while_its_stamps_hold(name: str, caches: Path) -> None:
    """With the times that the index lists, no file is opened: rubbish of the same size does not show."""
    with (caches / name / "index.csv").open(newline="", encoding="utf-8") as file:
        stamps = {row["cache_file"]: int(row["stamp"]) for row in csv.DictReader(file)}
    for file, stamp in stamps.items():
        path = caches / name / file
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, ns=(stamp, stamp))
    entries = read_index(caches / name)
    assert len(entries) == len(READ[name]["index"])
    for entry, recorded in zip(entries, READ[name]["index"], strict=True):
        assert_holds(entry, recorded, "row")


@each_cache
def test_the_same_command_keeps_every_file(
    name: str, caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = READ[name]
    before = contents(caches / name)
    failures = caches / name / "failures.csv"
    listed = failures.read_bytes() if failures.exists() else None
    assert main(recorded["command"]) == recorded["status"]
    printed = capsys.readouterr().out
    if recorded["command"][0] == "precompute":
        kept = COUNTED.match(printed)
        assert kept is not None, printed
        assert int(kept[1]) == len(recorded["metas"])
    else:
        assert printed == (
            f"0 videos, 0 fields imported to {caches / name}, {len(recorded['metas'])} kept from before\n"
        )
    assert contents(caches / name) == before
    assert (failures.read_bytes() if failures.exists() else None) == listed


def test_other_settings_are_still_told_apart(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change in (
        ["--max-error", "2"],
        ["--bound", "10"],
        ["--no-rgb"],
        ["--short-side", "16"],
        ["--step", "2"],
    ):
        assert main([*READ["tvl1-jpegls"]["command"], *change]) == 2
        assert "was made with other parameters" in capsys.readouterr().err


@each_cache
def test_verify_finds_what_it_found(name: str, caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = READ[name]
    assert (
        main(["verify", name, "--videos", recorded["command"][1], "--decode"]) == recorded["verify"]["status"]
    )
    assert capsys.readouterr().out == recorded["verify"]["message"]
    if name != "failed":  # whose damaged video has no file
        assert ": 0 bad" in recorded["verify"]["message"]


def test_failures_are_the_recorded_ones() -> None:
    """Of all recipes only the one without --keep-partial fails, at the damaged image."""
    lists = {path.parent.name: path.read_text(encoding="utf-8") for path in FOLDER.rglob("failures.csv")}
    assert list(lists) == ["failed"]
    rows = list(csv.DictReader(io.StringIO(lists["failed"])))
    assert rows == [{"video": "c", "reason": "frame 3: image img_10.png cannot be decoded"}]
    assert READ["failed"]["status"] == 1
    assert READ["partial"]["metas"]["c.flow.zip"]["partial"] == rows[0]["reason"]


def test_an_import_writes_the_recorded_bytes(caches: Path) -> None:
    """Nothing is estimated in an import, so that what is written does not depend on the machine."""
    command = [*READ["imported"]["command"], "--out", "again"]
    assert main(command) == 0
    new, old = (members(caches / name / "e.flow.zip") for name in ("again", "imported"))
    assert list(new) == list(old)
    documents = [json.loads(found.pop("meta.json")) for found in (new, old)]
    for document in documents:
        document.pop("versions")
    assert documents[0] == documents[1]
    assert new == old
