"""Frames: iterate the grey (and RGB) frames of a video file or image folder, in order.

The frame count in a header is never used: a video has as many frames as can be decoded. FFmpeg (through OpenCV) does
not say whether a stream ended because it was complete or because the file was cut, so a truncated file reads as a
shorter video. Damage that the decoder does report (an unreadable image in a folder, a change of frame size, a decoder
exception) raises VideoError with the frame's index.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import ArgumentError, VideoError, check_whole_number, one_line
from flow_cache.runtime import opencv
from flow_cache.video.find import image_files

MAX_SIDE = 32767  # u over v is stored as one image of height 2 H, and JPEG images end at 65,535


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame.

    Attributes:
        index: position in the video, from 0.
        grey: (H, W) uint8 grey levels.
        rgb: (H, W, 3) uint8, or None if it was not asked for.

    Example:
        >>> import numpy as np
        >>> from flow_cache import Frame
        >>> frame = Frame(0, np.zeros((48, 64), np.uint8))
        >>> frame.grey.shape, frame.rgb is None
        ((48, 64), True)
    """

    index: int
    grey: NDArray[np.uint8]
    rgb: NDArray[np.uint8] | None = None


def output_size(
    width: int, height: int, *, short_side: int | None = None, size: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Return the (W, H) that a frame of `width` x `height` pixels is resized to.

    Args:
        width: of the frame.
        height: of the frame.
        short_side: length of the shorter side after resizing. The aspect ratio is kept: the longer side is rounded to
            the nearest even number. A frame whose shorter side has this length already is not resized.
        size: the (W, H) itself. None for both: the frame is not resized.
    """
    if size is not None:
        return size
    if short_side is None or min(width, height) == short_side:
        return width, height
    if width == height:
        return short_side, short_side
    # Integer arithmetic, ties upwards: round(long / short * short_side / 2) * 2.
    long_side = 2 * ((max(width, height) * short_side + min(width, height)) // (2 * min(width, height)))
    long_side = max(long_side, short_side)
    return (long_side, short_side) if width >= height else (short_side, long_side)


def check_resize(short_side: int | None, size: tuple[int, int] | None) -> None:
    """Raise ArgumentError unless at most one of the two is given, with sides that can be stored."""
    if short_side is not None and size is not None:
        raise ArgumentError(f"give short_side or size, not both (got {short_side} and {size})")
    if size is not None and (not isinstance(size, tuple) or len(size) != 2):
        raise ArgumentError(f"size must be a pair (width, height), got {size!r}")
    for side in (() if short_side is None else (short_side,)) + (() if size is None else size):
        check_whole_number("each of the frame sides", side, 1, MAX_SIDE)


def read_frames(
    path: str | os.PathLike[str],
    *,
    short_side: int | None = None,
    size: tuple[int, int] | None = None,
    rgb: bool = False,
    threads: int | None = None,
) -> Iterator[Frame]:
    """Iterate the frames of a video file or image folder.

    A frame that shrinks is resized by area interpolation, one that grows by linear interpolation. Grey is converted
    before it is resized, so it does not depend on `rgb`.

    Args:
        path: local video file, or folder of images.
        short_side: length of the shorter side after resizing, in pixels; the aspect ratio is kept.
        size: (width, height) after resizing. None for both: frames are not resized.
        rgb: decode colours too.
        threads: threads of the decoder; None = FFmpeg decides.

    Returns:
        Iterator of frames. A file is opened when the first frame is asked for.

    Raises:
        ArgumentError: an unusable size, at once.
        VideoError: while iterating: the file is missing, has no frame that can be decoded, or is damaged.

    Example:
        >>> import pathlib, tempfile
        >>> from flow_cache import read_frames
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("0.pgm", "1.pgm"):
        ...         _ = pathlib.Path(folder, name).write_bytes(b"P5 3 2 255 " + bytes(range(6)))
        ...     [(frame.index, frame.grey.tolist()) for frame in read_frames(folder)]
        [(0, [[0, 1, 2], [3, 4, 5]]), (1, [[0, 1, 2], [3, 4, 5]])]
    """
    check_resize(short_side, size)
    return _frames(Path(path), short_side, size, rgb, threads)


def probe_fps(path: str | os.PathLike[str]) -> float:
    """Return the frame rate that a video file states, without decoding it.

    Args:
        path: local video file, or folder of images.

    Returns:
        Frames per second; 0.0 if unknown, as for image folders.

    Raises:
        VideoError: the file cannot be opened.

    Example:
        >>> import tempfile
        >>> from flow_cache import probe_fps
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     probe_fps(folder)
        0.0
    """
    path = Path(path)
    if path.is_dir():
        return 0.0
    fps = _property(path, opencv().CAP_PROP_FPS)
    return round(fps, 6) if 0.0 < fps < 1e5 else 0.0


def probe_frames(path: str | os.PathLike[str]) -> int:
    """Return the number of frames that a video file states, which is often wrong; of an image folder, its images.

    Raises:
        VideoError: the file cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        return len(image_files(path))
    return int(max(_property(path, opencv().CAP_PROP_FRAME_COUNT), 0))


def _property(path: Path, name: int) -> float:
    """Return one of OpenCV's properties of a video file."""
    capture = _open_capture(path, None)
    try:
        return float(capture.get(name))
    finally:
        capture.release()


def _frames(
    path: Path, short_side: int | None, size: tuple[int, int] | None, rgb: bool, threads: int | None
) -> Iterator[Frame]:
    """Iterate the frames of `read_frames`, whose arguments have been checked."""
    cv2 = opencv()
    images = _folder_images(path) if path.is_dir() else _file_images(path, threads)
    first: tuple[int, int] | None = None
    for index, image in enumerate(images):
        height, width = image.shape[:2]
        if first is None:
            first = (width, height)
        elif (width, height) != first:
            reason = f"frame size changes from {first[0]}x{first[1]} to {width}x{height}"
            raise VideoError(path, reason, index)
        target = output_size(width, height, short_side=short_side, size=size)
        if max(target) > MAX_SIDE:
            raise VideoError(
                path, f"frames of {target[0]}x{target[1]} are too large (limit {MAX_SIDE})", index
            )
        grey = _resized(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), target)
        colour = cv2.cvtColor(_resized(image, target), cv2.COLOR_BGR2RGB) if rgb else None
        yield Frame(index, grey, colour)


def _resized(image: NDArray[np.uint8], target: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image to (W, H)."""
    height, width = image.shape[:2]
    if (width, height) == target:
        return image
    cv2 = opencv()
    shrinks = target[0] <= width and target[1] <= height
    resized: NDArray[np.uint8] = cv2.resize(
        image, target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return resized


def _file_images(path: Path, threads: int | None) -> Iterator[NDArray[np.uint8]]:
    """Decode a video file: (H, W, 3) uint8 BGR."""
    cv2 = opencv()
    capture = _open_capture(path, threads)
    try:
        announced = int(max(capture.get(cv2.CAP_PROP_FRAME_COUNT), 0))
        codec = _fourcc(int(capture.get(cv2.CAP_PROP_FOURCC)))
        index = 0
        while True:
            try:
                more, image = capture.read()
            except cv2.error as error:
                raise VideoError(path, f"the decoder failed ({one_line(error)})", index) from error
            if not more:
                break
            yield image
            index += 1
    finally:
        capture.release()
    if index == 0:
        raise VideoError(
            path,
            f"no frame could be decoded (codec {codec}, header announces {announced} frames); "
            "re-encode it with a codec that this OpenCV can decode, such as H.264",
        )


def _open_capture(path: Path, threads: int | None) -> Any:
    """Open a video file with OpenCV, or raise VideoError."""
    cv2 = opencv()
    if not path.exists():
        raise VideoError(path, "no such file")
    if not path.is_file():
        raise VideoError(path, "not a regular file")
    if path.stat().st_size == 0:
        raise VideoError(path, "the file is empty")
    # Only FFmpeg: other backends of OpenCV read a name like `clip_001.avi` as a sequence of images.
    has_ffmpeg = cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends()
    backend = cv2.CAP_FFMPEG if has_ffmpeg else cv2.CAP_ANY
    options = [] if threads is None else [cv2.CAP_PROP_N_THREADS, threads]
    try:
        # An absolute path, since FFmpeg takes a relative name with a colon for a protocol.
        capture = cv2.VideoCapture(str(path.absolute()), backend, options)
    except cv2.error as error:
        raise VideoError(path, f"cannot be opened as a video ({one_line(error)})") from error
    if not capture.isOpened():
        capture.release()
        raise VideoError(path, "cannot be opened as a video (damaged, or not a video file)")
    return capture


def _folder_images(folder: Path) -> Iterator[NDArray[np.uint8]]:
    """Decode an image folder: (H, W, 3) uint8 BGR."""
    cv2 = opencv()
    files = image_files(folder)
    if not files:
        raise VideoError(folder, "the folder holds no images")
    for index, file in enumerate(files):
        try:
            encoded = np.fromfile(file, np.uint8)
            image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
        except (OSError, cv2.error) as error:
            raise VideoError(
                folder, f"image {file.name} cannot be read ({one_line(error)})", index
            ) from error
        if image is None:
            raise VideoError(folder, f"image {file.name} cannot be decoded", index)
        yield image


def _fourcc(code: int) -> str:
    """Return a codec's four letters."""
    text = "".join(chr((code >> shift) & 0xFF) for shift in (0, 8, 16, 24))
    return text if text.isprintable() and text.strip() else "unknown"
