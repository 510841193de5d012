import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_cache import CacheReader
from flow_cache.cli.main import main as flow_cache
from flow_cache.errors import ArgumentError, VideoError
from flow_cache.video.find import find_videos
from flow_cache.video.frames import output_size, probe_fps, probe_frames, read_frames, rgb_output_size

SIDES = st.integers(1, 5000)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(1, 1000))
def test_short_side_is_met_and_aspect_kept(width: int, height: int, short_side: int) -> None:
    w, h = output_size(width, height, short_side=short_side)
    assert min(w, h) == short_side
    if min(width, height) == short_side:
        assert (w, h) == (width, height)
        return
    assert (w >= h) == (width >= height) or w == h
    exact = max(width, height) / min(width, height) * short_side
    assert abs(max(w, h) - exact) <= 1.0
    assert max(w, h) % 2 == 0 or max(w, h) == short_side


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(2, 1000))
def test_turning_a_frame_turns_its_size(width: int, height: int, short_side: int) -> None:
    assert (
        output_size(width, height, short_side=short_side)
        == output_size(height, width, short_side=short_side)[::-1]
    )


def test_frames_of_a_file(tmp_path: Path, make_video) -> None:
    video = make_video(tmp_path / "a.avi", frames=7)
    frames = list(read_frames(video, rgb=True))
    assert [frame.index for frame in frames] == list(range(7))
    for frame in frames:
        assert frame.grey.shape == (48, 64)
        assert frame.grey.dtype == np.uint8
        assert frame.rgb.shape == (48, 64, 3)
    # The maker wrote R = 255 - G and B = G / 2.
    red, green, blue = (frames[0].rgb[..., channel].astype(float) for channel in range(3))
    assert np.corrcoef(red.ravel(), green.ravel())[0, 1] < -0.9
    assert np.corrcoef(blue.ravel(), green.ravel())[0, 1] > 0.9
    assert blue.mean() < green.mean()
    assert all(frame.rgb is None for frame in read_frames(video))
    assert probe_fps(video) == 25.0


@given(SIDES, SIDES, st.integers(1, 6000))
def test_rgb_is_never_enlarged_and_keeps_its_aspect(width: int, height: int, short_side: int) -> None:
    found = rgb_output_size(width, height, short_side)
    if short_side >= min(width, height):
        assert found == (width, height)
    else:
        assert found == output_size(width, height, short_side=short_side)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (46, 82), (51, 33), (50, 50)])
@pytest.mark.parametrize("flow", [{}, {"short_side": 24}, {"short_side": 96}, {"size": (70, 50)}])
@pytest.mark.parametrize("rgb_short_side", [None, 17, 40, 9999])
def test_rgb_has_its_own_size_and_grey_stays(
    tmp_path: Path, width: int, height: int, flow: dict, rgb_short_side: int | None
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "0.png"), image)
    (frame,) = read_frames(tmp_path, rgb=True, rgb_short_side=rgb_short_side, **flow)
    (plain,) = read_frames(tmp_path, rgb=True, **flow)
    assert np.array_equal(frame.grey, plain.grey)
    if rgb_short_side is None:
        assert np.array_equal(frame.rgb, plain.rgb)
        return
    assert frame.rgb.shape[1::-1] == rgb_output_size(width, height, rgb_short_side)
    if rgb_short_side == 9999:
        assert np.array_equal(frame.rgb, image[..., ::-1])
    else:
        (alone,) = read_frames(tmp_path, rgb=True, short_side=min(rgb_short_side, width, height))
        assert np.array_equal(frame.rgb, alone.rgb)


def test_an_unusable_rgb_size_is_refused_at_once(tmp_path: Path) -> None:
    for side in (0, 40_000, 1.5):
        with pytest.raises(ArgumentError, match="frame sides"):
            read_frames(tmp_path, rgb=True, rgb_short_side=side)


def test_grey_does_not_depend_on_rgb(tmp_path: Path, make_video) -> None:
    video = make_video(tmp_path / "a.mp4")
    for size in ({}, {"short_side": 24}, {"size": (70, 50)}):
        with_rgb = [frame.grey for frame in read_frames(video, rgb=True, **size)]
        without = [frame.grey for frame in read_frames(video, **size)]
        assert np.array_equal(with_rgb, without)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"short_side": 24}, (24, 32)),
        ({"short_side": 96}, (96, 128)),
        ({"size": (40, 30)}, (30, 40)),
        ({"size": (100, 20)}, (20, 100)),
        ({"short_side": 48}, (48, 64)),
    ],
)
def test_resize(tmp_path: Path, make_video, arguments: dict, shape: tuple) -> None:
    frame = next(read_frames(make_video(tmp_path / "a.avi"), rgb=True, **arguments))
    assert frame.grey.shape == shape
    assert frame.rgb.shape == (*shape, 3)


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[..., Path]:
    """Write grey images, by name, into a folder that is one video."""

    def write(images: dict[str, np.ndarray]) -> Path:
        folder = tmp_path / "clip.01"
        folder.mkdir()
        for name, image in images.items():
            cv2.imwrite(str(folder / name), image.astype(np.uint8))
        return folder

    return write


def test_shrinking_averages_areas(write_images) -> None:
    folder = write_images({"0.png": np.indices((32, 32)).sum(0) % 2 * 255})
    frame = next(read_frames(folder, size=(8, 8)))
    assert np.all(np.abs(frame.grey.astype(int) - 127.5) <= 1)


def test_image_folder_is_read_in_natural_order(write_images) -> None:
    folder = write_images({f"img_{number}.png": np.full((10, 12), number) for number in (1, 2, 10, 9)})
    (folder / "notes.txt").write_text("not an image")
    assert [int(frame.grey[0, 0]) for frame in read_frames(folder)] == [1, 2, 9, 10]
    assert probe_fps(folder) == 0.0
    assert find_videos(folder) == [folder]


def test_broken_image_is_named_after_the_readable_ones(write_images) -> None:
    folder = write_images({f"{number}.png": np.full((10, 12), number) for number in range(3)})
    (folder / "1.png").write_bytes(b"junk")
    frames = read_frames(folder)
    next(frames)
    with pytest.raises(VideoError, match=r"frame 1: image 1\.png cannot be decoded") as caught:
        next(frames)
    assert caught.value.frame == 1


def test_change_of_frame_size_is_an_error(write_images) -> None:
    folder = write_images({"0.png": np.zeros((10, 12)), "1.png": np.zeros((10, 14))})
    with pytest.raises(VideoError, match=r"frame 1: frame size changes from 12x10 to 14x10"):
        list(read_frames(folder))


def test_too_large_frames_are_refused(write_images) -> None:
    folder = write_images({"0.png": np.zeros((2, 400))})
    with pytest.raises(VideoError, match="too large"):
        next(read_frames(folder, short_side=300))


def test_unreadable_files_raise_one_line_and_print_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.avi").write_text("this is no video\n" * 50)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.avi").mkdir()
    os.mkfifo(tmp_path / "pipe.avi")
    code = (
        "import sys; from flow_cache.video.frames import read_frames, probe_fps\n"
        "from flow_cache.errors import VideoError\n"
        "for name in sys.argv[1:]:\n"
        "    for function in (lambda p: list(read_frames(p)), probe_fps):\n"
        "        try: function(name)\n"
        "        except VideoError as error: print(error)\n"
    )
    names = ["text.avi", "empty.mp4", "missing.mp4", "pipe.avi"]
    run = subprocess.run(
        [sys.executable, "-c", code, *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
    )
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert len(lines) == 8
    for name, reason, line in zip(
        names,
        ["cannot be opened as a video", "is empty", "no such file", "not a regular file"],
        lines[::2],
        strict=True,
    ):
        assert name in line
        assert reason in line
    with pytest.raises(VideoError, match="holds no images"):
        list(read_frames(tmp_path / "folder.avi"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"short_side": 0},
        {"short_side": 2.5},
        {"short_side": True},
        {"size": (10, 0)},
        {"size": (10,)},
        {"size": [10, 10]},
        {"short_side": 10, "size": (10, 10)},
        {"short_side": 40000},
    ],
)
def test_unusable_sizes_are_refused_before_reading(arguments: dict) -> None:
    with pytest.raises(ArgumentError):
        read_frames("never-opened.avi", **arguments)


def test_find_videos(tmp_path: Path) -> None:
    for name in (
        "b/2.MP4",
        "b/10.avi",
        "a/x.mkv",
        "a/cover.jpg",
        ".hidden/z.avi",
        "a/.z.avi",
        "t/readme.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "overview.png").touch()  # pictures beside folders are no video
    images = tmp_path / "c" / "clip.1"
    images.mkdir(parents=True)
    (images / "0.jpg").touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in find_videos(tmp_path)]
    assert found == ["a/x.mkv", "b/10.avi", "b/2.MP4", "c/clip.1"]
    assert find_videos(tmp_path / "a" / "x.mkv") == [tmp_path / "a" / "x.mkv"]
    with pytest.raises(ArgumentError, match="no such file or folder"):
        find_videos(tmp_path / "nowhere")


def test_file_that_announces_frames_but_decodes_none(tmp_path: Path, make_video) -> None:
    """The frames' data are zeros, which no decoder takes; the rest of the file is whole."""
    video = make_video(tmp_path / "videos" / "a.avi", frames=7)
    content = bytearray(video.read_bytes())
    chunk, frames = content.index(b"movi") + 4, 0
    while content[chunk : chunk + 4] == b"00dc":
        size = int.from_bytes(content[chunk + 4 : chunk + 8], "little")
        content[chunk + 8 : chunk + 8 + size] = bytes(size)
        chunk += 8 + size + size % 2
        frames += 1
    assert frames == 7
    video.write_bytes(content)
    assert probe_frames(video) == 7
    with pytest.raises(VideoError, match=r"no frame could be decoded \(codec MJPG, header announces 7 "):
        list(read_frames(video))
    cache = tmp_path / "cache"
    assert flow_cache(["precompute", str(video.parent), "--out", str(cache), "--method=farneback"]) == 1
    assert not list(cache.rglob("*.flow.zip"))


@pytest.mark.real_data
def test_a_codec_that_not_every_opencv_decodes(real_data: Path, tmp_path: Path) -> None:
    """All frames that OpenCV itself shows, and the fields between them; or, where it shows none, a named error."""
    video = real_data / "clips" / "av1_video.mkv"
    capture, shown = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG), 0
    while capture.read()[0]:
        shown += 1
    capture.release()
    command = ["precompute", str(video), "--out", str(tmp_path), "--method=farneback", "--short-side=32"]
    if shown == 0:
        with pytest.raises(VideoError, match=r"no frame could be decoded \(codec AV01, header announces 125"):
            list(read_frames(video))
        assert flow_cache(command) == 1
        assert not list(tmp_path.rglob("*.flow.zip"))
    else:
        assert shown == 125
        assert [frame.index for frame in read_frames(video)] == list(range(shown))
        assert flow_cache(command) == 0
        (cache,) = tmp_path.rglob("*.flow.zip")
        with CacheReader(cache) as reader:
            assert (reader.num_frames, reader.num_fields) == (shown, shown - 1)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "count", "shape", "fps"),
    [
        ("h265_10bits.mp4", 30, (200, 200), 30.0),
        ("v_biking_01_01.mpg", 151, (240, 320), 29.97003),  # its header says 150
        ("v_GGSY1Qvo990.mp4", 355, (240, 320), 19.62),
        ("person01_boxing_d1_uncomp.avi", 360, (120, 160), 25.0),
    ],
)
def test_real_clips(real_data: Path, name: str, count: int, shape: tuple, fps: float) -> None:
    path = real_data / "clips" / name
    assert [frame.grey.shape for frame in read_frames(path)] == [shape] * count
    assert probe_fps(path) == fps


@pytest.mark.real_data
def test_header_count_of_jhmdb_is_not_believed(real_data: Path) -> None:
    clip = min((real_data / "jhmdb" / "wave").glob("*.avi"))
    announced = cv2.VideoCapture(str(clip)).get(cv2.CAP_PROP_FRAME_COUNT)
    count = sum(1 for _ in read_frames(clip))
    assert 15 <= count <= 40
    assert count < announced
