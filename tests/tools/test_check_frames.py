"""The comparison with the ffmpeg program: what it must notice, and that it finds nothing where nothing is."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import check_frames
from benchmarks import encodings

from .conftest import read_csv, run_tool

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg program here")
SAMPLE = [
    "h264, B-frames", "h264, edit list that discards", "h264, turned by 90", "mpeg4, two streams", "h264, cover",
    "h264, lower field first", "h264, two sizes", "h264, joined", "h264, long still, mkv", "mpeg4, avi",
    "mpeg1, raw", "vp9, alpha", "gif", "ffv1", "qtrle",
]  # fmt: skip


class Frames:
    """Frames of either side."""

    def __init__(
        self, images: list[np.ndarray], failure: str | None = None, pixel_aspect: str = "1:1"
    ) -> None:
        self._images = images
        self.failure = failure
        self.pixel_aspect = pixel_aspect

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._images)


def images(count: int, width: int = 12) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 200, (count, 10, width, 3), np.uint8))


def row(ours: Frames, program: Frames) -> check_frames.Row:
    return check_frames.compare("a", ours, program)


def test_the_same_frames_are_equal() -> None:
    found = row(Frames(images(4)), Frames(images(4)))
    assert (found.verdict, found.ours, found.program, found.first_difference) == ("equal", 4, 4, None)


def test_roundings_are_close() -> None:
    other = images(4)
    other[2][3, 4, 1] += 4
    found = row(Frames(images(4)), Frames(other))
    assert (found.verdict, found.first_difference, found.largest) == ("close", 2, 4)
    assert found.mean == pytest.approx(4 / (4 * 10 * 12 * 3))


@pytest.mark.parametrize("change", ["lost", "added", "repeated", "swapped", "brighter", "one pixel"])
def test_every_other_difference_is_noticed(change: str) -> None:
    other = images(4)
    if change == "lost":
        del other[3]
    elif change == "added":
        other.append(other[0])
    elif change == "repeated":
        other[2] = other[1]
    elif change == "swapped":
        other[1], other[2] = other[2], other[1]
    elif change == "brighter":
        other = [image + 2 for image in other]
    else:
        other[3][0, 0, 0] += 6
    assert row(Frames(images(4)), Frames(other)).verdict == "differs"
    assert row(Frames(other), Frames(images(4))).verdict == "differs"


def test_damage_is_only_agreed_on_if_both_say_so() -> None:
    damaged = Frames(images(2), "damaged at 0.08 s")
    assert row(damaged, Frames(images(4), "[error] invalid data")).verdict == "damaged"
    assert row(damaged, Frames(images(4))).verdict == "differs"
    assert row(Frames(images(4)), Frames(images(4), "[error] invalid data")).verdict == "unsaid"
    wrong = images(4)
    wrong[1] ^= 64
    assert row(damaged, Frames(wrong, "[error] invalid data")).verdict == "differs"


def test_another_size_is_only_right_for_pixels_that_are_not_square() -> None:
    stored = [np.full((10, 12, 3), level, np.uint8) for level in (0, 90)]
    wide = [np.full((10, 16, 3), level, np.uint8) for level in (0, 90)]
    assert row(Frames(wide), Frames(stored, pixel_aspect="4:3")).verdict == "resized"
    assert row(Frames(wide), Frames(stored)).verdict == "differs"
    assert row(Frames(wide), Frames(stored, pixel_aspect="3:2")).verdict == "differs"


def test_without_the_program_one_line_says_so(tmp_path: Path) -> None:
    done = run_tool("check_frames.py", tmp_path, "--ffmpeg", tmp_path / "none")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"{tmp_path / 'none'}: no such program; install ffmpeg, or name it with --ffmpeg"
    ]


def test_what_a_program_writes_is_read_and_its_complaints_are_heard(tmp_path: Path) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "sys.stdout.buffer.write(b'P6\\n2 1\\n255\\nabcdef' + b'P6\\n1 1\\n255\\nxyz' + b'P6\\n9 9\\n255\\nshort')\n"
        "print('[info] Output #0, image2pipe', '[info] Stream #0:0: Video: ppm, rgb24, 2x1 [SAR 4:3 DAR 8:3]',\n"
        "      '[h264] [error] invalid data', sep='\\n', file=sys.stderr)\n"
    )
    program.chmod(0o755)
    frames = check_frames.ProgramFrames(str(program), tmp_path / "a.mp4")
    assert [image.tobytes() for image in frames] == [b"abcdef", b"xyz"]
    assert frames.failure == "[h264] [error] invalid data"
    assert frames.pixel_aspect == "4:3"


def test_all_encodings_can_be_written_and_read(tmp_path: Path) -> None:
    """As many as this build of PyAV has encoders for."""
    names = [name for name in encodings.ENCODINGS if not name.startswith(("dirac", "dv"))]
    written, failed = encodings.write_all(tmp_path, names)
    assert len(written) >= 100, failed
    for name, path in written.items():
        ours = check_frames.OurFrames(path)
        frames = sum(1 for _ in ours)
        write = encodings.ENCODINGS[name][1]
        assert frames == write.frames if isinstance(write, encodings.Encoding) else frames > 0, name
        assert ours.failure is None or name == "h264, two sizes", name


@needs_ffmpeg
def test_a_sample_of_encodings(tmp_path: Path) -> None:
    names = list(encodings.write_all(tmp_path, SAMPLE)[0])
    done = run_tool("check_frames.py", tmp_path, "--csv", tmp_path / "frames.csv")
    verdicts = {row["video"].rpartition(".")[0]: row["verdict"] for row in read_csv(tmp_path / "frames.csv")}
    assert {*verdicts} == {*names}
    bad = {name for name, verdict in verdicts.items() if verdict in check_frames.BAD}
    # An ffmpeg complains of the joined ones; the tool knows why only where it has written them.
    assert bad <= encodings.EXPLAINED.keys()
    assert done.returncode == bool(bad)
