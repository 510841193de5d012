"""The command's files about windows: a line a window, kept and completed by a run that goes on."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from twostream.cli.predict import main as predict

Video = Callable[..., Path]


def test_windows_are_written_as_they_are_decided_and_a_run_goes_on(
    saved_checkpoint: str, make_video: Video, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [str(make_video(name, 14)) for name in ("a.avi", "b.avi")]
    (bad := tmp_path / "bad.avi").write_text("no video")
    for suffix in ("jsonl", "csv"):
        windows, out = tmp_path / f"w.{suffix}", tmp_path / f"p.{suffix}"
        command = [
            saved_checkpoint,
            *videos,
            str(bad),
            f"--windows-out={windows}",
            "--window=8",
            "--every=1",
            "--fast",
        ]
        assert predict([*command, f"--out={out}"]) == 1
        whole = windows.read_bytes()
        if suffix == "jsonl":
            rows = [json.loads(line) for line in whole.splitlines()]
        else:
            rows = list(csv.DictReader(whole.decode().splitlines()))
        for video in videos:
            own = [row for row in rows if row["video"] == video]
            assert [int(row["window"]) for row in own] == list(range(len(own))) != []
            assert [int(row["last_frame"]) - int(row["first_frame"]) for row in own] == [7] * len(own)
            assert all(row["checkpoint"].endswith(" dis medium") for row in own)
        lines = out.read_bytes().splitlines(keepends=True)
        out.write_bytes(b"".join(lines[:-1]))  # as if interrupted during the second video
        assert predict([*command, f"--out={out}"]) == 1
        assert windows.read_bytes() == whole
        assert "--fast: flow by dis medium, trained with farneback opencv" in capsys.readouterr().err
    assert predict([*command]) == 2
    assert "is there already; name another, or use --overwrite" in capsys.readouterr().err
