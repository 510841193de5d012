"""Decoded frames as images: levels by one conversion, pixels square, upright.

**Colour.** One conversion by libswscale makes the levels (bicubic for the chroma planes). The matrix and the range are
those that the stream states. Where it states none, libswscale takes BT.601 and the range of the pixel format (16 to
235, or 0 to 255 for JPEG formats), and the tests hold it to that. OpenCV's reader does the same.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_cache.runtime import pyav
from flow_cache.video.aspect import SQUARE, squared

_BICUBIC, _POINT = 4, 16  # SWS_BICUBIC, SWS_POINT
_BYTE = np.dtype(np.uint8)


class Conversion:
    """Makes images of the frames of one video.

    Args:
        aspect: width of a pixel to its height.
        threads: of libswscale; 0 = it decides.
    """

    def __init__(self, aspect: Fraction, threads: int) -> None:
        self._convert = functools.partial(
            _scaler().reformatter.reformat, format="bgr24", interpolation=_BICUBIC, threads=threads
        )
        self._aspect = None if aspect == SQUARE else aspect
        self._turn: _Turn | None = None  # not known before the first frame

    def image(self, frame: Any) -> NDArray[np.uint8]:
        """Convert a frame to (H, W, 3) uint8 BGR, upright; a view of it where nothing has to be turned.

        Raises:
            FFmpegError, ValueError: it cannot be converted.
        """
        if self._turn is None:
            self._turn = _Turn.of(frame)
        # Nothing is said about colour here: libswscale takes what the frame states, as the page's head says.
        picture = self._convert(frame)
        plane = picture.planes[0]
        image: NDArray[np.uint8] = np.ndarray(
            (picture.height, picture.width, 3), _BYTE, plane, 0, (plane.line_size, 3, 1)
        )
        if self._aspect is not None:
            image = squared(image, self._aspect)
        return image if self._turn is _UPRIGHT else self._turn.upright(image)


class _Scaler(threading.local):
    """libswscale, for each thread: its tables take as long as 40 small frames, and suit all files of a kind.

    Attributes:
        reformatter: makes the pictures.
        thumbnails: makes tiny ones, whose side data is that of the frame.
    """

    def __init__(self) -> None:
        self.reformatter = pyav().video.reformatter.VideoReformatter()
        self.thumbnails = pyav().video.reformatter.VideoReformatter()


@functools.cache
def _scaler() -> _Scaler:
    """Return the scalers of this process; PyAV is imported with it."""
    # glibc keeps as much freed memory as twice the largest block that was freed once. Without this it gives each frame
    # back to the system and asks for it again, which takes as long as the conversion.
    np.empty(1 << 24, np.uint8)
    return _Scaler()


@dataclass(frozen=True)
class _Turn:
    """How stored pictures are turned to stand upright: transposed first, then mirrored."""

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    @classmethod
    def of(cls, frame: Any) -> _Turn:
        """Read it from the display matrix of a frame, x' = a x + c y and y' = b x + d y (nearest quarter turn)."""
        # PyAV's frames and their side data refer to each other. The frame itself would stay in memory, one of each
        # file, until Python looks for circles; a thumbnail may.
        thumbnail = _scaler().thumbnails.reformat(
            frame, width=2, height=2, format="gray", interpolation=_POINT, threads=1
        )
        for data in thumbnail.side_data:
            if data.type.name == "DISPLAYMATRIX":
                a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
                if abs(a) + abs(d) >= abs(b) + abs(c):
                    return cls(False, a < 0, d < 0)
                return cls(True, c < 0, b < 0)
        return _UPRIGHT

    def upright(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn an image."""
        if self.transposed:
            image = image.transpose(1, 0, 2)
        if self.mirrored_x:
            image = image[:, ::-1]
        if self.mirrored_y:
            image = image[::-1]
        return np.ascontiguousarray(image)


_UPRIGHT = _Turn()
