"""A cache file is kept while its video is the one that it was made from."""

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from flow_cache.cache.index import read_index
from flow_cache.cli.main import main
from flow_cache.pipeline.dry_run import estimate
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig
from flow_cache.video.source import source_status


@pytest.fixture
def config(tmp_path: Path) -> PrecomputeConfig:
    """A file and a folder of images, done; both hold bare pixels, so that a changed byte is no damage."""
    folder = tmp_path / "in" / "clip"
    folder.mkdir(parents=True)
    frames = np.random.default_rng(0).integers(0, 256, (4, 48 * 32 * 3 // 2), np.uint8)
    (tmp_path / "in" / "a.y4m").write_bytes(
        b"YUV4MPEG2 W48 H32 F25:1 C420\n" + b"".join(b"FRAME\n" + frame.tobytes() for frame in frames)
    )
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.bmp"), np.full((16, 20), number, np.uint8))
    config = PrecomputeConfig(tmp_path / "in", tmp_path / "cache", FlowSettings("farneback"), workers=1)
    assert precompute(config, progress=False).done == 2
    return config


def stamps(config: PrecomputeConfig) -> dict[str, str]:
    return {entry.video: entry.source_stamp for entry in read_index(config.output)}


def contents(config: PrecomputeConfig) -> dict[str, tuple[bytes, int]]:
    files = Path(config.output).rglob("*.zip")
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def redone(config: PrecomputeConfig) -> list[str]:
    """Run, and return the videos that were done again; the dry run must have said so."""
    announced = estimate(config).plan.redone
    before = contents(config)
    summary = precompute(config, progress=False)
    assert summary.failures == []
    changed = [name for name, found in contents(config).items() if found != before[name]]
    assert len(changed) == summary.done == len(announced)
    assert set(announced.values()) <= {"the video has changed"}
    return sorted(announced)


def replace_file(path: Path, keep_time: bool = False) -> None:
    """Change one byte, late in the file."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    later = status.st_mtime_ns + (0 if keep_time else 10**9)
    os.utime(path, ns=(later, later))


def swap(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def test_the_stamps_of_the_videos_stand_in_the_index(config: PrecomputeConfig) -> None:
    folder = Path(config.input)
    expected = {name: source_status(folder / name).stamp for name in ("a.y4m", "clip")}
    assert stamps(config) == expected
    assert expected["a.y4m"] == str((folder / "a.y4m").stat().st_mtime_ns)


def test_a_video_replaced_by_another_of_the_same_size_is_redone(config: PrecomputeConfig) -> None:
    replace_file(Path(config.input) / "a.y4m")
    assert redone(config) == ["a.y4m"]
    assert redone(config) == []


@pytest.mark.parametrize("change", ["order", "names", "one"])
def test_a_folder_of_other_images_of_the_same_size_is_redone(config: PrecomputeConfig, change: str) -> None:
    folder = Path(config.input) / "clip"
    if change == "order":
        swap(folder / "0.bmp", folder / "3.bmp")
        swap(folder / "1.bmp", folder / "2.bmp")
    elif change == "names":
        for path in list(folder.iterdir()):
            path.rename(path.with_name(f"img_{path.name}"))
    else:
        replace_file(folder / "2.bmp")
    assert redone(config) == ["clip"]
    assert redone(config) == []


def test_what_was_only_touched_is_kept_and_its_new_stamp_remembered(config: PrecomputeConfig) -> None:
    folder, old = Path(config.input), stamps(config)
    for path in folder.rglob("*.*"):
        os.utime(path, ns=(10**18, 10**18))
    assert redone(config) == []
    assert stamps(config) == {name: source_status(folder / name).stamp for name in old} != old
    # Now the stamp decides again: a change that keeps it is not seen, unless the content is asked for.
    replace_file(folder / "a.y4m", keep_time=True)
    assert redone(config) == []
    assert redone(replace(config, check_content=True)) == ["a.y4m"]
    assert redone(replace(config, check_content=True)) == []


@pytest.mark.parametrize("damage", ["missing", "of an earlier version", "of another file"])
def test_without_a_stamp_the_content_decides(config: PrecomputeConfig, damage: str) -> None:
    index = Path(config.output) / "index.csv"
    if damage == "missing":
        index.unlink()
    elif damage == "of an earlier version":
        lines = [line.rsplit(",", 2)[0] for line in index.read_text().splitlines()]
        assert lines[0].endswith(",gaps"), "source_stamp and source_sha256 come after it"
        index.write_text("".join(f"{line}\n" for line in lines))
        assert stamps(config) == {"a.y4m": "", "clip": ""}
    else:  # a cache file that was written after the index
        path = Path(config.output) / "a.y4m.flow.zip"
        os.utime(path, ns=(10**18, 10**18))
    replace_file(Path(config.input) / "a.y4m", keep_time=True)
    assert redone(config) == ["a.y4m"]


def test_an_interrupted_run_does_not_take_the_old_flow_for_that_of_the_new_video(
    config: PrecomputeConfig,
) -> None:
    replace_file(Path(config.input) / "a.y4m")

    class Stopped:
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            return None

        def run(self, jobs):
            raise KeyboardInterrupt
            yield

    with pytest.raises(KeyboardInterrupt):
        precompute(config, progress=False, start_runner=lambda config, plan: Stopped())
    assert redone(config) == ["a.y4m"]


def test_the_flag_asks_for_the_content(config: PrecomputeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    replace_file(Path(config.input) / "a.y4m", keep_time=True)
    command = ["precompute", str(config.input), "--out", str(config.output), "--method", "farneback"]
    assert main([*command, "--dry-run"]) == 0
    assert "to be redone: a.y4m" not in capsys.readouterr().out
    assert main([*command, "--dry-run", "--check-content"]) == 0
    assert "to be redone: a.y4m: the video has changed" in capsys.readouterr().out
