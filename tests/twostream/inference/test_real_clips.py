"""On real clips a prediction on the fly is that through a cache file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from flow_cache import FlowSettings, PrecomputeConfig, StorageSettings, precompute, read_index
from twostream.checkpoints import Checkpoint
from twostream.data.annotations import VideoRecord
from twostream.data.dataset import ClipDataset
from twostream.inference.clips import predict_clips
from twostream.inference.predictor import Predictor


@pytest.mark.real_data
def test_a_prediction_on_the_fly_is_that_through_the_cache(
    real_data: Path, make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    flow = FlowSettings("tvl1", "fast", short_side=60)
    storage = StorageSettings(rgb=True, rgb_short_side=96)
    videos = tmp_path / "videos"
    videos.mkdir()
    for number, clip in enumerate(sorted((real_data / "jhmdb").rglob("*.avi"))[::150][:4]):
        (videos / f"{number}.avi").symlink_to(clip)
    summary = precompute(
        PrecomputeConfig(videos, tmp_path / "cache", flow, storage, workers=1), progress=False
    )
    assert summary.failures == []
    entries = {entry.video: entry for entry in read_index(tmp_path / "cache")}
    meta = flow.template(storage)
    made = {
        "parameters": dict(meta.parameters),
        "method": "tvl1",
        "codec": storage.as_dict(),
        "short_side": 60,
    }
    predictor = Predictor(make_checkpoint(flow=made, spatial="motion"), "cpu")
    names = predictor.model.names
    assert len(entries) == 4
    for video in entries:
        clips = ClipDataset(
            [VideoRecord(video, 0, "")],
            tmp_path / "cache",
            entries,
            config=predictor.data,
            streams=names,
            motion=True,
            clips={name: predictor.data.eval_clips_of(name) for name in names},
        )
        batch = {name: value[None] for name, value in clips[0].items() if isinstance(value, torch.Tensor)}
        expected = predict_clips(predictor.model, batch)
        for name, values in predictor(videos / video).probabilities.items():
            np.testing.assert_allclose(values, expected[name][0], atol=1e-6)
