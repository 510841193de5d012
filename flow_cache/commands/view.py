"""Pictures and videos of a cache file's flow in colour, beside its frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flow_cache.cache.meta import CacheMeta
from flow_cache.cache.reader import CacheReader
from flow_cache.commands.colours import flow_colours, wheel_picture
from flow_cache.errors import ArgumentError, CacheWriteError
from flow_cache.pipeline.inputs import spread_over
from flow_cache.quantization import dequantize
from flow_cache.runtime import opencv
from flow_cache.storage.atomic import probe_writable, replacing_file, write_atomically
from flow_cache.storage.paths import as_path
from flow_cache.video.aspect import resized
from flow_cache.video.damage import Damage
from flow_cache.video.frames import Frame, read_frames
from flow_cache.video.source import local_copy

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
VIDEO_SUFFIXES = (".mp4", ".avi")
_SAMPLED_FIELDS = 32  # fields from which the longest motion is estimated
_SHARE_IN_COLOUR = 99.5  # percent of the motion vectors that are not longer
_CHUNK = 16
_HEAD = 24  # pixels
_GAP = 4  # pixels

Images = NDArray[np.uint8]


def view(
    cache_file: str | Path,
    out: str | Path,
    *,
    fields: int = 12,
    max_motion: float | None = None,
    video: str | Path | None = None,
) -> float:
    """Draw a cache file's flow beside its frames: a contact sheet (.png, .jpg) or a video (.mp4, .avi).

    Args:
        cache_file: the cache file.
        out: the picture or video; the suffix chooses which.
        fields: how many fields a contact sheet shows, evenly spread; a video shows all.
        max_motion: the length in pixels that has the full colour; None: the length that 99.5 % of the vectors do not
            exceed.
        video: the video to take frames from, if the cache holds none.

    Returns:
        The length in pixels that has the full colour.

    Raises:
        ArgumentError: another suffix, or a video that does not fit the flow.
        CacheFileError: the cache file is damaged.
        CacheWriteError: the picture cannot be written.

    Example:
        >>> import numpy as np
        >>> from flow_cache import CacheMeta, CacheWriter, Source, view
        >>> with CacheWriter("a.flow.zip", CacheMeta(Source("a.avi"), "tvl1")) as writer:
        ...     writer.add_flow(np.full((3, 2, 32, 32), 128, np.uint8))
        >>> view("a.flow.zip", "a.png", fields=2, max_motion=8.0)
        8.0
    """
    out = Path(out)
    suffix = out.suffix.lower()
    if suffix not in (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES):
        raise ArgumentError(
            f"{out}: the name must end in one of {', '.join((*PICTURE_SUFFIXES, *VIDEO_SUFFIXES))}"
        )
    if fields < 1:
        raise ArgumentError(f"fields must be at least 1, got {fields}")
    with CacheReader(cache_file) as reader:
        longest = _longest_motion(reader) if max_motion is None else max_motion
        head = f"{reader.meta.source.path}: {reader.meta.method}, {reader.num_fields} fields"
        if suffix in VIDEO_SUFFIXES:
            _write_video(out, reader, _tiles(reader, reader.field_numbers, longest, video), head, longest)
        else:
            chosen = spread_over(reader.field_numbers, fields)
            sheet = _sheet(list(_tiles(reader, chosen, longest, video)), head, longest)
            write_atomically(out, _encoded(sheet, suffix))
    return longest


def _longest_motion(reader: CacheReader) -> float:
    """Return the length in pixels that most vectors of a sample do not exceed, at least 1."""
    sample = reader.flow(spread_over(reader.field_numbers, _SAMPLED_FIELDS))
    flow = dequantize(sample, reader.meta.bound)
    return max(float(np.percentile(np.hypot(flow[:, 0], flow[:, 1]), _SHARE_IN_COLOUR)), 1.0)


def _tiles(
    reader: CacheReader, indices: Sequence[int], max_motion: float, video: str | Path | None
) -> Iterator[Images]:
    """Iterate pictures of a frame with its flow beside it: (H, W or 2 W, 3) uint8 RGB."""
    frames = _frames(reader, indices, video)
    for start in range(0, len(indices), _CHUNK):
        chunk = indices[start : start + _CHUNK]
        coloured = flow_colours(dequantize(reader.flow(chunk), reader.meta.bound), max_motion)
        for index, colours in zip(chunk, coloured, strict=True):
            tile = colours if frames is None else np.concatenate([next(frames), colours], axis=1)
            opencv().putText(tile, str(index), (3, 12), 0, 0.4, (0, 0, 0), 1, opencv().LINE_AA)
            yield tile


def _frames(reader: CacheReader, indices: Sequence[int], video: str | Path | None) -> Iterator[Images] | None:
    """Iterate the frames with these indices in the size of the flow, (H, W, 3) uint8 RGB; None if there are none."""
    meta = reader.meta
    if video is None:
        size = (meta.width, meta.height)
        return (resized(reader.rgb([index])[0], size) for index in indices) if reader.has_rgb else None
    wanted = set(indices)
    stream = _video_frames(video, meta)

    def chosen() -> Iterator[Images]:
        found = 0
        for frame in islice(stream, max(wanted) + 1):
            assert frame.rgb is not None
            if frame.rgb.shape[:2] != (meta.height, meta.width):
                size = f"{frame.rgb.shape[1]}x{frame.rgb.shape[0]}"
                raise ArgumentError(
                    f"{video}: its frames are {size}, the flow is {meta.width}x{meta.height}; is it the right video?"
                )
            if frame.index in wanted:
                found += 1
                yield frame.rgb
        if found < len(wanted):
            raise ArgumentError(f"{video}: ends before frame {max(wanted)}; is it the right video?")

    return chosen()


def _video_frames(video: str | Path, meta: CacheMeta) -> Iterator[Frame]:
    """Decode a video in the size that was asked for when the flow was computed, with the same frames left out."""
    damage = Damage() if meta.part == "gaps" else None
    with local_copy(as_path(video)) as source:
        yield from read_frames(source, short_side=meta.short_side, size=meta.size, rgb=True, damage=damage)


def _head(width: int, text: str, max_motion: float) -> Images:
    """Draw a strip with the colour wheel, the length that has the full colour, and a text: (24, width, 3) uint8 RGB."""
    strip = np.full((_HEAD, width, 3), 255, np.uint8)
    side = min(_HEAD, width)
    strip[:side, :side] = wheel_picture(side)
    legend = f"full colour: {max_motion:.1f} px   {text.encode('ascii', 'replace').decode()}"
    opencv().putText(strip, legend, (_HEAD + 6, 16), 0, 0.4, (0, 0, 0), 1, opencv().LINE_AA)
    return strip


def _sheet(tiles: list[Images], text: str, max_motion: float) -> Images:
    """Arrange pictures in rows below the legend: (H, W, 3) uint8 RGB."""
    height, width = tiles[0].shape[:2]
    columns = max(1, min(len(tiles), round((len(tiles) * height / width * 1.5) ** 0.5)))  # about 3:2
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        y, x = number // columns * (height + _GAP), number % columns * (width + _GAP)
        sheet[y : y + height, x : x + width] = tile
    return np.concatenate([_head(sheet.shape[1], text, max_motion), sheet])


def _encoded(picture: Images, suffix: str) -> bytes:
    """Encode an RGB picture in the format of a suffix."""
    done, data = opencv().imencode(suffix, np.ascontiguousarray(picture[..., ::-1]))
    assert done, "OpenCV writes PNG and JPEG"
    return bytes(data)


def _write_video(
    out: Path, reader: CacheReader, tiles: Iterator[Images], text: str, max_motion: float
) -> None:
    """Write a video of all pictures, with the legend above; raises CacheWriteError."""
    cv2 = opencv()
    probe_writable(out.parent)
    with replacing_file(out) as temporary:
        writer = None
        try:
            for tile in tiles:
                # Codecs need an even width and height.
                picture = np.concatenate([_head(tile.shape[1], text, max_motion), tile])
                picture = np.pad(
                    picture, [(0, side % 2) for side in picture.shape[:2]] + [(0, 0)], mode="edge"
                )
                if writer is None:
                    code = cv2.VideoWriter_fourcc(*("mp4v" if out.suffix.lower() == ".mp4" else "MJPG"))
                    size = (picture.shape[1], picture.shape[0])
                    writer = cv2.VideoWriter(str(temporary), code, reader.meta.fps or 25.0, size)
                    if not writer.isOpened():
                        raise CacheWriteError(out, "this OpenCV cannot write such a video")
                writer.write(np.ascontiguousarray(picture[..., ::-1]))
        finally:
            if writer is not None:
                writer.release()
