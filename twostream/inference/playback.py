"""Go through a video frame by frame with its flow as colours, a few frames at a time, however long it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flow_cache import CacheReader, dequantize, flow_colours
from twostream.inference.cached_video import CachedVideo

_CHUNK = 16
_SAMPLED = 32  # fields from which the longest displacement is estimated
_FULL_COLOUR = 0.99  # quantile of the displacements that is drawn in full colour


@dataclass(frozen=True)
class PlayedFrame:
    """One frame of a video.

    Attributes:
        index: its number, from 0.
        rgb: (H, W, 3) uint8 RGB.
        flow: (h, w, 3) uint8 RGB, the flow from it as colours; that of the frame before where none starts here.
    """

    index: int
    rgb: npt.NDArray[np.uint8]
    flow: npt.NDArray[np.uint8]


def play(cached: CachedVideo) -> Iterator[PlayedFrame]:
    """Iterate the frames of a video of `cached_video`."""
    with CacheReader(cached.cache / cached.entry.cache_file) as reader:
        fields = np.asarray(reader.field_numbers)
        sample = fields[np.linspace(0, len(fields) - 1, min(_SAMPLED, len(fields))).astype(int)]
        flow = dequantize(reader.flow(sample), reader.meta.bound)
        fastest = max(float(np.quantile(np.hypot(flow[:, 0], flow[:, 1]), _FULL_COLOUR)), 1e-6)
        colours = np.full((reader.height, reader.width, 3), 255, np.uint8)
        known = set(fields.tolist())
        for start in range(0, reader.num_frames, _CHUNK):
            frames = range(start, min(start + _CHUNK, reader.num_frames))
            started = [index for index in frames if index in known]
            pictures = {}
            if started:
                coloured = flow_colours(dequantize(reader.flow(started), reader.meta.bound), fastest)
                pictures = dict(zip(started, coloured, strict=True))
            for index, rgb in zip(frames, reader.rgb(list(frames)), strict=True):
                colours = pictures.get(index, colours)
                yield PlayedFrame(index, rgb, colours)
