"""The same video under two names, by a hash of its bytes, and recordings that look alike, by hashes of frames.

A frame's hash is that of its lowest spatial frequencies (`cv2.img_hash.pHash`, 64 bits): it survives another encoding,
another size and small changes of brightness, but no crop and no mirror.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

FRAMES = 5  # of each video, evenly spread
# On JHMDB-21's 928 clips of 336 films: 418 of the 1,937 pairs of clips of one film, and 1 of 428,191 others, which are
# two films of one maker.
_MOST_BITS = 8
_LEAST_FRAMES = 2
_FLAT = 4.0  # grey levels: a frame that varies less, such as a black one, looks like any other of its kind
_BLOCK = 32  # videos that are compared at once with all others


@dataclass(frozen=True)
class Alike:
    """Say that two sources look alike: how many pairs of their videos do, and one of these."""

    sources: tuple[str, str]
    videos: tuple[str, str]
    pairs: int


def group_identical(contents: Mapping[str, str]) -> list[tuple[str, ...]]:
    """List the videos that are the same file under several names.

    Args:
        contents: hash of each video's bytes, by path; an empty one is not known.
    """
    named: dict[str, list[str]] = defaultdict(list)
    for path, digest in contents.items():
        if digest:
            named[digest].append(path)
    return sorted(tuple(sorted(paths)) for paths in named.values() if len(paths) > 1)


def spread(frames: int) -> list[int]:
    """Return the frames of a video that are compared, evenly spread; fewer for a shorter video."""
    count = min(frames, FRAMES)
    return [frames * (2 * place + 1) // (2 * count) for place in range(count)]


def hash_frame(frame: NDArray[np.uint8]) -> int | None:
    """Return the perceptual hash of a frame, (H, W) grey or (H, W, 3) RGB uint8; None for one that shows nothing."""
    grey = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if float(grey.std()) < _FLAT:
        return None
    return int(cv2.img_hash.pHash(grey)[0].view(np.uint64)[0])


def find_alike(hashes: Mapping[str, Iterable[int]], groups: Mapping[str, str]) -> list[Alike]:
    """Find different sources that look alike, those with most pairs of such videos first.

    Two videos look alike if two frames of each have nearly the hash of some frame of the other: a title or a black
    frame alone is not enough.

    Args:
        hashes: hashes of frames of each video, by path.
        groups: the source of each video.
    """
    paths = sorted(path for path, values in hashes.items() if len({*values}) >= _LEAST_FRAMES)
    if not paths:
        return []
    # A video of fewer frames repeats none: it is filled up with a row that is compared with nothing.
    table = np.zeros((len(paths), FRAMES), np.uint64)
    known = np.zeros((len(paths), FRAMES), bool)
    for row, path in enumerate(paths):
        values = list(hashes[path])[:FRAMES]
        table[row, : len(values)], known[row, : len(values)] = values, True
    _, numbers = np.unique([groups[path] for path in paths], return_inverse=True)
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for first in range(0, len(paths), _BLOCK):
        own, others = slice(first, first + _BLOCK), slice(first, None)
        bits = np.bitwise_count(table[own, :, None, None] ^ table[None, None, others])
        near = (bits <= _MOST_BITS) & known[own, :, None, None] & known[None, None, others]
        both = (near.any(axis=3).sum(axis=1) >= _LEAST_FRAMES) & (
            near.any(axis=1).sum(axis=2) >= _LEAST_FRAMES
        )
        both &= numbers[own, None] != numbers[None, others]
        for a, b in zip(*np.nonzero(both), strict=True):
            if a < b:
                one, other = sorted((paths[first + a], paths[first + b]), key=lambda path: groups[path])
                pairs[groups[one], groups[other]].append((one, other))
    found = [Alike(sources, min(videos), len(videos)) for sources, videos in pairs.items()]
    return sorted(found, key=lambda alike: (-alike.pairs, alike.sources))
