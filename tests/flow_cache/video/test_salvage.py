"""Damaged videos, read on after the damage: which frames are kept, and where it is said that others are missing.

Every kept frame is compared with the undamaged original: what differs from it must not be kept.
"""

import importlib.util
import itertools
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from flow_cache import (
    ArgumentError,
    CacheFileError,
    CacheMeta,
    CacheReader,
    Damage,
    Gap,
    Job,
    Source,
    StorageSettings,
    VideoError,
    cache_video,
    get_method,
    read_frames,
)
from flow_cache.video.decoder import decode_file

_SPEC = importlib.util.spec_from_file_location("damaged_videos", Path(__file__).with_name("test_decoder.py"))
videos = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(videos)
CODECS, FRAMES, GOP = videos.CODECS, videos.FRAMES, videos.GOP
damage, encode, packets = videos.damage, videos.encode, videos.packets

MORE_CODECS = [
    *CODECS,
    ("mpeg4", "avi", 2),
    ("libx264", "avi", 0),
    ("mjpeg", "mkv", 0),
    ("libvpx-vp9", "webm", 0),
]


def salvage(path: Path) -> tuple[list[np.ndarray], Damage]:
    known = Damage()
    frames = []
    for frame in read_frames(path, rgb=True, threads=1, damage=known):
        assert frame.index == len(frames)
        frames.append(frame.rgb)
    return frames, known


def originals(path: Path) -> list[np.ndarray]:
    return [frame.rgb for frame in read_frames(path, rgb=True, threads=1)]


def places(kept: list[np.ndarray], whole: list[np.ndarray]) -> list[int]:
    """Which frame of the original each kept frame is; fails for one that is no frame of it, or out of order."""
    found: list[int] = []
    for frame in kept:
        start = found[-1] + 1 if found else 0
        found.append(next(place for place in range(start, len(whole)) if np.array_equal(frame, whole[place])))
    return found


def assert_gaps_tell(known: Damage, found: list[int], total: int) -> None:
    """Every hole between kept frames is a gap, and a number of missing frames that is given is right."""
    borders = [-1, *found, total]
    holes = {n: after - before - 1 for n, (before, after) in enumerate(itertools.pairwise(borders))}
    said = {gap.before: gap.missing for gap in known.gaps}
    assert {n for n, missing in holes.items() if missing} == set(said)
    assert all(missing in (None, holes[n]) for n, missing in said.items())


@pytest.mark.parametrize("numbers", [(), (0,), (17,), (20,), (FRAMES - 1,), tuple(range(GOP)), (5, 22)])
@pytest.mark.parametrize(("codec", "suffix", "b_frames"), MORE_CODECS)
def test_kept_frames_are_right_and_gaps_are_told(
    tmp_path: Path, codec: str, suffix: str, b_frames: int, numbers: tuple[int, ...]
) -> None:
    video = encode(tmp_path / f"a.{suffix}", codec, b_frames=b_frames)
    whole = originals(video)
    if numbers:
        video = damage(video, *numbers)
    kept, known = salvage(video)
    found = places(kept, whole)
    assert_gaps_tell(known, found, FRAMES)
    assert (known.reason is None) == (not numbers)
    if not numbers:
        assert found == [*range(FRAMES)]
    if codec == "mjpeg":  # nothing is predicted: only the damaged pictures are lost
        assert len(kept) == FRAMES - len(numbers)
        assert all(gap.missing is not None for gap in known.gaps)
    else:  # at most all up to the next key picture, or the one after it where leading pictures are lost, too
        groups = len({number // GOP for number in numbers}) * (2 if b_frames else 1)
        assert len(kept) >= FRAMES - groups * GOP


@pytest.mark.parametrize(("codec", "suffix", "b_frames"), [("libx264", "mp4", 0), ("mpeg4", "avi", 0)])
def test_a_damaged_first_group_costs_no_other_frame(
    tmp_path: Path, codec: str, suffix: str, b_frames: int
) -> None:
    video = encode(tmp_path / f"a.{suffix}", codec, b_frames=b_frames)
    kept, known = salvage(damage(video, *range(GOP)))
    assert places(kept, originals(video)) == [*range(GOP, FRAMES)]
    assert [gap.before for gap in known.gaps] == [0]


def test_pictures_predicted_from_a_damaged_one_are_not_kept(tmp_path: Path) -> None:
    """FFmpeg hands them out without complaint, far from what they should be."""
    video = encode(tmp_path / "a.mp4")
    whole = list(decode_file(video, 1))
    damaged = damage(video, 12)
    kept, known = salvage(damaged)
    assert places(kept, originals(video)) == [*range(12), *range(20, FRAMES)]
    assert known.gaps == [Gap(12, GOP - 2)]
    with pytest.raises(VideoError, match="39 frames are readable, 12 of them before the damage"):
        list(decode_file(damaged, 1))
    assert len(whole) == FRAMES


def test_periodic_refresh_is_no_key_picture(tmp_path: Path) -> None:
    """Such streams mark packets as keys whose pictures are predicted like all others."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = videos.add_video(container, "libx264", 96, 64)
        stream.options = {"preset": "veryfast", "x264-params": "scenecut=0:intra-refresh=1"}
        videos.fill(container, stream, FRAMES)
    kept, known = salvage(damage(tmp_path / "a.mp4", 17))
    assert places(kept, originals(tmp_path / "a.mp4")) == [*range(17)]
    assert [gap.before for gap in known.gaps] == [17]


def test_a_cut_file_keeps_what_is_before_the_cut(tmp_path: Path) -> None:
    video = encode(tmp_path / "a.mp4", movflags="faststart")
    cut = tmp_path / "cut.mp4"
    for number, rest in ((25, 0), (25, 5), (FRAMES - 1, 3)):
        cut.write_bytes(video.read_bytes()[: packets(video)[number][0] + rest])
        kept, known = salvage(cut)
        found = places(kept, originals(video))
        assert found == [*range(number)]
        assert [gap.before for gap in known.gaps] == [number]
        assert_gaps_tell(known, found, FRAMES)


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("mjpeg", "mkv")])
def test_files_without_a_good_frame_are_refused(tmp_path: Path, codec: str, suffix: str) -> None:
    video = encode(tmp_path / f"a.{suffix}", codec, count=3)
    with pytest.raises(VideoError):
        salvage(damage(video, 0, 1, 2))


def test_frames_of_another_size_are_left_out(tmp_path: Path) -> None:
    first = encode(tmp_path / "first.ts", size=(160, 120), count=20)
    other = encode(tmp_path / "other.ts", size=(120, 240), count=20)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + other.read_bytes() + first.read_bytes())
    kept, known = salvage(joined)
    assert [frame.shape for frame in kept] == [(120, 160, 3)] * 40
    assert known.gaps == [Gap(20, 20)]
    assert known.reason == "frame 20: frame size changes from 160x120 to 120x240"


def images(folder: Path, count: int, *bad: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        picture = np.full((24, 32, 3), 5 * number % 256, np.uint8)
        cv2.circle(picture, (number + 4, 12), 4, (255, 200, 100), -1)
        cv2.imwrite(str(folder / f"{number:03d}.png"), picture)
    for number in bad:
        (folder / f"{number:03d}.png").write_bytes(b"damaged")
    return folder


def test_images_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    kept, known = salvage(images(tmp_path / "a", 12, 0, 4, 5, 11))
    assert [int(frame[0, 31, 0]) for frame in kept] == [5 * n for n in range(12) if n not in (0, 4, 5, 11)]
    assert known.gaps == [Gap(0, 1), Gap(3, 2), Gap(8, 1)]
    assert known.reason == "frame 0: image 000.png cannot be decoded"
    with pytest.raises(VideoError, match=r"frame 0: image 000\.png cannot be decoded"):
        salvage(images(tmp_path / "b", 2, 0, 1))


def cached(video: Path, target: Path, damaged: str, step: int = 1) -> CacheMeta:
    """Make the cache file of one video in this process."""
    meta = CacheMeta(
        Source(video.name),
        "farneback",
        get_method("farneback").parameters.as_dict(),
        step=step,
        storage=StorageSettings(max_error=0, rgb=True),
    )
    return cache_video(Job(video, target, meta, damaged), lambda done: None)


TABLE = [  # codec, container, packets, damaged ones, and the frames that each setting keeps of them
    ("libx264", "mp4", 200, (100,), 100, 190),
    ("mjpeg", "avi", 60, (20,), 20, 59),
    ("libx264", "mkv", 100, (*range(10),), 0, 90),
    ("mpeg4", "avi", 100, (15, 55), 15, 90),
    ("mpeg4", "mp4", 40, (39,), 39, 39),
]


@pytest.mark.parametrize(("codec", "suffix", "count", "numbers", "prefix", "good"), TABLE)
def test_what_each_setting_makes_of_a_damaged_video(
    tmp_path: Path, codec: str, suffix: str, count: int, numbers: tuple, prefix: int, good: int
) -> None:
    video = damage(encode(tmp_path / f"a.{suffix}", codec, count, (48, 32)), *numbers)
    target = tmp_path / "a.flow.zip"
    for damaged, expected in (("fail", 0), ("keep-prefix", prefix), ("skip-frames", good)):
        if not expected:
            with pytest.raises(VideoError, match=f"^.*, frame {prefix}: damaged"):
                cached(video, target, damaged)
            assert not target.exists()
            continue
        meta = cached(video, target, damaged)
        assert meta.frames == expected
        assert meta.part == {"keep-prefix": "prefix", "skip-frames": "gaps"}[damaged]
        with CacheReader(target) as reader:
            assert reader.meta == meta
            assert len(reader.flow(reader.field_numbers)) == meta.fields == sum(map(len, meta.runs))
            reader.check(decode=True)


def test_whole_videos_have_the_same_file_whatever_the_setting(tmp_path: Path) -> None:
    video = encode(tmp_path / "a.mp4", count=12)
    files = []
    for damaged in ("fail", "keep-prefix", "skip-frames"):
        assert cached(video, tmp_path / "a.flow.zip", damaged).part == ""
        files.append((tmp_path / "a.flow.zip").read_bytes())
    assert files[0] == files[1] == files[2]
    assert b'"gaps"' not in files[0]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_no_field_leads_across_a_gap(tmp_path: Path, step: int) -> None:
    """Fields of both sides are those of the undamaged video; those between are not there, and asking for one fails."""
    bad = (6, 9, 10, 20)
    cached(images(tmp_path / "clip", 24, *bad), tmp_path / "gaps.flow.zip", "skip-frames", step)
    cached(images(tmp_path / "whole", 24), tmp_path / "all.flow.zip", "fail", step)
    frames = [n for n in range(24) if n not in bad]
    with CacheReader(tmp_path / "gaps.flow.zip") as reader, CacheReader(tmp_path / "all.flow.zip") as other:
        expected = [n for n in range(len(frames) - step) if frames[n + step] - frames[n] == step]
        assert [*reader.field_numbers] == expected == [n for run in reader.runs for n in run]
        assert (reader.num_fields, reader.num_frames) == (len(expected), len(frames))
        assert np.array_equal(reader.flow(expected), other.flow([frames[n] for n in expected]))
        assert np.array_equal(reader.rgb(range(len(frames))), other.rgb(frames))
        for number in {*range(len(frames) - step)} - {*expected}:
            with pytest.raises(
                CacheFileError, match=f"field {number} asked for, which does not exist: frames of the"
            ):
                reader.flow([expected[0], number])
        with pytest.raises(CacheFileError, match=r"field 99 asked for, holds 0 to"):
            reader.flow([99])
        reader.check(decode=True)


def test_parts_too_short_for_a_field_fail_by_name(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="has 6 frames in parts of at most 2, step 2 needs 3"):
        cached(images(tmp_path / "clip", 9, 2, 5, 8), tmp_path / "clip.flow.zip", "skip-frames", 2)
    assert not (tmp_path / "clip.flow.zip").exists()


def test_more_gaps_than_can_be_told_fail_by_name(tmp_path: Path) -> None:
    clip = images(tmp_path / "clip", 1200, *range(2, 1200, 3))
    with pytest.raises(
        ArgumentError, match=r"frames are missing in 400 places, more than meta\.json has room for"
    ):
        cached(clip, tmp_path / "clip.flow.zip", "skip-frames")
    assert not (tmp_path / "clip.flow.zip").exists()
