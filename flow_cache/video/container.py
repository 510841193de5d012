"""Video files as containers: opening one, the stream that a player shows, and what the file says about it."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from flow_cache.errors import VideoError, one_line
from flow_cache.runtime import pyav
from flow_cache.video.aspect import SQUARE, pixel_aspect

MAX_PIXELS = 1 << 27  # 16,384 x 8,192: a forged header must not take all memory


@dataclass(frozen=True)
class Header:
    """What a video file says about itself.

    Attributes:
        fps: frames per second; 0.0 if unknown.
        frames: number of frames, which is often wrong; 0 if unknown.
        codec: four letters of the codec, or its name.
        pixel_aspect: width of a pixel to its height, by which frames are resized; 1 if they are not.
    """

    fps: float
    frames: int
    codec: str
    pixel_aspect: Fraction = SQUARE


def read_header(path: Path) -> Header:
    """Read what a video file says about itself, without decoding it.

    Raises:
        VideoError: the file cannot be opened.
    """
    with opened(path) as container:
        return header_of(container, main_stream(container, path), path)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a video file, or raise VideoError."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        is_missing = isinstance(error, FileNotFoundError | ValueError)
        raise VideoError(path, "no such file" if is_missing else reason_of(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(path, "not a regular file")
    if status.st_size == 0:
        raise VideoError(path, "the file is empty")
    av = pyav()
    # An absolute path, since FFmpeg takes a relative name with a colon for a protocol.
    source: Any = str(path.absolute())
    file: BinaryIO | None = None
    try:
        try:
            try:
                source.encode()
            except UnicodeEncodeError:  # bytes that are no UTF-8, which PyAV cannot pass on
                source = file = path.open("rb")
            container = av.open(
                source,
                options={"max_pixels": str(MAX_PIXELS)},
                container_options={"protocol_whitelist": "file"},  # a playlist must not reach the network
                metadata_errors="replace",
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else "damaged, or not a video file"
            raise VideoError(path, f"cannot be opened as a video ({reason})") from error
        with container:
            yield container
    finally:
        if file is not None:
            file.close()


def main_stream(container: Any, path: Path) -> Any:
    """Choose the video stream that a player shows; a cover picture is none."""
    cover = pyav().stream.Disposition.attached_pic
    stream = container.streams.best("video")
    if stream is None or stream.disposition & cover:
        others = (other for other in container.streams.video if not other.disposition & cover)
        stream = next(others, None)
    if stream is None:
        raise VideoError(path, "cannot be opened as a video (it has no video stream)")
    if stream.codec_context is None:
        raise VideoError(path, "cannot be opened as a video (this FFmpeg has no decoder for its codec)")
    return stream


def header_of(container: Any, stream: Any, path: Path) -> Header:
    """Read what a container says about its main stream; raises VideoError."""
    rate = float(stream.average_rate or stream.guessed_rate or stream.base_rate or 0)
    frames = stream.frames
    if frames <= 0:
        seconds = (container.duration or 0) / pyav().time_base
        frames = int(seconds * rate + 0.5)
    try:
        codec = stream.codec_context.codec_tag.strip("\0 ").upper()
    except UnicodeDecodeError:
        codec = ""
    if not codec or not codec.isprintable():
        codec = stream.codec_context.name
    aspect = pixel_aspect(stream.sample_aspect_ratio, path)
    return Header(round(rate, 6) if 0.0 < rate < 1e5 else 0.0, max(frames, 0), codec, aspect)


def has_times(container: Any, context: Any) -> bool:
    """Return whether packets have the times of their pictures.

    Raw streams hold no times, AVI files only the order of decoding. Those that FFmpeg makes up may be the times of
    other pictures, as in UCF-101, whose packets hold two pictures.
    """
    if container.format.flags & pyav().format.Flags.no_timestamps.value:
        return False
    return container.format.name != "avi" or not (context.has_b_frames or context.name in ("h264", "hevc"))


def reason_of(error: BaseException) -> str:
    """Return what FFmpeg said, without the file's name and the error's number."""
    text: str = getattr(error, "strerror", None) or one_line(error)
    return text
