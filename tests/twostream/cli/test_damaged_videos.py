"""A damaged video whose good frames are kept: it is trained on, evaluated and predicted, and what was kept stays."""

import shutil
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from flow_cache import FlowSettings, PrecomputeConfig, StorageSettings, precompute, read_index
from twostream.cli.predict import main as predict
from twostream.cli.train import main as train


def damage(video: Path, number: int) -> None:
    """Overwrite most of one packet."""
    with av.open(str(video)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
    content = bytearray(video.read_bytes())
    content[packet.pos + 24 : packet.pos + packet.size] = bytes(packet.size - 24)
    video.write_bytes(content)


def test_training_evaluation_and_prediction_with_gaps(
    tiny_videos: Path,
    tiny_cache: Path,
    tiny_run: Path,
    tiny_arguments: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, cache = tmp_path / "videos", tmp_path / "cache"
    shutil.copytree(tiny_videos, root)
    shutil.copytree(tiny_cache, cache)
    victims = sorted(root.rglob("*.avi"))[::5]
    for video in victims:
        damage(video, 5)
    names = [video.relative_to(root).as_posix() for video in victims]
    summary = precompute(
        PrecomputeConfig(
            root,
            cache,
            FlowSettings("farneback"),
            StorageSettings(rgb=True),
            workers=1,
            damaged="skip-frames",
        ),
        progress=False,
    )
    assert (summary.failures, list(summary.parts)) == ([], names)
    before = {entry.video: entry for entry in read_index(cache)}
    assert [name for name, entry in before.items() if entry.partial == "gaps"] == names
    arguments = tiny_arguments(tmp_path / "run", data__root=root, data__cache=cache, trainer__epochs=1)
    assert train(arguments) == 0
    assert {entry.video: entry for entry in read_index(cache)} == before  # nothing was redone or removed
    assert "in the flow cache only in part" in (tmp_path / "run" / "evaluation" / "report.md").read_text()

    checkpoint = str(tiny_run / "checkpoints" / "best.ckpt")
    capsys.readouterr()
    assert predict([checkpoint, str(victims[0])]) == 1
    assert "frame 5: damaged" in capsys.readouterr().err
    assert predict([checkpoint, str(victims[0]), "--damaged", "skip-frames"]) == 0
    output = capsys.readouterr()
    assert str(victims[0]) in output.out
    assert "only a part of the video was looked at: frame 5: damaged" in output.err
