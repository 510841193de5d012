"""RGB frames larger or smaller than the frames that flow is computed on, through every command."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.meta import CacheMeta, Source
from flow_cache.cache.reader import CacheReader
from flow_cache.cli.main import main
from flow_cache.commands.export import ExportConfig, export_cache
from flow_cache.commands.import_folders import ImportConfig, import_folders
from flow_cache.commands.info import describe_cache
from flow_cache.commands.verify import Videos, repair_cache, verify_cache
from flow_cache.commands.view import view
from flow_cache.errors import CacheMismatchError
from flow_cache.pipeline.dry_run import estimate
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig
from flow_cache.pipeline.worker import Job, cache_video
from flow_cache.progress import FieldsDone
from flow_cache.video.frames import read_frames

# (W, H) of each video, of its fields at short side 24, and of its RGB frames at short side 60.
SIZES = {
    "wide.avi": ((96, 72), (32, 24), (80, 60)),
    "portrait.avi": ((66, 120), (24, 44), (60, 110)),
    "small.avi": ((50, 34), (36, 24), (50, 34)),
    "odd/images": ((101, 75), (32, 24), (80, 60)),
}


@pytest.fixture
def config(tmp_path: Path, make_video) -> PrecomputeConfig:
    videos = tmp_path / "videos"
    for seed, (name, ((width, height), _, _)) in enumerate(SIZES.items()):
        if name.endswith(".avi"):
            make_video(videos / name, frames=5, width=width, height=height, seed=seed)
            continue
        (videos / name).mkdir(parents=True)
        for number in range(5):
            coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3), np.uint8)
            cv2.imwrite(str(videos / name / f"{number}.png"), cv2.resize(coarse, (width, height)))
    return PrecomputeConfig(
        videos,
        tmp_path / "cache",
        FlowSettings("farneback", short_side=24),
        StorageSettings(rgb=True, rgb_quality=95, rgb_short_side=60),
        workers=1,
    )


@pytest.fixture
def cache(config: PrecomputeConfig) -> Path:
    assert precompute(config, progress=False).failures == []
    return Path(config.output)


def file_of(cache: Path, video: str) -> Path:
    return cache / f"{video.removesuffix('.avi')}.flow.zip"


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.flow.zip")}


def changed(config: PrecomputeConfig, **storage: object) -> PrecomputeConfig:
    return replace(config, storage=replace(config.storage, **storage))


@pytest.mark.parametrize("video", SIZES)
def test_fields_and_frames_are_those_of_runs_at_their_sizes(
    config: PrecomputeConfig, cache: Path, tmp_path: Path, video: str
) -> None:
    own, field, frame = SIZES[video]
    with CacheReader(file_of(cache, video)) as reader:
        assert (reader.width, reader.height) == field
        assert (reader.rgb_width, reader.rgb_height) == frame
        flow, frames = reader.flow(range(4)), reader.rgb(range(5))
        reader.check(decode=True)
    decoded = list(read_frames(Path(config.input) / video, short_side=min(*own, 60), rgb=True))
    assert np.abs(np.stack([f.rgb for f in decoded]).astype(int) - frames).mean() < 12
    plain = replace(changed(config, rgb=False), output=tmp_path / "plain")
    precompute(plain, [video], progress=False)
    with CacheReader(file_of(tmp_path / "plain", video)) as reader:
        assert np.array_equal(reader.flow(range(4)), flow)


def test_a_large_number_keeps_the_videos_own_size(config: PrecomputeConfig) -> None:
    precompute(changed(config, rgb_short_side=9999), progress=False)
    for video, (own, _, _) in SIZES.items():
        with CacheReader(file_of(Path(config.output), video)) as reader:
            assert (reader.rgb_width, reader.rgb_height) == own


def test_the_flows_size_asked_for_as_rgb_size_gives_the_same_images(
    config: PrecomputeConfig, tmp_path: Path
) -> None:
    precompute(changed(config, rgb_short_side=24), progress=False)
    precompute(replace(changed(config, rgb_short_side=None), output=tmp_path / "plain"), progress=False)
    for video in SIZES:
        with (
            CacheReader(file_of(Path(config.output), video)) as own,
            CacheReader(file_of(tmp_path / "plain", video)) as plain,
        ):
            assert list(own.encoded()) == list(plain.encoded())


def test_another_rgb_size_is_refused_until_it_is_overwritten(config: PrecomputeConfig, cache: Path) -> None:
    before = contents(cache)
    assert precompute(config, progress=False).skipped == 4
    for side, message in (
        (None, r"rgb_short_side 60 \(asked for: None\)"),
        (48, r"rgb_short_side 60 \(asked for: 48\)"),
    ):
        with pytest.raises(CacheMismatchError, match=message):
            precompute(changed(config, rgb_short_side=side), progress=False)
        assert len(estimate(changed(config, rgb_short_side=side)).plan.mismatches) == 4
    assert contents(cache) == before
    precompute(replace(changed(config, rgb_short_side=48), overwrite=True), progress=False)
    with CacheReader(file_of(cache, "wide.avi")) as reader:
        assert (reader.rgb_width, reader.rgb_height) == (64, 48)


def test_a_dry_run_weighs_the_larger_frames(config: PrecomputeConfig) -> None:
    found = estimate(config)
    precompute(config, progress=False)
    size = sum(map(len, contents(Path(config.output)).values()))
    assert found.bytes == pytest.approx(
        size, rel=0.25
    )  # a field's bytes stand for a frame's, one of which is more
    assert found.bytes > 1.3 * estimate(replace(changed(config, rgb_short_side=None), overwrite=True)).bytes


def test_verify_holds_the_cache_against_its_videos_and_repairs_it(
    config: PrecomputeConfig, cache: Path
) -> None:
    before, videos = contents(cache), Videos(config.input)
    assert verify_cache(cache, videos, decode=True, progress=False).faults == []
    damaged = file_of(cache, "portrait.avi")
    damaged.write_bytes(before["portrait.flow.zip"][:-50])
    found = verify_cache(cache, videos, progress=False)
    assert [fault.cache_file for fault in found.faults] == ["portrait.flow.zip"]
    assert repair_cache(found, videos, workers=1, progress=False).faults == []
    assert contents(cache) == before


def test_verify_finds_frames_larger_than_was_asked_for(config: PrecomputeConfig, cache: Path) -> None:
    path = file_of(cache, "wide.avi")
    data = path.read_bytes()
    precompute(replace(changed(config, rgb_short_side=48), overwrite=True), progress=False)
    assert verify_cache(cache, progress=False).faults == []
    path.write_bytes(data)
    (fault,) = verify_cache(cache, progress=False).faults
    assert fault.reason == "was made with other settings than most: rgb_short_side 60 (most: 48)"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(members["meta.json"]) | {"rgb_short_side": 48}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"meta.json": json.dumps(document).encode()}).items():
            archive.writestr(name, content)
    (fault,) = verify_cache(cache, progress=False).faults
    assert fault.reason == "holds RGB frames of 80x60, but RGB short side 48 was asked for"


def test_what_is_exported_has_its_size_and_can_be_imported(
    config: PrecomputeConfig, cache: Path, tmp_path: Path
) -> None:
    export_cache(ExportConfig(cache, tmp_path / "out", "png"), progress=False)
    for video, (_, field, frame) in SIZES.items():
        folder = tmp_path / "out" / video.removesuffix(".avi")
        assert cv2.imread(str(folder / "flow_x_00001.png")).shape[1::-1] == field
        assert cv2.imread(str(folder / "img_00001.jpg")).shape[1::-1] == frame

    def imported(name: str, side: int | None) -> Path:
        storage = StorageSettings(rgb=True, rgb_short_side=side)
        summary = import_folders(ImportConfig(tmp_path / "out", tmp_path / name, storage=storage))
        assert summary.failures == []
        return tmp_path / name

    same, smaller = imported("same", 9999), imported("smaller", 40)
    for video, (_, field, frame) in SIZES.items():
        name = video.removesuffix(".avi") + ".flow.zip"
        with CacheReader(same / name) as reader, CacheReader(file_of(cache, video)) as first:
            assert (reader.width, reader.height) == field
            assert (reader.rgb_width, reader.rgb_height) == frame
            assert np.array_equal(reader.flow(range(4)), first.flow(range(4)))
            assert np.abs(reader.rgb(range(5)).astype(int) - first.rgb(range(5))).mean() < 12
        with CacheReader(smaller / name) as reader:
            assert min(reader.rgb_width, reader.rgb_height) == min(*frame, 40)
    summary = import_folders(
        ImportConfig(tmp_path / "out", tmp_path / "none", storage=StorageSettings(rgb=True))
    )
    assert len(summary.failures) == 4  # frames of another size than the fields, and nobody asked for that
    assert all("rgb must be of height and width" in failure.reason for failure in summary.failures)


def test_imported_images_of_two_sizes_are_still_refused(cache: Path, tmp_path: Path) -> None:
    export_cache(ExportConfig(file_of(cache, "wide.avi"), tmp_path / "out", "png"), progress=False)
    image = tmp_path / "out" / "wide" / "img_00004.jpg"
    cv2.imwrite(str(image), cv2.resize(cv2.imread(str(image)), (160, 120)))  # of the same aspect ratio
    storage = StorageSettings(rgb=True, rgb_short_side=40)
    summary = import_folders(ImportConfig(tmp_path / "out", tmp_path / "again", storage=storage))
    assert summary.failures[0].reason == "image img_00004.jpg has another size than those before it"


def test_pictures_show_frame_and_flow_in_one_size(
    config: PrecomputeConfig, cache: Path, tmp_path: Path
) -> None:
    path = file_of(cache, "wide.avi")
    view(path, tmp_path / "sheet.png", fields=1)
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (24 + 24, 2 * 32, 3)
    view(path, tmp_path / "video.png", fields=1, video=Path(config.input) / "wide.avi")
    seen, expected = (cv2.imread(str(tmp_path / f"{name}.png"))[24:, :32] for name in ("sheet", "video"))
    assert np.abs(seen[14:].astype(int) - expected[14:]).mean() < 12
    view(path, tmp_path / "clip.mp4")
    assert len(list(read_frames(tmp_path / "clip.mp4"))) == 4


def test_info_says_both_sizes(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = describe_cache(cache)
    assert info.sizes == {"32x24": 2, "24x44": 1, "36x24": 1}
    assert info.rgb_sizes == {"80x60": 2, "60x110": 1, "50x34": 1}
    assert info.settings[0]["rgb_short_side"] == 60
    assert main(["info", str(cache)]) == 0
    out = capsys.readouterr().out
    assert "RGB sizes" in out
    assert "80x60 (2)" in out
    assert "rgb_short_side 60" in out


class Still:
    """An estimator that says that nothing moves, and wants many pairs at a time."""

    backend = "none"
    chunk = 32

    def quantized(self, frames: np.ndarray, bound: float, step: int = 1) -> tuple[np.ndarray, int]:
        return np.full((len(frames) - step, 2, *frames.shape[1:]), 128, np.uint8), 0


def test_few_large_frames_are_held_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for number in range(14):
        cv2.imwrite(str(tmp_path / "clip" / f"{number}.png"), np.full((1000, 1200, 3), number, np.uint8))
    storage = StorageSettings(rgb=True, rgb_short_side=9999)
    for asked, most in ((storage, 9), (replace(storage, rgb_short_side=None), 13)):  # 32 MiB of 3.6 MB are 9
        done: list[FieldsDone] = []
        meta = CacheMeta(Source("clip"), "farneback", short_side=16, storage=asked)
        cache_video(Job(tmp_path / "clip", tmp_path / f"{most}.flow.zip", meta), done.append, Still())
        assert max(part.fields for part in done) == most


def test_the_flags_of_the_command_line(config: PrecomputeConfig, cache: Path, tmp_path: Path) -> None:
    arguments = ["precompute", str(config.input), "--out", str(tmp_path / "other"), "--workers", "1"]
    arguments += ["--method", "farneback", "--short-side", "24", "--rgb", "--rgb-quality", "95"]
    assert main([*arguments, "--rgb-short-side", "60"]) == 0
    assert contents(tmp_path / "other") == contents(cache)
