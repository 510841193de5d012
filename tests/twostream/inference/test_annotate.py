"""The drawn video: as many frames as the video, each drawn from what was decided by then."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from twostream.checkpoints import Checkpoint
from twostream.inference.annotate import AnnotatedVideo
from twostream.inference.predictor import Predictor
from twostream.inference.settings import WindowSettings

Make = Callable[..., Checkpoint]
Video = Callable[..., Path]


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize(
    ("frames", "window"), [(30, 12), (10, 12), (30, None)], ids=["windows", "short", "whole with windows"]
)
def test_every_frame_is_drawn_and_the_answer_is_the_same(
    make_checkpoint: Make, make_video: Video, tmp_path: Path, frames: int, window: int | None
) -> None:
    predictor = Predictor(make_checkpoint(), "cpu", windows=WindowSettings(window, every=4))
    video, out = make_video("a.avi", frames), tmp_path / "out.mp4"
    expected = predictor(video)
    with AnnotatedVideo(out, predictor.card.classes) as drawn:
        found = predictor(video, None, drawn)
        assert not drawn.pending
    np.testing.assert_allclose(found.decision, expected.decision, atol=1e-6)
    pictures = frames_of(out)
    height, width = 360, 480
    assert pictures.shape == (frames, height + 92, width + 260, 3)
    with av.open(str(out)) as container:
        assert container.streams.video[0].average_rate == 25
    source = frames_of(video)
    # The middle of the picture is the video's.
    middle = pictures[:, height // 2 - 60 : height // 2 + 60, width // 2 - 60 : width // 2 + 60].mean((1, 2))
    assert np.abs(middle - source[:, 16:32, 24:40].mean((1, 2))).max() < 12
    timeline = pictures[:, height + 8 : height + 66, 8:].astype(int)
    coloured = (np.ptp(timeline, axis=-1) > 60).sum((1, 2))
    decided = (frames - predictor.length) // 4 + 1 if frames >= predictor.length else 0
    assert (coloured[-1] > 0) == (decided > 0)
    assert coloured[0] == 0  # nothing is known before the first window ends


def test_names_that_are_too_long_are_cut(make_checkpoint: Make, make_video: Video, tmp_path: Path) -> None:
    predictor = Predictor(make_checkpoint(), "cpu", windows=WindowSettings(12, every=4))
    with AnnotatedVideo(tmp_path / "out.mp4", tuple(f"{n} Größe 走 " * 20 for n in range(3))) as drawn:
        predictor(make_video("a.avi", 14), None, drawn)
    assert len(frames_of(tmp_path / "out.mp4")) == 14
