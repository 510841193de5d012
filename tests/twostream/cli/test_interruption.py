"""Ctrl-C and SIGTERM while a trained model works: the exit status, what is said, and nothing half-written."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from interruption import SIGNALS, has_workers, holds, interrupt

from twostream.cli.predict import main as predict

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="finds the loader's workers in Linux's /proc"
)


@pytest.fixture
def checkpoint(tiny_run: Path) -> Path:
    return tiny_run / "checkpoints" / "best.ckpt"


@pytest.mark.parametrize(
    ("number", "status", "works"),
    [
        *((number, status, has_workers(2)) for number, status in SIGNALS),  # while it predicts
        (signal.SIGTERM, 143, holds("summary.csv")),  # while it writes
    ],
)
def test_an_evaluation_that_is_interrupted_leaves_no_half_file(
    number: int, status: int, works, checkpoint: Path, tmp_path: Path
) -> None:
    def arguments(out: Path) -> list[object]:
        return [checkpoint, "--device=cpu", "--data.workers=2", f"--out={out}"]

    ended = interrupt("twostream.cli.evaluate", arguments, number, works, tmp_path)
    assert ended.status == status, ended
    assert ended.error == "twostream-evaluate: error: interrupted; the same command goes on from there\n"
    written = {path.name for path in ended.out.iterdir()}
    assert "report.html" not in written
    assert not any(name.endswith(".part") for name in written)


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_predictions_that_are_interrupted_go_on(
    number: int, status: int, checkpoint: Path, tiny_videos: Path, tmp_path: Path
) -> None:
    def arguments(out: Path) -> list[object]:
        return [checkpoint, tiny_videos, "--device=cpu", f"--out={out / 'found.jsonl'}"]

    ended = interrupt("twostream.cli.predict", arguments, number, holds("found.jsonl"), tmp_path)
    assert (ended.status, ended.output) == (status, ""), ended
    found = ended.out / "found.jsonl"
    text = found.read_text()
    assert text.endswith("\n")
    videos = [json.loads(line)["video"] for line in text.splitlines()]
    count, error = ended.error.splitlines()
    # The last line need not be counted, as the signal may come just then.
    done = next(done for done in (len(videos), len(videos) - 1) if f"interrupted: {done} videos are" in error)
    assert f"{done} videos predicted" in count
    assert error.endswith(f"{36 - done} remain; the same command goes on from there, {found} is kept")

    assert predict([str(argument) for argument in arguments(ended.out)]) == 0
    assert found.read_text().startswith(text)
    videos = [json.loads(line)["video"] for line in found.read_text().splitlines()]
    assert videos == sorted(map(str, tiny_videos.rglob("*.avi")))
