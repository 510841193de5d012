"""Small strips of pictures of an evaluation's videos, a few frames above their flow, from the cache that it read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from flow_cache import CacheFileError, CacheReader, dequantize, flow_colours
from twostream.data.annotations import VideoRecord
from twostream.data.loading import VideoData
from twostream.data.sampling import runs_inside
from twostream.evaluation.results import Evaluation

STRIP_BYTES = 2_000_000
"""The most bytes that all strips of a report take together."""

STRIP_PLACES = 4
_HEIGHT, _WIDEST = 54, 108  # pixels of one picture of a strip
_GAP = 2
_QUALITY = 55  # of WebP
_FULL_COLOUR = 0.99  # quantile of a strip's displacements that is drawn in full colour

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Strips:
    """The strips of an evaluation's videos.

    Attributes:
        pictures: WebP bytes by the video's place in the evaluation.
        unreadable: why there is no strip, by the place of each video whose cache file cannot be read.
    """

    pictures: dict[int, bytes] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)


def find_strips(videos: VideoData, evaluation: Evaluation, most_bytes: int = STRIP_BYTES) -> Strips:
    """Draw strips of as many videos of an evaluation as fit into a number of bytes, those most worth a look first.

    These are the errors, the most confident first, then the right answers, the least confident first.

    Args:
        videos: where the videos lie.
        evaluation: what was said of them.
        most_bytes: of all strips together.
    """
    split = videos.split
    records = {record.path: record for record in (*split.train, *split.validation, *split.test)}
    strips = Strips()
    left = most_bytes
    for index in _by_interest(evaluation):
        try:
            picture = draw_strip(videos, records[evaluation.videos[index]])
        except CacheFileError as error:
            strips.unreadable[index] = str(error)
            continue
        left -= len(picture)
        if left < 0:
            break
        strips.pictures[index] = picture
    return strips


def draw_strip(videos: VideoData, record: VideoRecord) -> bytes:
    """Draw frames of a video, evenly from its start to its end, above the flow at each; without RGB, flow alone.

    Raises:
        CacheFileError: its cache file is missing or damaged.
    """
    entry = videos.entries[record.path]
    numbers = [number for run in runs_inside(entry.runs, record.spans, entry.step) for number in run]
    places = (np.arange(STRIP_PLACES) + 0.5) / STRIP_PLACES * len(numbers)
    chosen = [numbers[place] for place in np.unique(places.astype(int)).tolist()]
    with CacheReader(videos.cache / entry.cache_file) as reader:
        fields = reader.flow(chosen)
        frames = reader.rgb(chosen) if reader.has_rgb else None
    height, width = fields.shape[2:]
    size = min(_WIDEST, max(1, round(width * _HEIGHT / height))), _HEIGHT
    flow = dequantize(np.stack([[_resized(part, size) for part in parts] for parts in fields]), videos.bound)
    fastest = max(float(np.quantile(np.hypot(flow[:, 0], flow[:, 1]), _FULL_COLOUR)), 1e-6)
    rows = [] if frames is None else [_stacked([_resized(frame, size) for frame in frames], axis=1)]
    rows.append(_stacked([flow_colours(part, fastest) for part in flow], axis=1))
    return _webp(_stacked(rows, axis=0))


def _by_interest(evaluation: Evaluation) -> list[int]:
    decided = evaluation.probabilities[evaluation.decision]
    confidence = decided.max(axis=1)
    wrong = decided.argmax(axis=1) != evaluation.labels
    order: list[int] = np.lexsort((np.where(wrong, -confidence, confidence), ~wrong)).tolist()
    return order


def _resized(picture: Picture, size: tuple[int, int]) -> Picture:
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _stacked(pictures: Sequence[Picture], axis: int) -> Picture:
    """Put pictures beside or below each other, with a black line between."""
    shape = list(pictures[0].shape)
    shape[axis] = _GAP
    line = np.zeros(shape, np.uint8)
    parts = [part for picture in pictures for part in (line, picture)]
    return np.concatenate(parts[1:], axis=axis)


def _webp(picture: Picture) -> bytes:
    done, data = cv2.imencode(
        ".webp", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, _QUALITY]
    )
    assert done, "OpenCV writes WebP"
    return data.tobytes()
