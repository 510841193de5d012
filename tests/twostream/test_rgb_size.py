"""A run on a cache whose RGB frames are larger than the frames that flow is computed on."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from flow_cache import CacheReader
from twostream import Predictor, load_checkpoint
from twostream.cli.predict import main as predict
from twostream.cli.train import main as train
from twostream.data.loading import load_data
from twostream.data.module import ActionDataModule

Arguments = Callable[..., list[str]]
ReadRows = Callable[[Path], list[dict[str, str]]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own") / "cache"


@pytest.fixture(scope="module")
def own_size_run(cache: Path, tiny_arguments: Arguments) -> Path:
    """A finished run that made its cache itself: videos of 64x48, fields of 32x24, frames of 54x40."""
    arguments = tiny_arguments(cache.parent / "run", data__cache=cache, trainer__epochs=1)
    assert train([*arguments, "--flow.short_side=24", "--storage.rgb_short_side=40"]) == 0
    return cache.parent / "run"


def test_training_makes_the_cache_that_was_asked_for(own_size_run: Path, cache: Path) -> None:
    for path in cache.rglob("*.flow.zip"):
        with CacheReader(path) as reader:
            assert (reader.width, reader.height) == (32, 24)
            assert (reader.rgb_width, reader.rgb_height) == (54, 40)
    card = load_checkpoint(own_size_run / "checkpoints" / "best.ckpt").card
    assert card.flow["codec"]["rgb_short_side"] == 40


def test_predictions_are_those_of_the_report(
    own_size_run: Path,
    tiny_videos: Path,
    capsys: pytest.CaptureFixture[str],
    read_rows: ReadRows,
) -> None:
    checkpoint = own_size_run / "checkpoints" / "best.ckpt"
    assert Predictor(load_checkpoint(checkpoint), device="cpu").storage.rgb_short_side == 40
    rows = read_rows(own_size_run / "evaluation" / "predictions.csv")[:3]
    capsys.readouterr()
    videos = [str(tiny_videos / row["video"]) for row in rows]
    assert predict([str(checkpoint), *videos, "--json", "--device=cpu"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row, answer in zip(rows, answers, strict=True):
        assert answer["class"] == row["prediction"]
        assert answer["confidence"] == pytest.approx(float(row["confidence"]), abs=1e-6)


def test_clips_of_one_stream_are_those_of_both(own_size_run: Path) -> None:
    """The RGB stream alone sees no fields, but its crops are still measured in them."""
    config = load_checkpoint(own_size_run / "checkpoints" / "best.ckpt").card.data_config()
    both, rgb, flow = (
        ActionDataModule(config, streams, 0, load_data(config, streams))
        for streams in (("rgb", "flow"), ("rgb",), ("flow",))
    )
    for loaders in zip(both.train_dataloader(), rgb.train_dataloader(), flow.train_dataloader(), strict=True):
        pair, only_rgb, only_flow = loaders
        assert torch.equal(pair["rgb"], only_rgb["rgb"])
        assert torch.equal(pair["flow"], only_flow["flow"])


def test_evaluation_sees_the_middle_square_of_the_larger_frames(own_size_run: Path, cache: Path) -> None:
    config = load_checkpoint(own_size_run / "checkpoints" / "best.ckpt").card.data_config()
    videos = load_data(config)
    video = videos.split.test[0].path
    data = ActionDataModule(config, ("rgb",), 0, videos)
    seen = next(iter(data.test_dataloader()))["rgb"][0].numpy()  # (K, T, 3, 32, 32)
    with CacheReader(cache / videos.entries[video].cache_file) as reader:
        frames = reader.rgb(range(reader.num_frames))[:, :, 7:47]  # 4 of 32 columns are left out at each side
    # Shrinking keeps the mean of each colour: the middle frame of some stack has it.
    means = frames.reshape(len(frames), -1, 3).mean(axis=1)
    for mean in seen.reshape(-1, 3, 32 * 32).mean(axis=2):
        assert np.abs(means - mean).max(axis=1).min() < 1.5


def test_a_cache_of_another_rgb_size_is_refused_with_the_flag_that_matches_it(
    own_size_run: Path,
    cache: Path,
    tiny_cache: Path,
    tiny_arguments: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    assert train([*tiny_arguments(tmp_path / "a"), "--storage.rgb_short_side=40"]) == 2
    error = capsys.readouterr().err
    assert "rgb_short_side None (asked for: 40)" in error
    assert "made with (--storage.rgb_short_side null)" in error
    assert train([*tiny_arguments(tmp_path / "b", data__cache=cache), "--flow.short_side=24"]) == 2
    error = capsys.readouterr().err
    assert "rgb_short_side 40 (asked for: None)" in error
    assert "made with (--storage.rgb_short_side 40)" in error
