"""Write pictures as a video that every browser plays."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Colorspace

from twostream.files import replacing

_BT709 = 1  # number of the standard in the stream's header, see ITU-T H.273
_LIMITED = 1  # levels from 16 to 235


class VideoWriter:
    """Write pictures, one after the other, into an MP4 (H.264).

    Args:
        path: the file to write, whatever its suffix.

    Attributes:
        fps: frames per second; may be changed until the first picture.
    """

    def __init__(self, path: Path, fps: float = 25.0) -> None:
        self.fps = fps
        index_first = {"movflags": "faststart"}  # a browser shows the beginning before it has the end
        self._container: Any = av.open(str(path), "w", format="mp4", options=index_first)
        self._stream: Any = None

    def write(self, picture: npt.NDArray[np.uint8]) -> None:
        """Add a picture, (H, W, 3) uint8 RGB; all are of one size, H and W even."""
        if self._stream is None:
            self._begin(*picture.shape[:2])
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        converted = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
        self._container.mux(self._stream.encode(converted))

    def _begin(self, height: int, width: int) -> None:
        self._stream = self._container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(1001))
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "20", "preset": "veryfast"}
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete the file."""
        if self._stream is not None and kind is None:
            self._container.mux(self._stream.encode())
        self._container.close()


def write_video(pictures: Iterator[npt.NDArray[np.uint8]], fps: float, path: Path) -> None:
    """Write an MP4 (H.264) whole or not at all.

    Args:
        pictures: (H, W, 3) uint8 RGB each, all of one size, H and W even; at least one.
        fps: frames per second.
        path: MP4 to write.
    """
    with replacing(path) as partial, VideoWriter(partial, fps) as video:
        for picture in pictures:
            video.write(picture)
