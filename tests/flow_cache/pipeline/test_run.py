import csv
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.index import read_index
from flow_cache.cache.reader import CacheReader
from flow_cache.commands.verify import Videos, verify_cache
from flow_cache.errors import ArgumentError, CacheFileError, CacheMismatchError
from flow_cache.pipeline.dry_run import estimate
from flow_cache.pipeline.outcome import Failure
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig


def failures_file(root: Path) -> list[list[str]] | None:
    path = root / "failures.csv"
    if not path.exists():
        return None
    with path.open(newline="") as file:
        return list(csv.reader(file))


def changed(config: PrecomputeConfig, **changes: object) -> PrecomputeConfig:
    """Change settings of a run, wherever in it they lie."""
    parts = {}
    for part in ("flow", "storage"):
        own = {name: changes.pop(name) for name in [*changes] if hasattr(getattr(config, part), name)}
        parts[part] = replace(getattr(config, part), **own)
    return replace(config, **parts, **changes)


def test_first_run_resume_repair_and_overwrite(config: PrecomputeConfig, tmp_path: Path) -> None:
    first = precompute(config, progress=False)
    assert (first.done, first.skipped, first.failures, first.fields) == (3, 0, [], 9)
    cache = tmp_path / "cache"
    assert first.output == cache
    assert sorted(path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()) == [
        "c.flow.zip",
        "index.csv",
        "walk/a.flow.zip",
        "walk/b.flow.zip",
    ]
    assert [(entry.video, entry.num_frames) for entry in read_index(cache)] == [
        ("c.avi", 3),
        ("walk/a.avi", 5),
        ("walk/b.mp4", 4),
    ]
    files = {path: path.read_bytes() for path in cache.rglob("*.zip")}

    again = precompute(config, progress=False)
    assert (again.done, again.skipped) == (0, 3)

    # A cut file, a vanished one, and a video that was replaced are redone; nothing else is.
    cut, gone = cache / "walk" / "a.flow.zip", cache / "c.flow.zip"
    cut.write_bytes(files[cut][:-100])
    gone.unlink()
    repaired = precompute(config, progress=False)
    assert (repaired.done, repaired.skipped) == (2, 1)
    assert {path: path.read_bytes() for path in cache.rglob("*.zip")} == files

    forced = precompute(changed(config, overwrite=True, bound=10.0), progress=False)
    assert (forced.done, forced.skipped) == (3, 0)
    assert {entry.bound for entry in read_index(cache)} == {10.0}


def test_a_replaced_video_is_redone(config: PrecomputeConfig, videos: Path, make_video) -> None:
    precompute(config, ["c.avi"], progress=False)
    make_video(videos / "c.avi", frames=6)
    summary = precompute(config, ["c.avi"], progress=False)
    assert (summary.done, summary.fields) == (1, 5)


def test_number_of_workers_does_not_change_a_byte(config: PrecomputeConfig, tmp_path: Path, members) -> None:
    config = changed(config, rgb=True)
    precompute(config, progress=False)
    precompute(replace(config, output=tmp_path / "other", workers=3), progress=False)
    one, three = (
        {p.relative_to(r): p.read_bytes() for p in r.rglob("*.zip")}
        for r in (tmp_path / "cache", tmp_path / "other")
    )
    assert one == three
    assert len(members(tmp_path / "cache")) == 9 + 12


def test_other_parameters_are_refused_before_any_work(
    config: PrecomputeConfig, tmp_path: Path, members
) -> None:
    precompute(config, progress=False)
    before = members(tmp_path / "cache")
    for change, message in (
        ({"bound": 15.0}, r"bound 20.0 \(asked for: 15.0\) \(and 2 more files\); use --overwrite"),
        ({"rgb": True}, r"rgb_quality None \(asked for: 90\)"),
        ({"preset": "opencv"}, r"levels 5 \(asked for: 3\)"),
        ({"parameters": {"winsize": 9}}, r"winsize 13 \(asked for: 9\)"),
        ({"method": "tvl1"}, r"method farneback \(asked for: tvl1\)"),
        ({"short_side": 24}, r"short_side None \(asked for: 24\)"),
        ({"codec": "png"}, r"codec jpegls \(asked for: png\)"),
    ):
        with pytest.raises(CacheMismatchError, match=message):
            precompute(changed(config, **change), progress=False)
    # Videos that are not asked for cannot be redone, so they are in the way even with overwrite.
    with pytest.raises(CacheMismatchError, match="holds other videos made with other parameters"):
        precompute(changed(config, bound=15.0, overwrite=True), ["c.avi"], progress=False)
    assert members(tmp_path / "cache") == before


def test_files_of_another_format_version_are_refused_unless_overwritten(
    config: PrecomputeConfig, tmp_path: Path, members
) -> None:
    precompute(config, progress=False)
    for path in (tmp_path / "cache").rglob("*.flow.zip"):
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        contents["meta.json"] = contents["meta.json"].replace(b'"format_version": 2', b'"format_version": 1')
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in contents.items():
                archive.writestr(name, data)
    before = members(tmp_path / "cache")
    message = r"format version 1, this build reads 2 and 3 .and 2 more files.; use --overwrite"
    with pytest.raises(CacheMismatchError, match=message):
        precompute(config, progress=False)
    with pytest.raises(
        CacheMismatchError, match=r"other videos made .* format version 1, this build reads 2 and 3"
    ):
        precompute(replace(config, overwrite=True), ["c.avi"], progress=False)
    with pytest.raises(
        CacheFileError, match=r"format version 1, this build reads 2 and 3; .* make it anew .*--overwrite"
    ):
        CacheReader(tmp_path / "cache" / "c.flow.zip")
    assert members(tmp_path / "cache") == before
    assert precompute(replace(config, overwrite=True), progress=False).done == 3
    assert len(read_index(tmp_path / "cache")) == 3


def test_same_stem_in_cache_from_another_suffix_is_a_mismatch(config: PrecomputeConfig, videos: Path) -> None:
    precompute(config, ["c.avi"], progress=False)
    (videos / "c.avi").rename(videos / "c.mkv")
    with pytest.raises(CacheMismatchError, match=r"video c\.avi \(asked for: c\.mkv\)"):
        precompute(config, ["c.mkv"], progress=False)


def test_failures_are_listed_and_the_run_goes_on(
    config: PrecomputeConfig, videos: Path, tmp_path: Path, make_video
) -> None:
    cache = tmp_path / "cache"
    precompute(config, progress=False)
    assert failures_file(cache) is None
    (videos / "text.avi").write_text("no video")
    make_video(videos / "short.avi", frames=1)
    (videos / "c.avi").write_bytes(b"now broken, too")
    summary = precompute(config, progress=False)
    expected = [
        ("c.avi", "cannot be opened as a video (damaged, or not a video file)"),
        ("short.avi", "has 1 frame, step 1 needs 2"),
        ("text.avi", "cannot be opened as a video (damaged, or not a video file)"),
    ]
    assert summary.failures == [Failure(*pair) for pair in expected]
    assert (summary.done, summary.skipped) == (0, 2)
    assert failures_file(cache) == [["video", "reason"], *map(list, expected)]
    assert [entry.video for entry in read_index(cache)] == ["walk/a.avi", "walk/b.mp4"]  # no stale c

    for name in ("text.avi", "short.avi", "c.avi"):
        (videos / name).unlink()
    assert precompute(config, progress=False).failures == []
    assert failures_file(cache) is None


def test_missing_names_in_a_list_fail_each(config: PrecomputeConfig) -> None:
    summary = precompute(config, ["nope/x.avi", "c.avi", "c.avi", "./walk//a.avi"], progress=False)
    assert summary.failures == [Failure("nope/x.avi", "no such file")]
    assert summary.done == 2


def test_damaged_files_of_other_videos_are_listed(config: PrecomputeConfig, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "old.flow.zip").write_bytes(b"junk")
    summary = precompute(config, ["c.avi"], progress=False)
    assert summary.done == 1
    assert summary.failures == [
        Failure("old.flow.zip", "is not a whole zip file (its end record is missing)")
    ]


def test_single_file_image_folder_and_relative_input(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    farneback = FlowSettings("farneback")
    one = PrecomputeConfig(videos / "walk" / "a.avi", tmp_path / "one", farneback, workers=1)
    precompute(one, progress=False)
    assert (tmp_path / "one" / "a.flow.zip").is_file()
    images = tmp_path / "pictures" / "clip.7"
    images.mkdir(parents=True)
    for number in range(3):
        cv2.imwrite(str(images / f"{number}.png"), np.full((16, 20), number, np.uint8))
    monkeypatch.chdir(images)
    precompute(PrecomputeConfig(".", "../../two", farneback, workers=1), progress=False)
    (entry,) = read_index(tmp_path / "two")
    assert (entry.video, entry.cache_file, entry.fps) == ("clip.7", "clip.7.flow.zip", 0.0)


def test_partial_files_need_keep_partial(tmp_path: Path) -> None:
    images = tmp_path / "pictures" / "clip"
    images.mkdir(parents=True)
    for number in range(5):
        cv2.imwrite(str(images / f"{number}.png"), np.full((16, 20), 9 * number, np.uint8))
    (images / "3.png").write_bytes(b"junk")
    config = PrecomputeConfig(
        images.parent, tmp_path / "cache", flow=FlowSettings(method="farneback"), workers=1, keep_partial=True
    )
    summary = precompute(config, progress=False)
    assert (summary.done, summary.partial, summary.fields) == (1, 1, 2)
    assert precompute(config, progress=False).skipped == 1
    strict = precompute(replace(config, keep_partial=False), progress=False)
    assert strict.failures == [Failure("clip", "frame 3: image 3.png cannot be decoded")]
    assert read_index(tmp_path / "cache") == []


def test_limit_takes_the_first(config: PrecomputeConfig, tmp_path: Path) -> None:
    assert precompute(replace(config, limit=1), progress=False).done == 1
    assert [entry.video for entry in read_index(tmp_path / "cache")] == ["c.avi"]
    assert precompute(replace(config, limit=2), progress=False).skipped == 1


def test_parameters_reach_the_files(config: PrecomputeConfig, tmp_path: Path) -> None:
    flow = FlowSettings("farneback", "opencv", {"winsize": 9}, step=2, size=(32, 24), bound=8.0)
    other = replace(config, flow=flow, storage=StorageSettings("jpeg", quality=70))
    precompute(other, ["c.avi"], progress=False)
    with CacheReader(tmp_path / "cache" / "c.flow.zip") as reader:
        meta = reader.meta
    assert (meta.parameters["winsize"], meta.parameters["poly_sigma"]) == (9, 1.2)
    assert (meta.step, meta.size, meta.bound, meta.fields) == (2, (32, 24), 8.0, 1)
    assert meta.storage.as_dict() == {"codec": "jpeg", "max_error": None, "quality": 70, "rgb_quality": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "/no/such/place"}, "no such file or folder"),
        ({"method": "magic"}, "unknown method"),
        ({"device": "gpu"}, "device must be cpu, cuda"),
        ({"preset": "best"}, "unknown preset"),
        ({"parameters": {"preset": 1}}, "argument of its own"),
        ({"parameters": {"tau": 1}}, "unknown parameter 'tau'"),
        ({"bound": -1.0}, "bound"),
        ({"step": 0}, "step"),
        ({"workers": -1}, "workers"),
        ({"limit": 0}, "limit"),
        ({"codec": "gif"}, "unknown codec"),
        ({"max_error": 999}, "max_error"),
        ({"rgb_quality": 0}, "rgb_quality"),
        ({"size": (0, 5)}, "sides"),
        ({"short_side": 5, "size": (5, 5)}, "not both"),
    ],
)
def test_unusable_arguments_are_refused_before_any_work(
    config: PrecomputeConfig, change: dict, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        precompute(changed(config, **change), progress=False)
    assert not Path(config.output).exists()


def test_empty_inputs_are_refused(config: PrecomputeConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArgumentError, match="no videos found"):
        precompute(replace(config, input=tmp_path / "empty"), progress=False)
    with pytest.raises(ArgumentError, match="list of videos is empty"):
        precompute(config, [], progress=False)


def test_a_video_that_cannot_have_a_cache_file_fails_alone(
    config: PrecomputeConfig, videos: Path, tmp_path: Path, make_video
) -> None:
    make_video(videos / "c.mp4")
    make_video(videos / "walk" / "D:x.avi")
    for done in (3, 0):
        summary = precompute(config, progress=False)
        assert (summary.done, summary.skipped) == (done, 3 - done)
        shared, odd = summary.failures
        assert shared == Failure("c.mp4", "would share the cache file c.flow.zip with c.avi; rename one")
        assert odd.video == "walk/D:x.avi"
        assert "drive letters" in odd.reason
    assert failures_file(tmp_path / "cache") == [
        ["video", "reason"], [shared.video, shared.reason], [odd.video, odd.reason]
    ]  # fmt: skip
    found = estimate(config)
    assert [failure.video for failure in found.unreadable] == ["c.mp4", "walk/D:x.avi"]
    faults = verify_cache(tmp_path / "cache", Videos(videos), progress=False).faults
    assert [fault.cache_file for fault in faults] == ["c.mp4", "walk/D:x.avi"]
    parts = [precompute(replace(config, shard=f"{n}/3"), progress=False).failures for n in (1, 2, 3)]
    assert sorted(failure.video for part in parts for failure in part) == ["c.mp4", "walk/D:x.avi"]


@pytest.mark.parametrize("name", ["../c.avi", "/etc/passwd", "walk/../../c.avi"])
def test_nothing_is_written_outside_the_output(config: PrecomputeConfig, name: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="stays inside"):
        precompute(config, [name], progress=False)
    assert not (tmp_path / "c.flow.zip").exists()


def test_a_link_out_of_the_output_is_refused(config: PrecomputeConfig, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache" / "walk").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArgumentError, match="leads out of the cache folder"):
        precompute(config, progress=False)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_an_output_that_cannot_be_written_is_an_unusable_argument(
    config: PrecomputeConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match=r"cannot write .*file"):
        precompute(replace(config, output=tmp_path / "file"), progress=False)


@pytest.mark.real_data
def test_real_clips_store_one_field_less_than_frames(real_data: Path, tmp_path: Path) -> None:
    clips = sorted((real_data / "jhmdb" / "wave").glob("*.avi"))[:2]
    config = PrecomputeConfig(
        real_data / "jhmdb",
        tmp_path / "cache",
        flow=FlowSettings(method="farneback", short_side=32),
        workers=1,
    )
    precompute(config, [clip.relative_to(real_data / "jhmdb").as_posix() for clip in clips], progress=False)
    for entry, clip in zip(read_index(tmp_path / "cache"), clips, strict=True):
        capture = cv2.VideoCapture(str(clip))
        count = 0
        while capture.read()[0]:
            count += 1
        assert entry.video == f"wave/{clip.name}"
        assert (entry.num_frames, entry.num_fields) == (count, count - 1)


def test_a_cache_file_stays_with_its_video_when_another_one_comes_first(
    config: PrecomputeConfig, videos: Path, tmp_path: Path, make_video
) -> None:
    precompute(config, progress=False)
    before = (tmp_path / "cache" / "c.flow.zip").read_bytes()
    make_video(videos / "c.3gp", seed=9)
    summary = precompute(config, progress=False)
    assert (summary.done, summary.skipped) == (0, 3)
    assert summary.failures == [
        Failure("c.3gp", "would share the cache file c.flow.zip with c.avi; rename one")
    ]
    assert (tmp_path / "cache" / "c.flow.zip").read_bytes() == before


def test_the_same_file_under_two_names_is_computed_once(
    config: PrecomputeConfig, videos: Path, tmp_path: Path, make_video
) -> None:
    """Both names have a cache file, with the bytes that computing it would give."""
    (videos / "walk" / "hard.avi").hardlink_to(videos / "c.avi")
    (videos / "walk" / "soft.avi").symlink_to(videos / "walk" / "a.avi")
    make_video(videos / "walk" / "same contents, another file.avi", frames=3, seed=3)
    config = changed(config, rgb=True)
    note = (
        "computed once, since they are the same file under two names: "
        "walk/hard.avi and c.avi, walk/soft.avi and walk/a.avi"
    )
    found = estimate(config)
    assert (len(found.plan.jobs), len(found.plan.new), found.plan.notes) == (4, 6, [note])
    summary = precompute(config, progress=False)
    assert (summary.done, summary.failures, summary.notes) == (6, [], [note])
    assert summary.fields == 4 + 3 + 2 + 2  # of four videos
    for name in ("hard", "soft"):
        alone = precompute(replace(config, output=tmp_path / name), [f"walk/{name}.avi"], progress=False)
        assert (alone.done, alone.notes) == (1, [])
        file = f"walk/{name}.flow.zip"
        assert (tmp_path / name / file).read_bytes() == (tmp_path / "cache" / file).read_bytes()
    again = precompute(config, progress=False)
    assert (again.done, again.skipped, again.notes) == (0, 6, [])
    assert verify_cache(tmp_path / "cache", Videos(videos), decode=True, progress=False).faults == []
    # Where only the copy is missing, it is made of the file that was kept.
    (tmp_path / "cache" / "walk" / "hard.flow.zip").unlink()
    assert (precompute(config, progress=False).fields, len(read_index(tmp_path / "cache"))) == (0, 6)


def test_both_names_of_a_damaged_file_fail(config: PrecomputeConfig, videos: Path, tmp_path: Path) -> None:
    (videos / "bad.avi").write_text("no video")
    (videos / "worse.avi").symlink_to("bad.avi")
    (videos / "broken link.avi").symlink_to("nowhere.avi")
    summary = precompute(config, progress=False)
    assert [failure.video for failure in summary.failures] == ["bad.avi", "broken link.avi", "worse.avi"]
    assert summary.failures[2].reason == "is the same file as bad.avi, which failed"
    assert len(read_index(tmp_path / "cache")) == 3
