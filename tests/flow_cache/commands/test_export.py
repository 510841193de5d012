import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.index import read_index
from flow_cache.cache.meta import CacheMeta, Source
from flow_cache.cache.naming import cache_path
from flow_cache.cache.reader import CacheReader
from flow_cache.cache.writer import CacheWriter
from flow_cache.commands.export import ExportConfig, export_cache
from flow_cache.commands.import_folders import ImportConfig, import_folders
from flow_cache.errors import ArgumentError, CacheMismatchError, CacheWriteError
from flow_cache.quantization import dequantize, quantize

H, W = 20, 28
RNG = np.random.default_rng(0)
LEVELS = np.cumsum(RNG.integers(-3, 4, (5, 2, H, W)), axis=3).clip(-128, 127).astype(int) + 128
LEVELS = LEVELS.astype(np.uint8)
LEVELS[0, :, 0, :2] = [0, 255]
FRAMES = cv2.resize(RNG.integers(0, 256, (4, 5, 3), np.uint8), (W, H))[None]
FRAMES = np.concatenate([FRAMES, 255 - FRAMES] * 3)


def add(root: Path, video: str, rgb: bool = True, bound: float = 20.0) -> Path:
    codec = StorageSettings("png", rgb=rgb, rgb_quality=90)
    meta = CacheMeta(Source(video, 1, ""), "tvl1", bound=bound, storage=codec)
    with CacheWriter(cache_path(root, video), meta) as writer:
        writer.add_flow(LEVELS)
        if rgb:
            writer.add_rgb(FRAMES)
    return cache_path(root, video)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    add(tmp_path / "cache", "walk/a.b.avi")
    add(tmp_path / "cache", "run/c.mp4", rgb=False)
    return tmp_path / "cache"


def grey(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image.ndim == 2
    return image


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_image_folders_as_tsn_and_mmaction2_read_them(
    cache: Path, tmp_path: Path, kind: str, start: int
) -> None:
    out = tmp_path / "out"
    summary = export_cache(ExportConfig(cache, out, kind, start_index=start))
    assert (summary.videos, summary.fields, summary.failures) == (2, 10, [])
    folder = out / "walk" / "a.b"
    expected = {f"flow_{axis}_{n:05d}.{kind}" for axis in "xy" for n in range(start, start + 5)}
    assert {path.name for path in (out / "run" / "c").iterdir()} == expected
    expected |= {f"img_{n:05d}.jpg" for n in range(start, start + 6)}
    assert {path.name for path in folder.iterdir()} == expected
    assert sorted(path.name for path in out.iterdir()) == ["run", "walk"]
    for n in range(5):
        for axis in (0, 1):
            # The way MMAction2's template is filled.
            name = f"flow_{{}}_{{:05d}}.{kind}".format("xy"[axis], n + start)
            difference = np.abs(grey(folder / name).astype(int) - LEVELS[n, axis])
            assert difference.max() == 0 if kind == "png" else difference.mean() < 2
    with CacheReader(cache / "walk" / "a.b.flow.zip") as reader:
        for n in range(6):
            assert (folder / f"img_{n + start:05d}.jpg").read_bytes() == reader.encoded_rgb(n)


def test_levels_mean_what_the_other_tools_write(tmp_path: Path) -> None:
    """round(255 (v + b) / 2b) of dense_flow is never more than one level from ours, and no motion is 128 in both."""
    v = np.linspace(-25, 25, 20_001)
    theirs = np.clip(np.rint(255 * (v + 20) / 40), 0, 255).astype(int)
    ours = quantize(v.astype(np.float32)).astype(int)
    assert set(np.unique(ours - theirs)) <= {0, 1}
    assert np.rint(255 * (0 + 20) / 40) == quantize(np.zeros(1, np.float32))[0] == 128


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("start", [0, 1])
def test_what_was_exported_can_be_imported(cache: Path, tmp_path: Path, kind: str, start: int) -> None:
    export_cache(ExportConfig(cache, tmp_path / "out", kind, start_index=start, quality=100))
    again = tmp_path / "again"
    config = ImportConfig(tmp_path / "out", again, storage=StorageSettings(codec="png"), bound=20.0)
    summary = import_folders(config)
    assert (summary.done, summary.skipped, summary.failures, summary.fields) == (2, 0, [], 10)
    assert [(e.video, e.method, e.num_frames) for e in read_index(again)] == [
        ("run/c", "imported", 6), ("walk/a.b", "imported", 6),
    ]  # fmt: skip
    for name in ("walk/a.b.flow.zip", "run/c.flow.zip"):
        with CacheReader(again / name) as reader:
            difference = np.abs(reader.flow(range(5)).astype(int) - LEVELS)
            assert difference.max() <= (0 if kind == "png" else 3)
            assert not reader.has_rgb
            if kind == "png":
                assert reader.meta.clip_fraction == np.isin(LEVELS, (0, 255)).mean()
    assert import_folders(config).skipped == 2
    with pytest.raises(CacheMismatchError, match="bound"):
        import_folders(replace(config, bound=15.0))


def test_images_are_imported_where_they_are_wanted(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "walk" / "a.b"
    export_cache(ExportConfig(cache / "walk" / "a.b.flow.zip", tmp_path / "out" / "walk", "png"))
    summary = import_folders(
        ImportConfig(tmp_path / "out", tmp_path / "x", storage=StorageSettings(rgb=True))
    )
    assert summary.failures == []
    with CacheReader(tmp_path / "x" / "walk" / "a.b.flow.zip") as reader:
        assert np.abs(reader.rgb(range(6)).astype(int) - FRAMES).mean() < 12
        last = reader.rgb([4])
    (folder / "img_00006.jpg").unlink()  # as dense_flow leaves it: as many images as fields
    assert (
        import_folders(
            ImportConfig(tmp_path / "out", tmp_path / "y", storage=StorageSettings(rgb=True))
        ).failures
        == []
    )
    with CacheReader(tmp_path / "y" / "walk" / "a.b.flow.zip") as reader:
        assert reader.num_frames == 6
        assert np.array_equal(reader.rgb([5]), last)
    (folder / "img_00005.jpg").unlink()
    (failure,) = import_folders(
        ImportConfig(tmp_path / "out", tmp_path / "z", storage=StorageSettings(rgb=True))
    ).failures
    assert failure.reason == "holds 4 img images, 5 fields need 6"


def test_folders_that_lack_something_are_named(cache: Path, tmp_path: Path) -> None:
    export_cache(ExportConfig(cache / "run", tmp_path / "out", "png"))

    def failure(change) -> str:
        folder = tmp_path / "trial" / "c"
        folder.mkdir(parents=True)
        for path in (tmp_path / "out" / "c").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        change(folder)
        summary = import_folders(ImportConfig(tmp_path / "trial", tmp_path / "cache2"))
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        assert not list((tmp_path / "cache2").glob("*.zip"))
        assert (tmp_path / "cache2" / "failures.csv").exists()
        return summary.failures[0].reason

    def other_size(folder: Path) -> None:
        cv2.imwrite(str(folder / "flow_y_00003.png"), np.zeros((5, 5), np.uint8))

    assert failure(lambda f: (f / "flow_x_00003.png").unlink()) == "flow_x number 3 is missing"
    assert (
        failure(lambda f: (f / "flow_y_00005.png").unlink())
        == "holds 5 flow_x and 4 flow_y images, expected the same number"
    )
    assert (
        failure(lambda f: (f / "flow_x_00002.png").write_bytes(b""))
        == "image flow_x_00002.png cannot be decoded"
    )
    assert failure(lambda f: (f / "flow_x_3.jpg").touch()) == "holds flow_x number 3 twice"
    assert "another size" in failure(other_size)

    def later(folder: Path) -> None:
        for path in sorted(folder.iterdir(), reverse=True):
            path.rename(folder / path.name.replace("_0000", "_0001"))

    assert failure(later) == "flow_x starts with number 11, expected 0 or 1"


def test_i3d_arrays(tmp_path: Path) -> None:
    path = add(tmp_path, "a.avi", bound=32.0)
    export_cache(ExportConfig(path, tmp_path / "out", "npy"))
    array = np.load(tmp_path / "out" / "a.npy")
    assert (array.shape, array.dtype) == ((5, H, W, 2), np.float32)
    flow = dequantize(LEVELS, 32.0).transpose(0, 2, 3, 1)
    assert np.array_equal(array, np.clip(flow / np.float32(20), -1, 1))
    assert (array.min(), array.max()) == (-1, 1)


def test_middlebury_files(tmp_path: Path) -> None:
    path = add(tmp_path, "a.avi")
    export_cache(ExportConfig(path, tmp_path / "out", "flo", start_index=0))
    names = sorted(file.name for file in (tmp_path / "out" / "a").iterdir())
    assert names == [f"flow_{n:05d}.flo" for n in range(5)]
    data = (tmp_path / "out" / "a" / "flow_00003.flo").read_bytes()
    assert data[:4] == b"PIEH"
    assert struct.unpack("<2i", data[4:12]) == (W, H)
    expected = dequantize(LEVELS[3]).transpose(1, 2, 0)
    assert np.array_equal(np.frombuffer(data[12:], "<f4").reshape(H, W, 2), expected)
    assert np.array_equal(cv2.readOpticalFlow(str(tmp_path / "out" / "a" / "flow_00003.flo")), expected)


def test_flat_leaves_the_folders_out_and_refuses_collisions(cache: Path, tmp_path: Path) -> None:
    export_cache(ExportConfig(cache, tmp_path / "flat", flat=True))
    assert sorted(path.name for path in (tmp_path / "flat").iterdir()) == ["a.b", "c"]
    add(cache, "swim/C.avi")
    with pytest.raises(ArgumentError, match=r"run/c\.flow\.zip and swim/C\.flow\.zip would both be exported"):
        export_cache(ExportConfig(cache, tmp_path / "other", flat=True))
    assert not (tmp_path / "other").exists()


def test_nothing_is_overwritten_unasked_and_nothing_is_left_half_done(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_cache(ExportConfig(cache, out))
    (out / "run" / "c" / "mine.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="exists; use --overwrite"):
        export_cache(ExportConfig(cache, out, "png"))
    assert (out / "run" / "c" / "mine.txt").exists()
    data = bytearray((cache / "walk" / "a.b.flow.zip").read_bytes())
    data[data.index(b"flow/00003.png") + 40] ^= 1
    (cache / "walk" / "a.b.flow.zip").write_bytes(data)
    summary = export_cache(ExportConfig(cache, out, "png", overwrite=True))
    assert [failure.video for failure in summary.failures] == ["walk/a.b.flow.zip"]
    assert "flow/00003.png" in summary.failures[0].reason
    assert not (out / "run" / "c" / "mine.txt").exists()
    assert (out / "walk" / "a.b" / "flow_x_00004.jpg").exists()  # what was there stays
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


_STOPS_HALF_WAY = """
import sys
import flow_cache.commands.export as export

encode = export.encode_flow

def wait_first(*arguments):
    print("half-way", flush=True)
    sys.stdin.readline()
    return encode(*arguments)

export.encode_flow = wait_first
export.export_cache(export.ExportConfig(sys.argv[1], sys.argv[2]), progress=False)
"""


def test_an_export_removes_what_killed_ones_left_and_nothing_of_living_ones(
    cache: Path, tmp_path: Path, repository: Path
) -> None:
    out = tmp_path / "out"

    def start(name: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _STOPS_HALF_WAY, str(cache / name), str(out)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(repository)},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "half-way\n"
        return process

    killed = start("walk/a.b.flow.zip")
    killed.kill()
    killed.communicate()
    left = {path.name for path in out.iterdir()}
    assert left
    assert all(name.startswith(".") for name in left)
    living = start("run/c.flow.zip")  # itself an export: it clears up
    its = {path.name for path in out.iterdir()}
    assert its
    assert not its & left
    export_cache(ExportConfig(cache, out), progress=False)
    assert {path.name for path in out.iterdir()} == its | {"walk", "run"}
    living.communicate()
    assert living.returncode == 0
    assert {path.name for path in out.iterdir()} == {"walk", "run", "c"}
    assert len(list((out / "c").iterdir())) == 10


def test_nothing_leads_out_of_the_output(cache: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "walk").symlink_to(elsewhere)
    with pytest.raises(ArgumentError, match="leads out"):
        export_cache(ExportConfig(cache, out))
    assert not list(elsewhere.iterdir())
    # What a file says about its video is not where it goes.
    evil = tmp_path / "evil" / "x.flow.zip"
    evil.parent.mkdir()
    meta = CacheMeta(Source("../../../evil"), "tvl1", storage=StorageSettings("png"))
    with CacheWriter(evil, meta) as writer:
        writer.add_flow(LEVELS)
    export_cache(ExportConfig(evil.parent, tmp_path / "good"))
    assert [path.name for path in (tmp_path / "good").iterdir()] == ["x"]


def test_unusable_arguments(cache: Path, tmp_path: Path) -> None:
    for change, message in (
        ({"format": "gif"}, "unknown format"),
        ({"start_index": 2}, "start_index"),
        ({"quality": 0}, "quality"),
        ({"cache": tmp_path / "none"}, "no such cache"),
        ({"cache": tmp_path / "empty"}, "holds no cache files"),
        ({"output": tmp_path / "file"}, "cannot write"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "file").touch()
        with pytest.raises(ArgumentError, match=message):
            export_cache(replace(ExportConfig(cache, tmp_path / "out"), **change))
    cv2.imwrite(str(tmp_path / "empty" / "a.jpg"), np.zeros((9, 9), np.uint8))
    with pytest.raises(ArgumentError, match="no folder with flow_x"):
        import_folders(ImportConfig(tmp_path / "empty", tmp_path / "x"))


def test_a_full_disk_is_named(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CacheWriteError, match="No space left"):
        export_cache(ExportConfig(cache, tmp_path / "out"))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
