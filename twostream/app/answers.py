"""What the page shows of one video, within limits of its size and length; nothing here knows of a web page."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import av

from flow_cache import one_line
from twostream.app.limits import Limits
from twostream.errors import DataError
from twostream.inference.cached_video import cached_video
from twostream.inference.explanation import explain
from twostream.inference.prediction_file import best_classes
from twostream.inference.predictor import Predictor
from twostream.reports.explanation_plots import TOP, plot_explanation
from twostream.reports.explanation_video import write_explanation_video

# What cameras and phones write. Lists of other files or addresses (HLS, DASH, concat) are left out on purpose: the file
# of a stranger must not choose what else is opened.
_FORMATS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,ogg,asf,flv"


@dataclass(frozen=True)
class Answer:
    """What is shown of a video.

    Attributes:
        best: by output ("fused", "rgb", "flow") the probabilities of its best five classes.
        picture: PNG, see `plot_explanation`.
        video: MP4, see `write_explanation_video`.
    """

    best: dict[str, dict[str, float]]
    picture: bytes
    video: bytes


def answer_video(predictor: Predictor, video: Path, limits: Limits) -> Answer:
    """Predict and explain a video that somebody gave.

    Raises:
        DataError: no video, too large, too long, or too short for a clip.
        VideoError: it cannot be read.
    """
    check_video(video, limits)
    prediction = predictor(video)
    classes = predictor.card.classes
    best = {name: dict(best_classes(p, classes, TOP)) for name, p in prediction.probabilities.items()}
    with tempfile.TemporaryDirectory(prefix="twostream-") as folder, cached_video(predictor, video) as cached:
        explanation = explain(predictor, cached, prediction)
        picture, film = Path(folder) / "picture.png", Path(folder) / "video.mp4"
        plot_explanation(explanation, picture)
        write_explanation_video(explanation, cached, film)
        return Answer(best, picture.read_bytes(), film.read_bytes())


def check_video(video: Path, limits: Limits) -> None:
    """Refuse what is no video file, and what is too large or too long, without decoding it.

    Raises:
        DataError: with what is allowed.
    """
    megabytes = video.stat().st_size / 1e6
    if megabytes > limits.megabytes:
        raise DataError(
            f"{video.name} has {megabytes:.1f} MB, at most {limits.megabytes} MB are allowed here; cut it, or ask for"
            " twostream-app --max-megabytes"
        )
    try:
        longer = _plays_longer(video, limits.seconds)
    except av.FFmpegError as error:
        raise DataError(f"{video.name} cannot be read as a video: {one_line(error.strerror)}") from error
    if longer:
        raise DataError(
            f"{video.name} is longer than {limits.seconds:g} s, which is all that is allowed here; cut it, or ask for"
            " twostream-app --max-seconds"
        )


def _plays_longer(video: Path, seconds: float) -> bool:
    """Tell whether a file's packets span more time; headers are not trusted, and recordings of browsers have none."""
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    with av.open(str(video), options=options) as container:
        if not container.streams.video:
            raise DataError(f"{video.name} holds no pictures; give a video file")
        stream = container.streams.video[0]
        first = None
        for count, packet in enumerate(container.demux(stream)):
            if not packet.size:
                continue  # the end
            time = packet.pts if packet.pts is not None else packet.dts
            if time is None or packet.time_base is None:
                time = count / (stream.average_rate or 25)  # a file without times
            else:
                time = time * packet.time_base
            first = time if first is None else min(first, time)
            if time - first > seconds:
                return True
    return False
