"""The same video under two names, by a hash of its bytes, and recordings that look alike, by hashes of frames.

A frame's hash is that of its lowest spatial frequencies (`cv2.img_hash.pHash`, 64 bits): it survives another encoding,
another size and small changes of brightness, but no crop and no mirror.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
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
_PIECES = (
    _MOST_BITS // 2 + 1
)  # of a hash: two that differ in so few bits have a piece that differs in one at most
_BLOCK = 1 << 20  # pairs of frames that are compared at once


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
    _, sources = np.unique([groups[path] for path in paths], return_inverse=True)
    # One row a frame: its hash, its video, its place there.
    rows = [
        (value, number, place)
        for number, path in enumerate(paths)
        for place, value in enumerate(list(hashes[path])[:FRAMES])
    ]
    values = np.array([row[0] for row in rows], np.uint64)
    video, place = np.array([row[1:] for row in rows], np.int64).T
    near = [np.empty(0, np.int64)]
    for one, other in _candidates(values):
        close = np.bitwise_count(values[one] ^ values[other]) <= _MOST_BITS
        close &= sources[video[one]] != sources[video[other]]
        first, second = np.minimum(one[close], other[close]), np.maximum(one[close], other[close])
        near.append(first * len(rows) + second)  # several pieces may find a pair
    first, second = np.divmod(np.unique(np.concatenate(near)), len(rows))
    both = video[first] * len(paths) + video[second]
    by_first, by_second = (_often(both * FRAMES + place[frames]) for frames in (first, second))
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for pair in np.intersect1d(by_first, by_second).tolist():
        one, other = sorted(
            (paths[number] for number in divmod(pair, len(paths))), key=lambda path: groups[path]
        )
        pairs[groups[one], groups[other]].append((one, other))
    found = [Alike(sources, min(videos), len(videos)) for sources, videos in pairs.items()]
    return sorted(found, key=lambda alike: (-alike.pairs, alike.sources))


def _often(frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pairs of videos that have enough frames among these, each given as pair * FRAMES + place."""
    pairs, counts = np.unique(np.unique(frames) // FRAMES, return_counts=True)
    return pairs[counts >= _LEAST_FRAMES]


def _candidates(values: Hashes) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of places in `values`, among them all whose hashes differ in at most `_MOST_BITS` bits.

    A hash is cut into pieces, by which the others are looked up that have the same piece, or one that differs in a
    bit. That leaves a hundredth of all pairs to compare.
    """
    for piece in range(_PIECES):
        begin, end = 64 * piece // _PIECES, 64 * (piece + 1) // _PIECES
        keys = ((values >> np.uint64(begin)) & np.uint64((1 << (end - begin)) - 1)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange((1 << (end - begin)) + 1))
        for flip in (0, *(1 << bit for bit in range(end - begin))):
            # Each pair once: the later ones of the same key, or those of the partner if that is the larger one.
            own = keys[order]
            low = np.arange(1, len(own) + 1) if flip == 0 else starts[own ^ flip]
            high = np.where((own & flip) == 0, starts[(own ^ flip) + 1], low)
            yield from _spelled_out(order, low, high)


def _spelled_out(
    order: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield each `order[k]` with all of `order[low[k]:high[k]]`, about `_BLOCK` pairs at a time."""
    counts = high - low
    ends = np.cumsum(counts)
    cuts = np.unique(np.searchsorted(ends, np.arange(0, ends[-1], _BLOCK), side="right"))
    for first, last in itertools.pairwise([*cuts.tolist(), len(order)]):
        part = counts[first:last]
        within = np.arange(part.sum()) - np.repeat(np.cumsum(part) - part, part)
        yield np.repeat(order[first:last], part), order[np.repeat(low[first:last], part) + within]
