"""RGB frames with a size of their own in one cache file: what is written, what is read, what is refused."""

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from flow_cache.cache.codecs import StorageSettings, encode_rgb
from flow_cache.cache.meta import CacheMeta
from flow_cache.cache.reader import CacheReader
from flow_cache.cache.writer import CacheWriter
from flow_cache.errors import ArgumentError, CacheFileError

LARGE = np.random.default_rng(2).integers(0, 256, (6, 45, 33, 3), np.uint8)
RECORDED = sorted((Path(__file__).parents[2] / "recorded").rglob("*.flow.zip"))


@pytest.fixture
def own_size(png: CacheMeta) -> CacheMeta:
    return replace(png, storage=StorageSettings("png", rgb=True, rgb_quality=95, rgb_short_side=40))


@pytest.fixture
def path(tmp_path: Path, fields: np.ndarray, own_size: CacheMeta) -> Path:
    """Fields of 16x12 beside frames of 33x45, written in turns."""
    path = tmp_path / "a.flow.zip"
    with CacheWriter(path, own_size) as writer:
        writer.add_rgb(LARGE[:3])
        writer.add_flow(fields[:2])
        writer.add_rgb(LARGE[3:])
        writer.add_flow(fields[2:])
        writer.close(clip_fraction=0.25)
    return path


def rewrite(path: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    """Change members by name, checksums right."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_fields_and_frames_keep_their_own_sizes(path: Path, fields: np.ndarray) -> None:
    with CacheReader(path) as reader:
        assert (reader.height, reader.width, reader.rgb_height, reader.rgb_width) == (12, 16, 45, 33)
        assert np.array_equal(reader.flow(range(5)), fields)
        frames = reader.rgb([5, 0, 5])
        assert frames.shape == (3, 45, 33, 3)
        decoded = [imagecodecs.jpeg8_decode(encode_rgb(LARGE[index], 95)) for index in (5, 0, 5)]
        assert np.array_equal(frames, decoded)
        assert reader.encoded_rgb(2) == encode_rgb(LARGE[2], 95)
        reader.check(decode=True)
        assert pickle.loads(pickle.dumps(reader)).rgb([1]).shape == (1, 45, 33, 3)


def test_meta_says_which_size_and_survives(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        document = json.loads(archive.read("meta.json"))
    assert (document["rgb_short_side"], document["rgb_size"]) == (40, [33, 45])
    with CacheReader(path) as reader:
        assert reader.meta.rgb_size == (33, 45)
        assert CacheMeta.from_json(reader.meta.to_json()) == reader.meta


def test_a_copy_has_the_same_bytes(path: Path, tmp_path: Path) -> None:
    with CacheReader(path) as reader:
        CacheWriter.copy(reader, tmp_path / "copy.flow.zip", "a.avi")
    assert (tmp_path / "copy.flow.zip").read_bytes() == path.read_bytes()


def test_without_the_setting_meta_is_as_it_was(with_rgb: CacheMeta, write, tmp_path: Path) -> None:
    with CacheReader(write(tmp_path / "a.flow.zip")) as reader:
        assert reader.meta.rgb_size is None
        assert (reader.rgb_height, reader.rgb_width) == (12, 16)
        assert not {"rgb_short_side", "rgb_size"} & set(json.loads(reader.meta.to_json()))
    without_rgb = replace(with_rgb.storage, rgb=False, rgb_short_side=40)
    assert "rgb_short_side" not in without_rgb.as_dict()
    with CacheReader(write(tmp_path / "b.flow.zip", replace(with_rgb, storage=without_rgb))) as reader:
        assert (reader.rgb_height, reader.rgb_width) == (0, 0)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_meta_of_old_caches_is_written_as_it_was_then(recorded: Path) -> None:
    with zipfile.ZipFile(recorded) as archive:
        data = archive.read("meta.json")
    assert CacheMeta.from_json(data).to_json() == data.rstrip(b" ")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (LARGE[:, :44], r"rgb must be of height and width \(45, 33\)"),
        (LARGE[:, :12, :16], r"rgb must be of height and width \(45, 33\)"),
        (LARGE[:, :0], r"rgb must be of height and width"),
    ],
)
def test_frames_must_all_have_one_size(
    tmp_path: Path, own_size: CacheMeta, frames: np.ndarray, message: str
) -> None:
    writer = CacheWriter(tmp_path / "a.flow.zip", own_size)
    writer.add_rgb(LARGE[:1])
    with pytest.raises(ArgumentError, match=message):
        writer.add_rgb(frames)
    writer.abort()


def test_frames_of_their_own_size_need_the_setting(tmp_path: Path, with_rgb: CacheMeta, fields) -> None:
    writer = CacheWriter(tmp_path / "a.flow.zip", with_rgb)
    writer.add_flow(fields)
    with pytest.raises(ArgumentError, match=r"rgb must be of height and width \(12, 16\)"):
        writer.add_rgb(LARGE)
    writer.abort()


def test_a_frame_of_another_size_is_damage(path: Path) -> None:
    small = encode_rgb(LARGE[3, :12, :16], 95)  # the fields' size
    rewrite(path, lambda members: members.update({"rgb/00003.jpg": small}))
    with CacheReader(path) as reader:
        for read in (
            lambda: reader.rgb([3]),
            lambda: reader.encoded_rgb(3),
            lambda: reader.check(),
            lambda: reader.check(decode=True),
        ):
            with pytest.raises(
                CacheFileError, match=r"rgb/00003\.jpg: holds an image of shape \(12, 16, 3\)"
            ):
                read()
        assert reader.rgb([2]).shape == (1, 45, 33, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"rgb_size": None},
        {"rgb_size": [33]},
        {"rgb_size": [0, 45]},
        {"rgb_size": [33, 40000]},
        {"rgb_size": [33.0, 45]},
        {"rgb_size": "33x45"},
        {"rgb_short_side": None},
        {"rgb_short_side": "40"},
        {"rgb_short_side": 0},
        {"rgb_quality": None},
    ],
    ids=str,
)
def test_an_impossible_size_in_meta_is_damage(path: Path, change: dict[str, object]) -> None:
    def forge(members: dict[str, bytes]) -> None:
        members["meta.json"] = json.dumps(json.loads(members["meta.json"]) | change).encode()

    rewrite(path, forge)
    with pytest.raises(CacheFileError, match=r"meta\.json|members"):
        CacheReader(path)


def test_a_cache_with_another_rgb_size_is_another_cache(own_size: CacheMeta, with_rgb: CacheMeta) -> None:
    assert with_rgb.difference(own_size) == "rgb_short_side None (asked for: 40)"
    assert own_size.difference(with_rgb) == "rgb_short_side 40 (asked for: None)"
    assert own_size.difference(replace(own_size, rgb_size=(33, 45))) is None
