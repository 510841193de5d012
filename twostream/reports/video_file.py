"""Write pictures as a video that every browser plays."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Colorspace

from twostream.files import replacing

_BT709 = 1  # number of the standard in the stream's header, see ITU-T H.273
_LIMITED = 1  # levels from 16 to 235


def write_video(pictures: Iterator[npt.NDArray[np.uint8]], fps: float, path: Path) -> None:
    """Write an MP4 (H.264) whole or not at all.

    Args:
        pictures: (H, W, 3) uint8 RGB each, all of one size, H and W even; at least one.
        fps: frames per second.
        path: MP4 to write.
    """
    first = next(pictures)
    index_first = {"movflags": "faststart"}  # a browser shows the beginning before it has the end
    with (
        replacing(path) as partial,
        av.open(str(partial), "w", format="mp4", options=index_first) as container,
    ):
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast"}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        for picture in itertools.chain([first], pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            converted = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
            container.mux(stream.encode(converted))
        container.mux(stream.encode())
