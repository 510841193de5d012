"""Explain the answer for one video: what each stream saw, where and when it looked, and how streams were weighed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twostream.data.sampling import even_starts, middle_frames, without_repeats
from twostream.data.transforms import View, evaluation_views
from twostream.inference.attention import look
from twostream.inference.cached_video import CachedVideo, centre_clip
from twostream.inference.looks import StreamLook
from twostream.inference.predictor import Prediction, Predictor
from twostream.settings import StreamName


@dataclass(frozen=True)
class Explanation:
    """Why a model says what it says of a video.

    Attributes:
        prediction: what it says: the probabilities of every output, and the weights of the streams.
        classes: C names.
        target: the class that the heat of the looks speaks for: the most probable one.
        looks: by stream what it looks at in the centre clip, whose steps are spread over the whole video.
        frames: by stream the video's frame in the middle of each step that counts, (n,) int64, ascending; n is at most
            the number of steps, the others pad.
        views: by stream which part of the frame it sees, in pixels of the flow fields.
        num_frames: frames of the video.
        fps: frames per second; 0.0 if unknown.

    Example:
        >>> from pathlib import Path
        >>> from twostream import Predictor, load_checkpoint
        >>> predictor = Predictor(load_checkpoint("runs/videos/checkpoints/best.ckpt"), device="cpu")
        >>> from twostream.inference.cached_video import cached_video
        >>> video = sorted(Path("videos").rglob("*.avi"))[0]
        >>> with cached_video(predictor, video) as cached:
        ...     explanation = explain(predictor, cached, predictor(video))
        >>> explanation.target == explanation.prediction.decision.argmax()
        np.True_
        >>> explanation.looks["flow"].heat.ndim
        3
    """

    prediction: Prediction
    classes: tuple[str, ...]
    target: int
    looks: dict[StreamName, StreamLook]
    frames: dict[StreamName, npt.NDArray[np.int64]]
    views: dict[StreamName, View]
    num_frames: int
    fps: float


def explain(predictor: Predictor, cached: CachedVideo, prediction: Prediction) -> Explanation:
    """Look at the centre clip of a video, to say why it was predicted as it was.

    Args:
        predictor: the model.
        cached: the video, from `cached_video`.
        prediction: what the predictor says of it.

    Raises:
        DataError: the video is too short for a clip.
    """
    target = int(prediction.decision.argmax())
    entry, data = cached.entry, predictor.data
    frames, views = {}, {}
    for name in predictor.model.names:
        shape = data.clips_of(name)[0]
        starts, valid = without_repeats(even_starts(entry.runs, shape))
        frames[name] = middle_frames(starts[0][valid[0]], shape, entry.step)
        views[name] = evaluation_views(entry.height, entry.width, *data.views_of(name))[0]
    return Explanation(
        prediction,
        tuple(predictor.card.classes),
        target,
        look(predictor.model, centre_clip(predictor, cached), target),
        frames,
        views,
        entry.num_frames,
        entry.fps,
    )
