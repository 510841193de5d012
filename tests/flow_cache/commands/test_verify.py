import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.index import read_index
from flow_cache.cache.reader import CacheReader
from flow_cache.commands.verify import Fault, Videos, repair_cache, verify_cache
from flow_cache.errors import ArgumentError, CacheMismatchError
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig


@pytest.fixture
def config(tmp_path: Path, make_video) -> PrecomputeConfig:
    for n, name in enumerate(("walk/a.avi", "walk/b.mp4", "c.avi", "d.avi")):
        make_video(tmp_path / "videos" / name, frames=4, seed=n)
    config = PrecomputeConfig(
        tmp_path / "videos",
        tmp_path / "cache",
        FlowSettings("farneback", "opencv", {"winsize": 9}, short_side=32, bound=12.5),
        StorageSettings("png", rgb=True, rgb_quality=80),
        workers=1,
    )
    precompute(config, progress=False)
    return config


def cache_bytes(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.zip")}


def damage(path: Path, member: str) -> None:
    """Change one byte inside a member."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
    data[info.header_offset + 30 + len(member) + 20] ^= 1
    path.write_bytes(data)


def rewrite(path: Path, **edits: bytes) -> None:
    """Replace members, checksums right: `flow_00000` stands for flow/00000.png."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, data in edits.items():
        members[f"{name.replace('_', '/')}.png" if name != "meta" else "meta.json"] = data
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def edit_meta(path: Path, **values) -> None:
    with zipfile.ZipFile(path) as archive:
        document = json.loads(archive.read("meta.json"))
    rewrite(path, meta=json.dumps(document | values).encode())


def test_a_sound_cache_has_no_faults(config: PrecomputeConfig) -> None:
    cache = Path(config.output)
    for found in (
        verify_cache(cache),
        verify_cache(cache, Videos(config.input), decode=True),
    ):
        assert (found.files, found.fields, found.faults, found.partial) == (4, 12, [], 0)
        assert found.bytes == sum(map(len, cache_bytes(cache).values()))
    single = verify_cache(cache / "walk" / "a.flow.zip")
    assert (single.files, single.fields, single.faults) == (1, 3, [])


def test_every_kind_of_fault_is_named_and_repaired(
    config: PrecomputeConfig, tmp_path: Path, make_video
) -> None:
    cache, videos = Path(config.output), Videos(config.input)
    before = cache_bytes(cache)
    damage(cache / "walk" / "a.flow.zip", "flow/00001.png")
    (cache / "walk" / "b.flow.zip").write_bytes(before["walk/b.flow.zip"][:-50])
    (cache / "c.flow.zip").unlink()
    found = verify_cache(cache)
    assert found.faults == [
        Fault("c.flow.zip", "is missing, but index.csv lists it"),
        Fault("walk/a.flow.zip", "member flow/00001.png: damaged (its CRC does not match)"),
        Fault("walk/b.flow.zip", "is not a whole zip file (its end record is missing)"),
    ]
    repaired = repair_cache(found, videos, workers=1, progress=False)
    assert sorted(repaired.repaired) == ["c.flow.zip", "walk/a.flow.zip", "walk/b.flow.zip"]
    assert repaired.faults == []
    assert cache_bytes(cache) == before
    assert verify_cache(cache, videos, decode=True).faults == []


def test_wrong_sizes_names_and_settings_are_named_and_repaired(config: PrecomputeConfig) -> None:
    cache, videos = Path(config.output), Videos(config.input)
    before = cache_bytes(cache)
    with zipfile.ZipFile(cache / "c.flow.zip") as archive:
        other = archive.read("rgb/00000.jpg")
    rewrite(cache / "c.flow.zip", flow_00002=other)
    shutil.copy(cache / "d.flow.zip", cache / "walk" / "a.flow.zip")
    edit_meta(cache / "walk" / "b.flow.zip", bound=15.0)
    edit_meta(cache / "d.flow.zip", short_side=16)
    found = verify_cache(cache)
    reasons = {fault.cache_file: fault.reason for fault in found.faults}
    assert reasons["c.flow.zip"] == "member flow/00002.png: is no PNG image"
    assert reasons["walk/a.flow.zip"] == "holds the flow of d.avi, which belongs in d.flow.zip"
    assert reasons["walk/b.flow.zip"] == "was made with other settings than most: bound 15.0 (most: 12.5)"
    assert reasons["d.flow.zip"] == "holds fields of 42x32, but short side 16 was asked for"
    assert repair_cache(found, videos, workers=1, progress=False).faults == []
    assert cache_bytes(cache) == before


def test_the_videos_are_held_against_the_cache(config: PrecomputeConfig, make_video) -> None:
    cache, folder = Path(config.output), Path(config.input)
    make_video(folder / "new.avi", frames=3)
    data = bytearray((folder / "c.avi").read_bytes())
    data[-3] ^= 1
    (folder / "c.avi").write_bytes(data)
    make_video(folder / "d.avi", frames=7)
    assert verify_cache(cache).faults == []
    found = verify_cache(cache, Videos(folder))
    assert [fault.cache_file for fault in found.faults] == ["c.flow.zip", "d.flow.zip", "new.flow.zip"]
    assert "same size with other contents" in found.faults[0].reason
    assert "bytes, it now has" in found.faults[1].reason
    assert found.faults[2].reason == "is missing: video new.avi is not in the cache"
    assert repair_cache(found, Videos(folder), workers=1, progress=False).faults == []
    assert {entry.video: entry.num_frames for entry in read_index(cache)}["d.avi"] == 7


def test_what_cannot_be_repaired_stays_and_is_named(config: PrecomputeConfig) -> None:
    cache, folder = Path(config.output), Path(config.input)
    (folder / "c.avi").write_text("no video any more")
    damage(cache / "c.flow.zip", "flow/00000.png")
    (cache / "stranger.flow.zip").write_bytes(b"junk")
    repair = repair_cache(verify_cache(cache), Videos(folder), workers=1, progress=False)
    assert repair.summary is not None
    assert [failure.video for failure in repair.summary.failures] == ["c.avi", "stranger.flow.zip"]
    assert repair.repaired == []
    reasons = {fault.cache_file: fault.reason for fault in repair.faults}
    assert reasons["c.flow.zip"] == "is missing: video c.avi is not in the cache"
    assert "no video of" in reasons["stranger.flow.zip"]
    assert (cache / "stranger.flow.zip").read_bytes() == b"junk"


def test_decoding_finds_what_checksums_cannot(config: PrecomputeConfig) -> None:
    path = Path(config.output) / "c.flow.zip"
    with zipfile.ZipFile(path) as archive:
        image = bytearray(archive.read("flow/00000.png"))
    rewrite(path, flow_00000=bytes(image[:60]))
    assert verify_cache(path).faults == []
    (fault,) = verify_cache(path, decode=True).faults
    assert fault.reason.startswith("member flow/00000.png: cannot be decoded")


@pytest.mark.parametrize("name", ["../../evil.avi", "/evil.avi", "C:\\evil.avi", ""])
def test_a_name_that_leads_out_is_a_fault(config: PrecomputeConfig, name: str) -> None:
    path = Path(config.output) / "c.flow.zip"
    edit_meta(path, source={"path": name, "bytes": 1, "sha256": ""})
    (fault,) = verify_cache(path).faults
    assert fault.reason.startswith("names a video by an unusable path")


def test_parameters_survive_in_the_settings_made_of_a_file(config: PrecomputeConfig) -> None:
    with CacheReader(Path(config.output) / "c.flow.zip") as reader:
        meta = reader.meta
    again = PrecomputeConfig(config.input, config.output, FlowSettings.of(meta), meta.storage, workers=1)
    assert precompute(again, progress=False).skipped == 4
    with pytest.raises(CacheMismatchError):
        precompute(replace(again, flow=FlowSettings.of(meta, bound=3.0)), progress=False)


def test_repair_refuses_what_it_cannot_know(config: PrecomputeConfig, tmp_path: Path) -> None:
    cache = Path(config.output)
    with pytest.raises(ArgumentError, match="no such cache"):
        verify_cache(tmp_path / "none")
    damage(cache / "c.flow.zip", "flow/00000.png")
    with pytest.raises(ArgumentError, match="only a cache folder"):
        repair_cache(verify_cache(cache / "c.flow.zip"), Videos(config.input))
    for path in cache.rglob("*.zip"):
        path.write_bytes(b"junk")
    with pytest.raises(ArgumentError, match="says how it was made"):
        repair_cache(verify_cache(cache), Videos(config.input))
    assert np.all([path.read_bytes() == b"junk" for path in cache.rglob("*.zip")])
