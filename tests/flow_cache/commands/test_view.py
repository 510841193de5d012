from pathlib import Path

import cv2
import numpy as np
import pytest

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.meta import CacheMeta, Source
from flow_cache.cache.writer import CacheWriter
from flow_cache.commands.view import view
from flow_cache.errors import ArgumentError, CacheFileError, CacheWriteError
from flow_cache.quantization import quantize
from flow_cache.video.frames import read_frames

H, W = 40, 60


@pytest.fixture
def cache_file(tmp_path: Path):
    """Flow that is all rightwards; frames that are all blue."""

    def make(rgb: bool = True, fields: int = 7) -> Path:
        meta = CacheMeta(
            Source("walk/a.avi"), "tvl1", fps=12.0, storage=StorageSettings(rgb=rgb, rgb_quality=95)
        )
        path = tmp_path / "a.flow.zip"
        flow = np.zeros((fields, 2, H, W), np.float32)
        flow[:, 0] = 6.0
        with CacheWriter(path, meta) as writer:
            writer.add_flow(quantize(flow))
            if rgb:
                writer.add_rgb(np.full((fields + 1, H, W, 3), (10, 20, 220), np.uint8))
        return path

    return make


def near(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 12) -> float:
    return float((np.abs(picture.astype(int) - colour).max(axis=-1) <= tolerance).mean())


def test_contact_sheet_shows_frames_beside_flow(cache_file, tmp_path: Path) -> None:
    longest = view(cache_file(), tmp_path / "sheet.png", fields=4)
    assert longest == pytest.approx(6.0, abs=0.25)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    first = sheet[24 : 24 + H, : 2 * W]
    assert near(first[15:, :W], (10, 20, 220)) == 1
    assert near(first[15:, W:], (255, 0, 0)) == 1  # rightwards, in full colour
    view(cache_file(), tmp_path / "pale.png", fields=1, max_motion=12.0)
    pale = cv2.imread(str(tmp_path / "pale.png"))[..., ::-1]
    assert pale.shape == (24 + H, 2 * W, 3)
    assert near(pale[24 + 15 :, W:], (255, 127, 127)) == 1


def test_more_fields_than_there_are(cache_file, tmp_path: Path) -> None:
    view(cache_file(fields=2), tmp_path / "two.jpg", fields=50)
    assert cv2.imread(str(tmp_path / "two.jpg")).shape[1] >= 2 * W


@pytest.mark.parametrize("name", ["clip.mp4", "clip.AVI"])
def test_video_has_a_frame_for_every_field(cache_file, tmp_path: Path, name: str) -> None:
    view(cache_file(fields=19), tmp_path / name)
    frames = [frame.rgb for frame in read_frames(tmp_path / name, rgb=True)]
    assert len(frames) == 19
    assert frames[0] is not None
    assert frames[0].shape == (24 + H, 2 * W, 3)
    assert near(frames[-1][24 + 15 :, W + 4 :], (255, 0, 0), 40) > 0.9
    assert near(frames[-1][24 + 15 :, : W - 4], (10, 20, 220), 40) > 0.9
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.flow.zip", name])


def test_without_rgb_flow_stands_alone_or_beside_the_video(cache_file, tmp_path: Path, make_video) -> None:
    path = cache_file(rgb=False)
    view(path, tmp_path / "alone.png", fields=1)
    assert cv2.imread(str(tmp_path / "alone.png")).shape == (24 + H, W, 3)
    video = make_video(tmp_path / "v.avi", frames=8, width=W, height=H)
    view(path, tmp_path / "beside.png", fields=3, video=video)
    beside = cv2.imread(str(tmp_path / "beside.png"))
    first = next(iter(read_frames(video, rgb=True))).rgb
    assert first is not None
    assert near(beside[24 + 15 : 24 + H, :W, ::-1], first[15:]) > 0.99
    short = make_video(tmp_path / "short.avi", frames=3, width=W, height=H)
    with pytest.raises(ArgumentError, match="right video"):
        view(path, tmp_path / "x.png", video=short)
    with pytest.raises(ArgumentError, match="its frames are 64x48"):
        view(path, tmp_path / "x.png", video=make_video(tmp_path / "large.avi", frames=8))
    assert not (tmp_path / "x.png").exists()


def test_unusable_arguments(cache_file, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="must end in one of"):
        view(cache_file(), tmp_path / "a.gif")
    with pytest.raises(ArgumentError, match="fields"):
        view(cache_file(), tmp_path / "a.png", fields=0)
    with pytest.raises(CacheFileError, match="no such cache file"):
        view(tmp_path / "none.flow.zip", tmp_path / "a.png")
    (tmp_path / "file").touch()
    for name in ("a.png", "a.mp4"):
        with pytest.raises(CacheWriteError):
            view(cache_file(), tmp_path / "file" / name)
