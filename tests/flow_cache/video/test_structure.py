"""Files whose boxes or times do not fit: what FFmpeg repairs without a word must be told, and nothing else."""

import itertools
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks import encodings
from flow_cache import Damage, read_frames
from flow_cache.errors import VideoError
from flow_cache.video.decoder import decode_file
from flow_cache.video.structure import find_break


def encode(path: Path, codec: str = "mpeg4") -> Path:
    suffix = path.suffix[1:]
    encodings.Encoding(codec, suffix, "yuvj420p" if codec == "mjpeg" else "yuv420p", frames=20)(path)
    return path


def places(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [packet.pos for packet in container.demux(video=0) if packet.size]


def read(path: Path) -> tuple[list[np.ndarray], VideoError | None]:
    frames: list[np.ndarray] = []
    try:
        frames.extend(image.copy() for image in decode_file(path, 1))
    except VideoError as error:
        return frames, error
    return frames, None


@pytest.mark.parametrize("suffix", ["avi", "mkv", "webm", "mp4", "ts"])
def test_whole_files_have_no_break(tmp_path: Path, suffix: str) -> None:
    codec = "libvpx" if suffix == "webm" else "mpeg4"
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    assert find_break(encode(tmp_path / f"a.{suffix}", codec)) is None


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
@pytest.mark.parametrize("suffix", ["avi", "mkv"])
@pytest.mark.parametrize("number", [1, 10, 19])
def test_a_cut_between_two_packets_is_named(tmp_path: Path, suffix: str, codec: str, number: int) -> None:
    whole = encode(tmp_path / f"whole.{suffix}", codec)
    expected, _ = read(whole)
    content, place = whole.read_bytes(), places(whole)[number]
    # The head of a packet stands before its data: 8 bytes in an AVI file, 7 of a block and its sizes in Matroska.
    before = (
        content.rindex(b"00dc", 0, place + 4) if suffix == "avi" else content.rindex(b"\xa3", 0, place + 1)
    )
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(content[:before])
    frames, error = read(cut)
    assert error is not None
    assert "the file was cut" in error.reason
    assert 1 <= len(frames) <= number
    assert number - len(frames) <= (0 if suffix == "mkv" else 1)
    assert error.frame == len(frames)
    assert all(np.array_equal(frame, other) for frame, other in zip(frames, expected, strict=False))


def test_a_lost_block_is_named_where_it_was(tmp_path: Path) -> None:
    """Bytes taken out of the middle: FFmpeg goes on at the next cluster."""
    whole = encode(tmp_path / "whole.mkv", "mjpeg")
    expected, _ = read(whole)
    content, place = whole.read_bytes(), places(whole)[8]
    lost = tmp_path / "lost.mkv"
    lost.write_bytes(content[: place - 3] + content[place + 40 :])
    frames, error = read(lost)
    assert error is not None
    assert 7 <= len(frames) <= 8
    assert all(np.array_equal(frame, other) for frame, other in zip(frames, expected, strict=False))


@pytest.mark.parametrize(("codec", "kept"), [("mjpeg", 18), ("mpeg4", 10)])
def test_frames_behind_a_lost_block_are_kept_where_they_do_not_lean_on_it(
    tmp_path: Path, codec: str, kept: int
) -> None:
    whole = encode(tmp_path / "whole.mkv", codec)
    expected, _ = read(whole)
    content, place = whole.read_bytes(), places(whole)[8]
    lost = tmp_path / "lost.mkv"
    lost.write_bytes(content[: place - 3] + content[place + 40 :])
    known = Damage()
    frames = [frame.rgb[..., ::-1] for frame in read_frames(lost, rgb=True, threads=1, damage=known)]
    assert len(known.gaps) >= 1 or known.reason
    numbers = [
        next((n for n, other in enumerate(expected) if np.array_equal(frame, other)), None)
        for frame in frames
    ]
    assert None not in numbers
    assert numbers == sorted(set(numbers))
    holes = [at for at, (a, b) in enumerate(itertools.pairwise(numbers), 1) if b != a + 1]
    assert holes == [gap.before for gap in known.gaps if 0 < gap.before < len(frames)]
    assert len(frames) >= min(kept, 7)


@pytest.mark.parametrize("number", range(60))
def test_any_damage_of_the_structure_is_a_break_or_none(tmp_path: Path, number: int) -> None:
    """Sizes and marks changed at random: the walk ends, and what it returns lies in the file."""
    rng = np.random.default_rng(number)
    for suffix in ("avi", "mkv"):
        content = bytearray(encode(tmp_path / f"whole.{suffix}").read_bytes())
        for _ in range(rng.integers(1, 30)):
            content[rng.integers(len(content))] = rng.integers(256)
        damaged = tmp_path / f"damaged.{suffix}"
        damaged.write_bytes(content[: rng.integers(1, len(content) + 1)])
        found = find_break(damaged)
        assert found is None or 0 <= found.position <= damaged.stat().st_size


def test_a_recording_that_was_not_ended_is_no_damage(tmp_path: Path) -> None:
    """The lengths of its segment and clusters are not known."""
    path = tmp_path / "a.mkv"
    live = {"live": "1"}
    encodings.Encoding("mpeg4", "mkv", container=live)(path)
    assert find_break(path) is None
    assert read(path)[1] is None


@pytest.mark.parametrize("threads", [1, 2])
def test_two_pictures_in_one_packet_are_no_damage(tmp_path: Path, threads: int) -> None:
    """As in the clips of UCF-101: pictures come out with the times of others."""
    _, write = encodings.ENCODINGS["mpeg4, packed B-frames"]
    write(tmp_path / "a.avi")
    plain = encodings.Encoding("mpeg4", "avi", b_frames=1, frames=13)
    plain(tmp_path / "plain.avi")
    expected, _ = read(tmp_path / "plain.avi")
    assert len(expected) == 13
    assert np.array_equal([image.copy() for image in decode_file(tmp_path / "a.avi", threads)], expected)


@pytest.mark.parametrize(
    "name", ["h264, B-frames, avi", "h264, B-frames with the times of decoding", "mpeg1, raw"]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_wrong_times_are_no_damage(tmp_path: Path, name: str, threads: int) -> None:
    (path,) = encodings.write_all(tmp_path, [name])[0].values()
    assert sum(1 for _ in decode_file(path, threads)) == 12
