import re
import uuid
from pathlib import Path

import cv2
import numpy as np
import pytest
from upath import UPath

from flow_cache.cache.reader import CacheReader
from flow_cache.commands.import_folders import ImportConfig, import_folders
from flow_cache.commands.verify import Videos, verify_cache
from flow_cache.errors import VideoError
from flow_cache.pipeline.dry_run import estimate
from flow_cache.pipeline.outcome import Failure
from flow_cache.pipeline.run import precompute
from flow_cache.pipeline.settings import FlowSettings, PrecomputeConfig
from flow_cache.storage.paths import as_path
from flow_cache.video.find import find_videos, image_files, is_image_folder, search_videos, split_series
from flow_cache.video.frames import read_frames


def put(folder: Path, *names: str, counts: range = range(1, 9)) -> Path:
    """Write small images; `#` in a name stands for each of the numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for number in counts if "#" in name else [0]:
            image = np.full((16, 20), 100 + number, np.uint8)
            cv2.imwrite(str(folder / name.replace("#", f"{number:05d}")), image)
    return folder


def exported(folder: Path) -> Path:
    """Make a folder as `flow-cache export` does: 8 frames, 7 fields."""
    put(folder, "img_#.jpg")
    return put(folder, "flow_x_#.jpg", "flow_y_#.jpg", counts=range(1, 8))


def below(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_videos(root)]


def config_for(source: Path, output: Path) -> PrecomputeConfig:
    return PrecomputeConfig(source, output, flow=FlowSettings("farneback"), workers=1)


def test_an_exported_folder_is_a_video_of_its_frames(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out" / "clip")
    assert len(list(read_frames(folder))) == 8
    (note,) = search_videos(folder.parent).notes
    assert note == (
        f"only the frames are taken, not the flow beside them: {folder}; flow-cache import reads that"
    )
    summary = precompute(config_for(folder.parent, tmp_path / "cache"), progress=False)
    assert (summary.fields, summary.failures, summary.notes) == (7, [], [note])
    assert verify_cache(tmp_path / "cache", Videos(folder.parent), progress=False).faults == []
    # An import reads all of them.
    imported = import_folders(ImportConfig(folder.parent, tmp_path / "imported"), progress=False)
    assert (imported.done, imported.fields, imported.failures) == (1, 7, [])
    with CacheReader(tmp_path / "imported" / "clip.flow.zip") as reader:
        assert reader.meta.source.bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert import_folders(ImportConfig(folder.parent, tmp_path / "imported"), progress=False).skipped == 1
    assert verify_cache(tmp_path / "imported", Videos(folder.parent), progress=False).faults == []


def test_an_exported_folder_without_frames_fails_and_is_imported(tmp_path: Path) -> None:
    folder = put(tmp_path / "out" / "clip", "flow_x_#.png", "flow_y_#.png")
    put(tmp_path / "out" / "good", "#.png")
    assert search_videos(folder.parent) == ([folder, tmp_path / "out" / "good"], [])
    summary = precompute(config_for(folder.parent, tmp_path / "cache"), progress=False)
    assert (summary.done, summary.failures) == (
        1,
        [
            Failure(
                "clip",
                "holds pictures of flow (flow_x_#.png: 8, flow_y_#.png: 8) and no frames; flow-cache import reads such",
            )
        ],
    )
    assert import_folders(ImportConfig(folder, tmp_path / "imported"), progress=False).done == 1


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("left_#.png", "right_#.png"), "left_#.png: 8, right_#.png: 8"),
        (("cam1_#.png", "cam2_#.png"), "cam1_#.png: 8, cam2_#.png: 8"),
        (("#.png", "#_thumb.png"), "#.png: 8, #_thumb.png: 8"),
        (("img_#.png", "img_#.jpg"), "img_#.jpg: 8, img_#.png: 8"),
        (("img_#.png", "cover.jpg"), "cover.jpg: 1, img_#.png: 8"),
        (("img_#.png", "depth_#.png", "flow_x_#.png", "flow_y_#.png"), "depth_#.png: 8, img_#.png: 8"),
        (("a.png", "b.png", "c.png", "d.png", "e.png"), "a.png: 1, b.png: 1, c.png: 1 and 2 more"),
    ],
)
def test_several_series_are_no_video(names: tuple[str, ...], shown: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "clip", *names)
    message = f"holds pictures of several series ({shown}); keep one series in a folder"
    with pytest.raises(VideoError, match=re.escape(message)):
        list(read_frames(folder))
    (failure,) = precompute(config_for(tmp_path, tmp_path / "cache"), progress=False).failures
    assert failure == Failure("clip", message)


@pytest.mark.parametrize(
    "names",
    [
        [f"{n}.png" for n in range(12)],
        [f"img_{n:03d}_640x480.jpg" for n in range(12)],
        [f"2024-05-06_12-{n // 60 + 30:02d}-{n % 60:02d}.jpg" for n in range(50, 200)],
        [f"13050311{n * 33333 // 1000000:02d}.{n * 33333 % 1000000:06d}.png" for n in range(90)],
        [f"IMG_{n}.JPG" if n % 2 else f"img_{n}.jpg" for n in range(12)],
        ["only.png"],
    ],
)
def test_one_series_is_taken_whole_and_in_order(names: list[str]) -> None:
    assert split_series(names[::-1]) == (names, [], None)


def test_folders_of_thumbnails_are_not_searched(tmp_path: Path) -> None:
    put(tmp_path / "a", "#.png")
    for name in ("@eaDir", ".thumbnails", "__MACOSX", "#recycle"):
        put(tmp_path / "a" / name, "#.png")
        put(tmp_path / name / "deep", "#.png")
    assert below(tmp_path) == ["a"]
    assert is_image_folder(tmp_path / "a")
    assert search_videos(tmp_path).notes == []


def test_components_of_flow_in_folders_of_their_own_are_left_out(tmp_path: Path) -> None:
    put(tmp_path / "clip", "#.png")
    for component in ("u", "v"):
        put(tmp_path / "clip" / component, "#.png")
        put(tmp_path / "tvl1" / component / "clip", "#.png")
    put(tmp_path / "letters" / "u" / "one", "#.png")  # two classes of these names, not two components
    put(tmp_path / "letters" / "v" / "two", "#.png")
    assert below(tmp_path) == ["clip", "letters/u/one", "letters/v/two"]
    assert [path.name for path in image_files(tmp_path / "clip")] == [f"{n:05d}.png" for n in range(1, 9)]
    (note,) = search_videos(tmp_path).notes
    assert f"hold components of flow: {tmp_path / 'clip' / 'u'}, " in note
    assert "and 1 more; flow-cache import" in note


def test_folders_of_flow_named_like_components_are_imported(tmp_path: Path) -> None:
    for name in ("u", "v"):
        exported(tmp_path / "out" / name)
    assert import_folders(ImportConfig(tmp_path / "out", tmp_path / "cache"), progress=False).done == 2


def test_images_beside_folders_are_said_to_be_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a" / "inner", "#.png")
    put(tmp_path / "in" / "a", "#.png")
    config = config_for(tmp_path / "in", tmp_path / "cache")
    note = (
        f"passed over, since images lie beside folders there: {tmp_path / 'in' / 'a'}; "
        "a folder of images holds nothing else"
    )
    assert estimate(config).plan.notes == [note]
    summary = precompute(config, progress=False)
    assert (summary.done, summary.notes) == (1, [note])


def test_a_link_to_a_folder_is_followed_once_and_said(tmp_path: Path) -> None:
    put(tmp_path / "a", "#.png")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").symlink_to(".")
    found = search_videos(tmp_path)
    assert found.videos == [tmp_path / "a"]
    assert found.notes == [
        f"passed over, since they are links to folders that are searched anyway: {tmp_path / 'b'}, {tmp_path / 'c'}"
    ]


def test_other_formats_are_found_and_taken_as_when_given_directly(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 48), np.uint8)
    grey = bytes(128) * (2 * 32 * 48 // 4 // 128)
    (folder / "a.y4m").write_bytes(
        b"YUV4MPEG2 W48 H32 F25:1 C420\n" + b"".join(b"FRAME\n" + frame.tobytes() + grey for frame in frames)
    )
    (folder / "b.mjpeg").write_bytes(b"".join(cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames))
    for name in ("c.h264", "d.gif", "e.264", "f.hevc"):
        (folder / name).touch()
    assert below(folder) == ["a.y4m", "b.mjpeg", "c.h264", "d.gif", "e.264", "f.hevc"]
    summary = precompute(config_for(folder, tmp_path / "cache"), progress=False)
    assert (summary.done, len(summary.failures)) == (2, 4)  # the other files are empty
    for name in ("a.y4m", "b.mjpeg"):
        precompute(config_for(folder / name, tmp_path / "one"), progress=False)
        one, all_ = (tmp_path / root / f"{name}.flow.zip" for root in ("one", "cache"))
        assert one.read_bytes() == all_.read_bytes()


def test_a_preview_does_not_stand_for_its_video(tmp_path: Path) -> None:
    put(tmp_path / "clip", "#.png")
    (tmp_path / "clip" / "preview.gif").touch()
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.gif").touch()
    assert below(tmp_path) == ["a.gif", "a.mp4", "clip"]
    assert is_image_folder(tmp_path / "clip")
    (note,) = search_videos(tmp_path).notes
    assert (
        note
        == f"passed over, since they lie beside the images of a video: {tmp_path / 'clip' / 'preview.gif'}"
    )


def test_remote_folders_are_told_apart_as_local_ones(tmp_path: Path) -> None:
    exported(tmp_path / "clip")
    put(tmp_path / "clip" / "@eaDir", "#.png")
    for component in ("u", "v"):
        put(tmp_path / "deep" / "er" / component, "#.png")
    put(tmp_path / "deep", "#.png")
    put(tmp_path / "a-b", "#.png")
    (tmp_path / "top.avi").touch()
    url = f"memory://{uuid.uuid4().hex}"
    for path in tmp_path.rglob("*"):
        if path.is_file():
            target = UPath(url) / path.relative_to(tmp_path).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    there, here = search_videos(as_path(url)), search_videos(tmp_path)
    assert [str(path).removeprefix(url + "/") for path in there.videos] == below(tmp_path)
    assert [note.replace(url, str(tmp_path)) for note in there.notes] == here.notes
    assert below(tmp_path) == ["a-b", "clip", "top.avi"]
