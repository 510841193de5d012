import hashlib
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from flow_cache.cache.codecs import StorageSettings
from flow_cache.cache.meta import CacheMeta, Source
from flow_cache.cache.reader import CacheReader
from flow_cache.errors import ArgumentError, CacheWriteError, VideoError
from flow_cache.methods.registry import get_method
from flow_cache.pipeline.runners.base import Finished
from flow_cache.pipeline.runners.pool import attempt
from flow_cache.pipeline.worker import Job, cache_video
from flow_cache.progress import FieldsDone
from flow_cache.quantization import clip_fraction, quantize
from flow_cache.video.frames import read_frames
from flow_cache.video.source import hash_source, source_bytes


def job(source: Path, target: Path, *, damaged: str = "fail", **values) -> Job:
    values = {
        "method": "farneback",
        "storage": StorageSettings(max_error=0, rgb=True, rgb_quality=90),
    } | values
    values.setdefault("parameters", get_method(values["method"]).parameters.as_dict())
    return Job(
        source,
        target,
        CacheMeta(Source(source.name, source_bytes(source)), **values),
        damaged=damaged,
    )


class Outbox:
    """What a worker would send through its pipe."""

    def __init__(self) -> None:
        self.sent: list = []

    def send(self, message: object) -> None:
        self.sent.append(message)


class Chunked:
    """Farneback's estimator, which wants few pairs at a time."""

    def __init__(self, chunk: int) -> None:
        method = get_method("farneback")
        self.backend, self.quantized = method.backend, method.quantized
        self.chunk = chunk


class Still:
    """An estimator that says that nothing moves, and takes no time for it."""

    backend = "none"
    chunk = 8

    def quantized(self, frames: np.ndarray, bound: float, step: int = 1) -> tuple[np.ndarray, int]:
        return np.full((len(frames) - step, 2, *frames.shape[1:]), 128, np.uint8), 0


class Failing(Still):
    """An estimator that always raises an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def quantized(self, frames: np.ndarray, bound: float, step: int = 1) -> tuple[np.ndarray, int]:
        raise self.error


def images(folder: Path, count: int, broken: int | None = None) -> Path:
    folder.mkdir()
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 255, (16, 20), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    if broken is not None:
        (folder / f"{broken}.png").write_bytes(b"junk")
    return folder


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("frames", [3, 9, 12])
def test_streaming_in_chunks_equals_the_whole_stack(
    tmp_path: Path, make_video, step: int, frames: int
) -> None:
    video = make_video(tmp_path / "a.avi", frames=frames)
    advanced: list[FieldsDone] = []
    meta = cache_video(
        job(video, tmp_path / "a.flow.zip", step=step, bound=1.0, short_side=32),
        advanced.append,
        Chunked(3),
    )
    decoded = list(read_frames(video, short_side=32, rgb=True))
    flow = get_method("farneback")(np.stack([frame.grey for frame in decoded]), step)
    with CacheReader(tmp_path / "a.flow.zip") as reader:
        assert reader.meta == meta
        assert np.array_equal(reader.flow(range(reader.num_fields)), quantize(flow, 1.0))
        assert reader.rgb(range(frames)).shape == (frames, 32, 42, 3)
        middle = reader.rgb([frames - 1])[0].astype(int)
    assert np.abs(middle - decoded[-1].rgb).mean() < 12
    assert sum(done.fields for done in advanced) == meta.fields == frames - step
    assert max(done.fields for done in advanced) <= 3
    assert meta.clip_fraction == pytest.approx(clip_fraction(flow, 1.0))
    assert meta.source.sha256 == hashlib.sha256(video.read_bytes()).hexdigest()
    assert (meta.fps, meta.frames, meta.width, meta.height) == (25.0, frames, 42, 32)


@pytest.mark.parametrize(("frames", "step"), [(1, 1), (3, 3), (2, 5)])
def test_too_few_frames(tmp_path: Path, frames: int, step: int) -> None:
    folder = images(tmp_path / "clip", frames)
    with pytest.raises(VideoError, match=f"has {frames} frames?, step {step} needs {step + 1}"):
        cache_video(job(folder, tmp_path / "out" / "clip.flow.zip", step=step), lambda _: None)
    assert not (tmp_path / "out").exists()


def test_broken_half_way(tmp_path: Path) -> None:
    folder = images(tmp_path / "clip", 7, broken=4)
    target = tmp_path / "out" / "clip.flow.zip"
    with pytest.raises(VideoError, match="frame 4"):
        cache_video(job(folder, target), lambda _: None, Chunked(2))
    assert not list(target.parent.iterdir())
    meta = cache_video(job(folder, target, damaged="keep-prefix"), lambda _: None, Chunked(2))
    assert (meta.frames, meta.fields) == (4, 3)
    assert meta.partial == "frame 4: image 4.png cannot be decoded"
    with CacheReader(target) as reader:
        assert reader.meta == meta
        reader.check()


def test_too_little_before_the_break_is_not_kept(tmp_path: Path) -> None:
    folder = images(tmp_path / "clip", 3, broken=1)
    with pytest.raises(VideoError, match="frame 1"):
        cache_video(job(folder, tmp_path / "clip.flow.zip", damaged="keep-prefix"), lambda _: None)
    assert not (tmp_path / "clip.flow.zip").exists()


def test_hash_and_size_of_image_folders(tmp_path: Path) -> None:
    folder = images(tmp_path / "clip", 3)
    before = hash_source(folder), source_bytes(folder)
    assert before[1] == sum(path.stat().st_size for path in folder.iterdir())
    (folder / "1.png").rename(folder / "5.png")
    assert hash_source(folder) != before[0]
    assert source_bytes(tmp_path / "none.avi") == 0
    with pytest.raises(VideoError, match="No such file"):
        hash_source(tmp_path / "none.avi")


def test_attempt_turns_errors_into_reasons(tmp_path: Path) -> None:
    folder = images(tmp_path / "clip", 3)
    outbox = Outbox()
    good = job(folder, tmp_path / "clip.flow.zip")
    assert attempt(good, outbox.send) == Finished(good, fields=2)
    (advance,) = outbox.sent
    assert isinstance(advance, FieldsDone)
    assert advance.fields == 2
    assert set(advance.seconds) == {"decode", "flow", "store"}
    assert min(advance.seconds.values()) > 0
    missing = job(tmp_path / "none.avi", tmp_path / "none.flow.zip")
    assert attempt(missing, outbox.send) == Finished(missing, reason="no such file")
    (tmp_path / "file").touch()
    assert isinstance(attempt(job(folder, tmp_path / "file" / "x.flow.zip"), outbox.send), CacheWriteError)
    for error, reason in (
        (MemoryError("two\nlines"), "MemoryError: two lines"),
        (ArgumentError("frames must be larger"), "frames must be larger"),
    ):
        assert attempt(good, outbox.send, Failing(error)).reason == reason


def test_attempt_stops_when_the_main_process_is_gone(tmp_path: Path) -> None:
    class Closed(Outbox):
        def send(self, message: object) -> None:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        attempt(job(images(tmp_path / "clip", 3), tmp_path / "out" / "clip.flow.zip"), Closed().send)
    assert not list((tmp_path / "out").iterdir())


def test_a_video_ten_times_as_long_takes_no_more_memory(tmp_path: Path) -> None:
    peaks = {}
    for frames in (60, 60, 600):  # the first run imports and fills caches
        video = tmp_path / f"{frames}.avi"
        writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 25, (160, 120))
        for number in range(frames):
            writer.write(np.full((120, 160, 3), number % 200, np.uint8))
        writer.release()
        tracemalloc.start()
        try:
            cache_video(job(video, tmp_path / f"{frames}.flow.zip"), lambda advance: None, Still())
            peaks[frames] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peaks[600] < 1.1 * peaks[60]
