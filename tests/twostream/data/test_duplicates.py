import itertools

import cv2
import numpy as np
import pytest

from flow_cache import hash_of_video
from twostream.data.duplicates import Alike, find_alike, group_identical, hash_frame, spread


def scene(seed, height=120, width=160):
    """A smooth random picture, as films are; (H, W) uint8."""
    rough = np.random.default_rng(seed).integers(0, 256, (6, 8)).astype(np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


def bits(first, second):
    return (first ^ second).bit_count()


def test_the_same_file_under_several_names_is_found(tmp_path):
    for name, content in (("a", b"x" * 3_000_000), ("b", b"y"), ("c", b"x" * 3_000_000), ("d", b"z")):
        (tmp_path / name).write_bytes(content)
    contents = {name: hash_of_video(tmp_path / name) for name in "dcba"}
    assert group_identical({**contents, "e": "", "f": ""}) == [("a", "c")]


@pytest.mark.parametrize("seed", range(5))
def test_a_frame_keeps_its_hash_through_size_encoding_and_brightness(seed):
    frame = scene(seed)
    own = hash_frame(frame)
    _, encoded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 40])
    changed = {
        "size": cv2.resize(frame, (320, 256)),
        "encoding": cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE),
        "brightness": np.clip(frame * 0.8 + 10, 0, 255).astype(np.uint8),
        "colour": np.repeat(frame[..., None], 3, axis=2),
    }
    assert {name: bits(own, hash_frame(other)) <= 4 for name, other in changed.items()} == dict.fromkeys(
        changed, True
    )
    assert bits(own, hash_frame(scene(seed + 100))) > 8


def test_a_frame_that_shows_nothing_has_no_hash():
    assert hash_frame(np.full((48, 64), 3, np.uint8)) is None


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 6, 40, 41])
def test_frames_are_spread_evenly(frames):
    places = spread(frames)
    assert len(places) == min(frames, 5)
    assert len({*places}) == len(places)
    assert 0 <= min(places) <= max(places) < frames
    assert abs(min(places) - (frames - 1 - max(places))) <= 1


def hashes(*seeds):
    return [hash_frame(scene(seed)) for seed in seeds]


def test_sources_that_share_pictures_look_alike():
    found = find_alike(
        {
            "a/1": hashes(1, 2, 3, 4, 5),
            "a/2": hashes(2, 3, 6, 7, 8),  # of the same source
            "b/1": hashes(9, 3, 2, 10, 11),
            "c/1": hashes(1, 12, 13, 14, 15),  # one picture is not enough
            "d/1": hashes(20, 20, 20, 20, 20),
            "e/1": hashes(20, 21, 22, 23, 24),  # nor is one that is shown long
            "f/1": hashes(30, 31),  # a short video
            "g/1": hashes(31, 30),
            "h/1": [],
        },
        {path: path[0] for path in ("a/1", "a/2", "b/1", "c/1", "d/1", "e/1", "f/1", "g/1", "h/1")},
    )
    assert found == [Alike(("a", "b"), ("a/1", "b/1"), 2), Alike(("f", "g"), ("f/1", "g/1"), 1)]


def test_every_pair_is_compared_however_many_there_are():
    """More videos than are compared at once; each has one partner, far away in the list."""
    videos = {f"{n:03d}": hashes(1000 + 2 * (n % 75), 1001 + 2 * (n % 75)) for n in range(150)}
    found = find_alike(videos, {name: f"s{name}" for name in videos})
    assert {alike.videos for alike in found} == {(f"{n:03d}", f"{n + 75:03d}") for n in range(75)}
    assert find_alike({}, {}) == []


@pytest.mark.parametrize("seed", range(4))
def test_the_lookup_finds_what_comparing_every_pair_finds(seed):
    """Frames from one to a dozen bits beside each other, many of them with equal hashes, up to four from a source."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**63, 12)
    videos = {}
    for n in range(60):
        flips = [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 8), False)) for _ in range(5)]
        near = [int(rng.choice(centres)) ^ flip for flip in flips]
        videos[f"{n:02d}"] = near[: rng.integers(0, 6)]
    groups = {name: f"s{int(name) % 17}" for name in videos}
    expected = {}
    for one, other in itertools.combinations(videos, 2):
        close = np.array([[bits(a, b) <= 8 for b in videos[other]] for a in videos[one]])
        several = all(len({*videos[name]}) > 1 for name in (one, other))
        if several and groups[one] != groups[other] and min(close.any(axis).sum() for axis in (0, 1)) > 1:
            pair, names = zip(*sorted((groups[name], name) for name in (one, other)), strict=True)
            expected.setdefault(pair, []).append(names)
    found = find_alike(videos, groups)
    assert found
    assert {alike.sources: (alike.videos, alike.pairs) for alike in found} == {
        pair: (min(names), len(names)) for pair, names in expected.items()
    }
