"""An explanation is of the video that it names: its frames, its answer, its times."""

from pathlib import Path

import numpy as np
import pytest

from flow_cache import read_frames
from twostream import Predictor, load_checkpoint
from twostream.data.transforms import apply_view
from twostream.inference.cached_video import cached_video, centre_clip
from twostream.inference.explanation import explain
from twostream.inference.playback import play


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(load_checkpoint(tiny_run / "checkpoints" / "best.ckpt"), device="cpu")


@pytest.fixture(scope="module")
def video(tiny_videos: Path) -> Path:
    return sorted(tiny_videos.rglob("*.avi"))[5]


def test_an_explanation_is_of_the_prediction_and_of_the_frames_it_names(
    predictor: Predictor, video: Path
) -> None:
    prediction = predictor(video)
    with cached_video(predictor, video) as cached:
        explanation = explain(predictor, cached, prediction)
        clip = centre_clip(predictor, cached)
        played = list(play(cached))
    assert not cached.cache.exists()
    assert explanation.prediction is prediction
    assert explanation.target == prediction.decision.argmax()
    frames = [frame.rgb for frame in read_frames(video, rgb=True)]
    assert explanation.num_frames == len(frames) == len(played)
    for index, frame in enumerate(played):
        assert frame.index == index
        assert np.abs(frame.rgb.astype(int) - frames[index]).mean() < 5  # stored as JPEG
        assert frame.flow.shape == (cached.entry.height, cached.entry.width, 3)
    for name, look in explanation.looks.items():
        count = len(explanation.frames[name])
        assert count == int(clip[f"{name}_valid"].sum())
        assert (np.diff(explanation.frames[name]) > 0).all()
        assert look.heat.shape[0] == len(look.steps) == predictor.data.clips_of(name)[0].steps
        assert look.steps[:count].sum() == pytest.approx(1, abs=1e-5)
    # The picture of each step is the frame of that number.
    look, size = explanation.looks["rgb"], predictor.data.clips_of("rgb")[1]
    for picture, index in zip(look.pictures, explanation.frames["rgb"], strict=True):
        seen = apply_view(explanation.views["rgb"], size, rgb=played[index].rgb[None])[0]
        np.testing.assert_array_equal(picture, seen[0].transpose(1, 2, 0))
