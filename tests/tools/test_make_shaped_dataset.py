"""Videos of UCF-101's shape: the official names, equal bytes for equal seeds, whole files however a run ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import make_shaped_dataset as shaped
from benchmarks.process_monitor import checkout_environment
from flow_cache import read_frames

from .conftest import ROOT, TOOLS, run_tool

LISTS = ROOT.parent / "shared" / "data" / "splits" / "ucf101"
TRAIN = [f"Diving/v_Diving_g{group:02d}_c{clip:02d}.avi" for group in (1, 2) for clip in (1, 2)]
TEST = ["Archery/v_Archery_g08_c01.avi", "Diving/v_Diving_g08_c01.avi"]


@pytest.fixture
def lists(tmp_path):
    """Write lists as the official ones are, with CRLF."""
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "classInd.txt").write_bytes(b"1 Archery\r\n2 Diving\r\n")
    rows = [f"{name} 2" if name.startswith("Diving") else f"{name} 1" for name in TRAIN]
    (folder / "trainlist01.txt").write_bytes("\r\n".join([*rows, ""]).encode())
    (folder / "testlist01.txt").write_bytes("\r\n".join([*TEST, ""]).encode())
    (folder / "testlist02.txt").write_bytes("\r\n".join([*TRAIN[:2], ""]).encode())
    return folder


def make(out, lists, *arguments):
    assert shaped.main([str(out), "--lists", str(lists), "--workers", "1", *map(str, arguments)]) == 0
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.avi"))}


def test_the_names_of_the_lists_are_written(lists, tmp_path, capfd):
    made = make(tmp_path / "out", lists)
    assert sorted(made) == sorted([*TRAIN, *TEST])
    assert "6 videos of 2 classes and 4 source groups, 6 written" in capfd.readouterr().out
    lengths = set()
    for name in made:
        frames = [frame.rgb for frame in read_frames(tmp_path / "out" / name, rgb=True)]
        assert {frame.shape for frame in frames} == {(48, 64, 3)}
        lengths.add(len(frames))
    assert 20 <= min(lengths) < max(lengths) <= 40
    assert len(set(made.values())) == 6

    kept = tmp_path / "out" / TRAIN[0]
    before = kept.stat().st_mtime_ns
    (tmp_path / "out" / TRAIN[1]).unlink()
    assert make(tmp_path / "out", lists) == made  # what was missing is written again, with the same bytes
    assert "1 written" in capfd.readouterr().out
    assert kept.stat().st_mtime_ns == before

    assert make(tmp_path / "part", lists, "--classes", 1) == {TEST[0]: made[TEST[0]]}
    assert make(tmp_path / "other", lists, "--classes", 1, "--seed", 1)[TEST[0]] != made[TEST[0]]


def test_an_interrupted_run_leaves_whole_files_and_goes_on(lists, tmp_path):
    names = [f"Archery/v_Archery_g{group:02d}_c{clip:02d}.avi" for group in range(1, 31) for clip in (1, 2)]
    (lists / "trainlist01.txt").write_text("".join(f"{name} 1\n" for name in names))
    out = tmp_path / "out"
    command = [sys.executable, TOOLS / "make_shaped_dataset.py", out, "--lists", lists, "--classes", "1"]
    with subprocess.Popen(
        [*map(str, command), "--workers", "1"],
        stderr=subprocess.PIPE,
        env=checkout_environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
    ) as run:
        while not any(out.rglob("*.avi")):
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        error = run.communicate()[1].decode()
    assert (run.returncode, error.count("\n")) == (130, 1), error
    found = sorted(path for path in out.rglob("*") if path.is_file() and path.name != shaped.MANIFEST_NAME)
    assert 0 < len(found) < len(names)
    assert all(path.suffix == ".avi" for path in found)
    assert all(len(list(read_frames(path))) >= shaped.MIN_FRAMES for path in found)
    assert set(make(out, lists, "--classes", 1)) >= set(names)


def test_every_class_has_a_look_of_its_own():
    looks = [shaped.look_of(number) for number in range(1, 102)]
    assert len(set(looks)) == 101
    for number in range(1, len(shaped.SHIRTS) + 1):
        clip = shaped.render(shaped.Source(number, 1, ()), "v_x_g01_c01.avi", seed=0)
        chroma = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)[..., 1:] for frame in clip]) - 128.0
        colourful = chroma[np.linalg.norm(chroma, axis=-1) > 30].mean(axis=0)
        assert np.argmax(np.array(shaped.SHIRTS) @ colourful) == number - 1


def test_other_folders_lists_and_seeds_are_refused(lists, tmp_path):
    out = tmp_path / "out"
    make(out, lists, "--classes", 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.avi").touch()
    for arguments, message in (
        ([out, "--seed", 1], "'seed': 0, "),
        ([tmp_path / "mine"], "mine holds other files than generated videos; name an empty or a new folder"),
        ([out, "--classes", 3], "--classes must be from 1 to 2 (2 are listed, there are 110 looks), got 3"),
        ([out, "--lists", tmp_path / "mine"], "mine lacks UCF's lists: expected trainlist01.txt"),
    ):
        done = run_tool("make_shaped_dataset.py", "--lists", lists, *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.real_data
@pytest.mark.skipif(not LISTS.is_dir(), reason="needs the lists of ../shared/data")
def test_all_of_ucf101_is_listed():
    sources = shaped.list_sources(LISTS)
    names = [Path(name) for source in sources for name in source.names]
    assert (len(names), len(set(names)), len(sources)) == (13320, 13320, 101 * 25)
    assert len({name.parent for name in names}) == 101
    assert (
        len({name.parent for source in shaped.list_sources(LISTS, 50) for name in map(Path, source.names)})
        == 50
    )
