"""One video in, an answer out, wherever the video lies and whatever it is called."""

import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest

from flow_cache import VideoError
from twostream import Predictor, load_checkpoint


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(load_checkpoint(tiny_run / "checkpoints" / "best.ckpt"), device="cpu")


def test_outputs_are_those_of_a_prediction(predictor: Predictor, tiny_videos: Path) -> None:
    prediction = predictor(sorted(tiny_videos.rglob("*.avi"))[0])
    assert tuple(prediction.probabilities) == predictor.outputs == ("fused", "rgb", "flow")


def test_a_video_at_a_url_gets_the_same_answer(predictor: Predictor, tiny_videos: Path) -> None:
    local = sorted(tiny_videos.rglob("*.avi"))[0]
    folder = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").pipe(f"{folder}/C:a.avi", local.read_bytes())
    remote = predictor(f"{folder}/C:a.avi")
    assert str(remote.video).endswith("/C:a.avi")
    np.testing.assert_array_equal(remote.decision, predictor(local).decision)
    with pytest.raises(VideoError, match="no such file"):
        predictor(f"{folder}/none.avi")
