"""Frames: iterate the grey (and RGB) frames of a video file or image folder, in order.

A video has as many frames as can be decoded, whatever its header announces. Damage (an unreadable packet or image, a
file that was cut, a change of frame size) raises VideoError with the index of the first frame that is missing, after
the frames before it. Given a `Damage`, reading goes on instead, and `Damage` says where frames are missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flow_cache.errors import ArgumentError, VideoError, check_whole_number
from flow_cache.runtime import opencv
from flow_cache.video.aspect import resized
from flow_cache.video.container import Header, read_header
from flow_cache.video.damage import Damage
from flow_cache.video.decoder import decode_file
from flow_cache.video.find import image_files
from flow_cache.video.images import decode_folder
from flow_cache.video.salvage import decode_good_frames

MAX_SIDE = 32767  # u over v is stored as one image of height 2 H, and JPEG images end at 65,535


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame.

    Attributes:
        index: position among the frames that are read, from 0: in the video, unless damaged frames are left out.
        grey: (H, W) uint8 grey levels.
        rgb: (H, W, 3) uint8, or None if it was not asked for; of another size where one was given.

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


def rgb_output_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return the (W, H) of the RGB frame that is kept of a frame of `width` x `height` pixels.

    Args:
        width: of the frame.
        height: of the frame.
        short_side: length of the shorter side, as in `output_size`; a frame whose shorter side is smaller is not
            resized, since enlarging would store pixels that the video does not have.
    """
    return output_size(width, height, short_side=min(short_side, width, height))


def check_resize(short_side: int | None, size: tuple[int, int] | None) -> None:
    """Raise ArgumentError unless at most one of the two is given, with sides that can be stored."""
    if short_side is not None and size is not None:
        raise ArgumentError(f"give short_side or size, not both (got {short_side} and {size})")
    if size is not None and (not isinstance(size, tuple) or len(size) != 2):
        raise ArgumentError(f"size must be a pair (width, height), got {size!r}")
    for side in (() if short_side is None else (short_side,)) + (() if size is None else size):
        check_whole_number("each of the frame sides", side, 1, MAX_SIDE)


@dataclass(frozen=True)
class Framing:
    """How pictures become frames: their sizes, and whether colours are kept; as `read_frames` takes it.

    Attributes:
        short_side: length of the shorter side after resizing, in pixels.
        size: (width, height) after resizing. None for both: frames are not resized.
        rgb: keep colours too.
        rgb_short_side: length of the shorter side of the colour frames; None: the size of the grey frames.

    Raises:
        ArgumentError: an unusable size.

    Example:
        >>> import numpy as np
        >>> from flow_cache import Framing
        >>> frame = Framing(short_side=24, rgb=True).frame(np.zeros((48, 64, 3), np.uint8), index=7)
        >>> frame.index, frame.grey.shape, frame.rgb.shape
        (7, (24, 32), (24, 32, 3))
    """

    short_side: int | None = None
    size: tuple[int, int] | None = None
    rgb: bool = False
    rgb_short_side: int | None = None

    def __post_init__(self) -> None:
        check_resize(self.short_side, self.size)
        check_resize(self.rgb_short_side, None)

    def sizes(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """Return the (W, H) of grey and of colour, None for no colour, of a picture of `width` x `height` pixels."""
        grey = output_size(width, height, short_side=self.short_side, size=self.size)
        if not self.rgb:
            return grey, None
        own = self.rgb_short_side
        return grey, grey if own is None else rgb_output_size(width, height, own)

    def frame(self, image: NDArray[np.uint8], index: int) -> Frame:
        """Make a frame of a picture, (H, W, 3) uint8 BGR, the order of OpenCV's functions, upright."""
        cv2 = opencv()
        target, rgb_target = self.sizes(image.shape[1], image.shape[0])
        grey = resized(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), target)
        colour = cv2.cvtColor(resized(image, rgb_target), cv2.COLOR_BGR2RGB) if rgb_target else None
        return Frame(index, grey, colour)


def read_frames(
    path: str | os.PathLike[str],
    *,
    short_side: int | None = None,
    size: tuple[int, int] | None = None,
    rgb: bool = False,
    rgb_short_side: int | None = None,
    threads: int | None = None,
    damage: Damage | None = None,
) -> Iterator[Frame]:
    """Iterate the frames of a video file or image folder.

    Frames have square pixels: where a file states others, their width is resized first. A frame that shrinks is resized
    by area interpolation, one that grows by linear interpolation. Grey is converted before that, so it does not depend
    on `rgb` and `rgb_short_side`.

    Args:
        path: local video file, or folder of images.
        short_side: length of the shorter side after resizing, in pixels; the aspect ratio is kept.
        size: (width, height) after resizing. None for both: frames are not resized.
        rgb: decode colours too.
        rgb_short_side: length of the shorter side of the colour frames, whatever size grey has; the aspect ratio of the
            video is kept, and a smaller video keeps its own size. None: the size of the grey frames.
        threads: threads of the decoder; None = FFmpeg decides.
        damage: learns which frames are missing. Frames that are damaged or predicted from such, images that cannot be
            read, and frames of another size than the first are then left out; a file is decoded twice. None: damage is
            an error.

    Returns:
        Iterator of frames. A file is opened when the first frame is asked for.

    Raises:
        ArgumentError: an unusable size, at once.
        VideoError: while iterating: the file is missing, has no frame that can be decoded, or, without `damage`, is
            damaged.

    Example:
        >>> import pathlib, tempfile
        >>> from flow_cache import read_frames
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("0.pgm", "1.pgm"):
        ...         _ = pathlib.Path(folder, name).write_bytes(b"P5 3 2 255 " + bytes(range(6)))
        ...     [(frame.index, frame.grey.tolist()) for frame in read_frames(folder)]
        [(0, [[0, 1, 2], [3, 4, 5]]), (1, [[0, 1, 2], [3, 4, 5]])]
    """
    return _frames(Path(path), Framing(short_side, size, rgb, rgb_short_side), threads, damage)


def probe_header(path: Path) -> Header:
    """Return what a local video file says about itself, without decoding it; of an image folder, next to nothing.

    Raises:
        VideoError: the file cannot be opened.
    """
    return Header(0.0, 0, "") if path.is_dir() else read_header(path)


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
    return probe_header(Path(path)).fps


def probe_frames(path: str | os.PathLike[str]) -> int:
    """Return the number of frames that a video file states, which is often wrong; of an image folder, its images.

    Raises:
        VideoError: the file cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        return len(image_files(path))
    return read_header(path).frames


def _frames(path: Path, framing: Framing, threads: int | None, damage: Damage | None) -> Iterator[Frame]:
    """Iterate the frames of `read_frames`."""
    first: tuple[int, int] | None = None
    index = 0
    for image in _images(path, threads, damage):
        height, width = image.shape[:2]
        if first is None:
            first = (width, height)
        elif (width, height) != first:
            reason = f"frame size changes from {first[0]}x{first[1]} to {width}x{height}"
            error = VideoError(path, reason, index)
            if damage is None:
                raise error
            damage.lost(error.reason_and_frame)
            continue
        target, rgb_target = framing.sizes(width, height)
        for side in (target, rgb_target or target):
            if max(side) > MAX_SIDE:
                raise VideoError(
                    path, f"frames of {side[0]}x{side[1]} are too large (limit {MAX_SIDE})", index
                )
        frame = framing.frame(image, index)
        if damage is not None:
            damage.kept()
        yield frame
        index += 1
    if damage is not None:
        damage.end()


def _images(path: Path, threads: int | None, damage: Damage | None) -> Iterator[NDArray[np.uint8]]:
    """Iterate the pictures of a file or folder, (H, W, 3) uint8 BGR; all, or given a `Damage`, the good ones."""
    if path.is_dir():
        return decode_folder(path, damage)
    return decode_file(path, threads) if damage is None else decode_good_frames(path, threads, damage)
