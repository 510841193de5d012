"""Damaged videos through the decoder, a few; and that what must not be would be noticed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("resource", reason="memory cannot be limited on this system")
if not hasattr(os, "fork"):
    pytest.skip("needs fork", allow_module_level=True)

import fuzz_decoder
from flow_cache.errors import VideoError

from .conftest import read_csv, run_tool

FRAMES = [np.full((2, 3, 3), level, np.uint8) for level in range(4)]


@pytest.fixture
def whole(tmp_path: Path) -> fuzz_decoder.Video:
    hashes = fuzz_decoder.read(tmp_path, lambda path: iter(FRAMES))["frames"]
    return fuzz_decoder.Video("a", b"content", ".avi", hashes)


def outcome(
    whole: fuzz_decoder.Video, tmp_path: Path, decode: fuzz_decoder.Decode, mebibytes: int = 256
) -> str:
    told = fuzz_decoder.in_child(tmp_path, decode, mebibytes, 1)
    return fuzz_decoder.judge(0, whole, "flip", told).outcome


def ends(frames: list[np.ndarray], error: BaseException | None) -> fuzz_decoder.Decode:
    def decode(path: Path) -> Iterator[np.ndarray]:
        yield from frames
        if error is not None:
            raise error

    return decode


def test_each_outcome(whole: fuzz_decoder.Video, tmp_path: Path) -> None:
    named = VideoError("a.avi", "damaged", 2)
    wrong = [FRAMES[0], FRAMES[2]]
    assert outcome(whole, tmp_path, ends(FRAMES, None)) == "same"
    assert outcome(whole, tmp_path, ends(FRAMES[:2], named)) == "named"
    assert outcome(whole, tmp_path, ends(wrong, named)) == "late"
    assert outcome(whole, tmp_path, ends(FRAMES[:3], None)) == "silent"
    assert outcome(whole, tmp_path, ends([*FRAMES, FRAMES[0]], None)) == "silent"
    assert outcome(whole, tmp_path, ends(FRAMES[:2], KeyError("x"))) == "other error"
    refused = VideoError("a.avi", "damaged: the file cannot be read on (Cannot allocate memory)", 1)
    assert outcome(whole, tmp_path, ends(FRAMES[:1], refused)) == "refused memory"


def test_crashes_hangs_and_too_much_memory(whole: fuzz_decoder.Video, tmp_path: Path) -> None:
    def hang(path: Path) -> Iterator[np.ndarray]:
        while True:
            time.process_time()
        yield FRAMES[0]

    def crash(path: Path) -> Iterator[np.ndarray]:
        os._exit(3)
        yield FRAMES[0]

    def grow(path: Path) -> Iterator[np.ndarray]:
        yield np.zeros((1 << 29, 1), np.uint8)

    assert outcome(whole, tmp_path, hang) == "hang"
    assert outcome(whole, tmp_path, crash) == "crash"
    assert outcome(whole, tmp_path, grow) == "other error"  # a MemoryError


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    for cases in (6, 20):
        done = run_tool("fuzz_decoder.py", "--cases", cases, "--csv", table)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "20 cases, 0 broken promises" in done.stdout
    rows = read_csv(table)
    assert [int(row["number"]) for row in rows] == list(range(20))
    alone = run_tool("fuzz_decoder.py", "--first", 17, "--cases", 1, "--csv", tmp_path / "one.csv")
    assert alone.returncode == 0
    (row,) = read_csv(tmp_path / "one.csv")
    assert {**row, "mebibytes": ""} == {**rows[17], "mebibytes": ""}
